from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.image import imread

from advdpnp.base.plotting import model_colours, spread_labels
from advdpnp.eval.analysis.corruptions import corruption_record
from advdpnp.eval.analysis.curves import corruption_grids
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report.figures import draw_figures
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]
ROBUST = {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4, "autoattack": 0.35}


def test_all_figures_are_drawn_and_none_is_empty(store_model: Store, tmp_path: Path) -> None:
    cells = {(kind, severity): 0.9 - severity / 10 for kind in ("fog", "snow", "saturate") for severity in (1, 2, 3)}
    store_model("a", ROBUST, images=True, cells=cells)
    out = store_model("b", {**ROBUST, "cw": 0.3}, cells=cells)
    out = store_model("b", ROBUST, eps="4/255")
    paths = draw_figures([out], tmp_path / "figures")
    kinds = {path.name.split("-digits")[0].rsplit("-0", 1)[0] for path in paths}
    assert {"accuracy", "accuracy-against-eps", "corruptions-against-severity"} <= kinds
    assert sum(path.name.startswith("examples-") for path in paths) == 1
    assert sum(path.name.startswith("corruptions-") for path in paths) == 3
    assert len(paths) == len(set(paths)) == 7
    for path in paths:
        picture = imread(path)
        assert min(picture.shape[:2]) > 300
        white = (picture[..., :3].min(axis=2) > 0.99).mean()
        assert (0.35 if path.name.startswith("examples-") else 0.5) < white < 0.99, path.name
        assert picture.std() > 0.02
    assert plt.get_fignums() == []  # nothing is left in pyplot's global state


def test_transferred_images_are_a_matrix_and_no_panels(store_model: Store, tmp_path: Path) -> None:
    store_model("a", {**ROBUST, "transfer:b": 0.7})
    without = draw_figures([store_model("b", ROBUST)], tmp_path / "one")
    out = store_model("b", {**ROBUST, "transfer:a": 0.8, "transfer:c": 0.6})
    paths = draw_figures([out], tmp_path / "two")
    matrix = [path for path in paths if path.name.startswith("transfer-")]
    assert [path.name for path in matrix] == ["transfer-digits-linf-8_255.png"]
    assert imread(matrix[0]).std() > 0.02
    widths = [
        imread(next(p for p in some if p.name.startswith("accuracy-digits"))).shape[1] for some in (without, paths)
    ]
    assert widths[0] == widths[1]


def test_clean_rows_alone_draw_nothing(store_model: Store, tmp_path: Path) -> None:
    assert draw_figures([store_model("a", {"clean": 0.9})], tmp_path) == []


def test_the_same_verdicts_give_the_same_bytes(store_model: Store, tmp_path: Path) -> None:
    out = store_model("a", {"clean": 0.9, "pgd-20": 0.4})
    one, two = (draw_figures([out], tmp_path / name) for name in "12")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_colours_depend_on_the_names_alone() -> None:
    colours = model_colours(["a", "b", "c"])
    assert len(set(colours.values())) == 3
    assert colours == model_colours(["a", "b", "c"])


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [50.0, 51.0, 90.0], [99.0, 98.0, 97.0, 1.0], [5.0]])
def test_labels_keep_their_order_their_distance_and_their_bounds(values: list[float]) -> None:
    places = np.array(spread_labels(values, 5.0, 0.0, 100.0))
    order = np.argsort(values, kind="stable")
    assert (np.diff(places[order]) >= 5.0 - 1e-9).all()
    assert places.min() >= -1e-9
    assert places.max() <= 100 + 1e-9


def test_heat_maps_round_what_the_table_says(store_model: Store) -> None:
    """The mean of these cells is 54.5 %, and as a float 54.500000000000014."""
    right = dict(enumerate((102, 102, 110, 116, 115), start=1))
    rows = make_rows(find_results([store_model("net", ROBUST, cells={("fog", s): n / 200 for s, n in right.items()})]))
    ((grid,),) = corruption_grids(rows).values()
    assert grid.by_type["fog"] == corruption_record(rows[0])["corruption:fog"] == 54.5
    assert grid.percent.loc["fog"].tolist() == [51.0, 51.0, 55.0, 58.0, 57.5]
