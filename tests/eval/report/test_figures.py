from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import advdpnp
from advdpnp.base.plotting import _METHODS, Look, end_labels, looks, model_colours, signed_colours, spread_labels
from advdpnp.base.statistics import wilson
from advdpnp.cli import run
from advdpnp.corruption import BENCHMARK, EXTRA
from advdpnp.eval.analysis.corruptions import corruption_record
from advdpnp.eval.analysis.curves import (
    CommonWorstCase,
    corruption_grids,
    epsilon_curves,
    transferred_images,
    widest,
)
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report.figures import draw_figures, draw_rows
from advdpnp.eval.report.figures.epsilon_curve import _draw_curve
from advdpnp.eval.report.figures.study import _bounds, _legible_range
from advdpnp.eval.report.html.sections.corruptions import _by_severity
from advdpnp.eval.store.reader import find_results
from advdpnp.training.methods import METHODS

ROOT = Path(advdpnp.__file__).resolve().parent.parent
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


def test_figures_are_vectors_too_where_they_are_wanted(store_model: Store, tmp_path: Path) -> None:
    out = store_model("a", {"clean": 0.9, "pgd-20": 0.4}, images=True)
    rows = make_rows(find_results([out]))
    paths = draw_rows(rows, tmp_path)
    kinds = ("pdf", "svg")
    assert not any(path.with_suffix(f".{kind}").exists() for path in paths for kind in kinds)
    assert run(["leaderboard", str(out), "--out", str(tmp_path), "--vectors"]) == 0
    files = [path.with_suffix(f".{kind}") for path in paths for kind in kinds]
    first = [path.read_bytes() for path in files]
    assert [content[:5] for content in first] == [b"%PDF-", b"<?xml"] * len(paths)
    draw_rows(rows, tmp_path, vectors=True)
    assert [path.read_bytes() for path in files] == first
    drawn = [path for path in files if not path.name.startswith("examples")]  # sheets are kept where images are
    for path in drawn:
        path.write_bytes(b"of other numbers")
    draw_rows(rows, tmp_path)
    assert [path.read_bytes() for path in files] == first


def test_a_method_has_one_colour_wherever_it_is_drawn() -> None:
    alone, among = looks({"x": "trades"}), looks({"a": "pgd-at", "b": "trades", "c": "", "d": "", "e": "theirs"})
    assert alone["x"] == among["b"]
    assert len({look.colour for look in among.values()}) == 5
    seeds = looks({f"net-s{seed}": "adv-dpnp" for seed in range(5)})
    assert {look.colour for look in seeds.values()} == {0}
    assert [look.marker for look in seeds.values()] == ["o", "s", "^", "D", "o"]
    assert set(METHODS.names()) == set(_METHODS)
    foreign = looks({f"{number:02}": "" for number in range(25)})
    assert [tuple(foreign[name]) for name in ("00", "10", "11", "24")] == [(0, 0), (10, 0), (0, 1), (2, 2)]


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


def test_names_that_move_away_from_their_line_are_led_to_it() -> None:
    axes = Figure().subplots()
    axes.set_ylim(0, 100)
    ends = {"a": (1.0, 50.0), "b": (1.0, 50.5), "alone": (1.0, 90.0)}
    end_labels(axes, ends, dict.fromkeys(ends, "#000000"), 5.0)
    led = {text.get_text(): text.arrow_patch is not None for text in axes.texts}
    assert led == {"a  50.0": True, "b  50.5": True, "alone  90.0": False}


def test_differences_are_white_at_zero_and_differ_in_colour_by_size() -> None:
    shown = signed_colours(np.array([[0.0, 0.5, 1.0, -1.0]]), 1.0)[0]
    assert shown[0].min() > 0.95
    assert shown[1, 2] > shown[2, 2]  # paler in between
    assert shown[2, 0] > shown[2, 2]  # red above
    assert shown[3, 2] > shown[3, 0]  # blue below


def test_the_widest_interval_is_that_of_half_the_images() -> None:
    halves = [50 * (wilson(right, 40).high - wilson(right, 40).low) for right in range(41)]
    assert widest(40) == max(halves)


def test_the_attack_behind_transferred_images_is_named(store_model: Store) -> None:
    rows = make_rows(find_results([store_model("net", {**ROBUST, "transfer:b": 0.5})]))
    assert transferred_images(rows) == "images of PGD"  # the stored definition does not tell the steps
    stored = make_rows(find_results([ROOT / "results" / "cifar10-transfer"]))
    assert transferred_images(stored) == "images of PGD with 20 steps"


def test_curves_against_severity_have_the_interval_of_the_images(store_model: Store) -> None:
    cells = {("fog", 1): 0.6, ("snow", 1): 0.4}
    ((grid,),) = corruption_grids(make_rows(find_results([store_model("net", ROBUST, cells=cells)]))).values()
    (_, clean), (severity, mean) = grid.against_severity({"fog", "snow"})
    assert severity == 1
    assert (clean.value, mean.value) == (90, 50)
    assert (mean.low, mean.high) == pytest.approx([100 * each for each in wilson(100, 200)])


def test_means_on_the_page_leave_the_extra_corruptions_apart(store_model: Store) -> None:
    cells = {(kind, 1): 0.6 for kind in BENCHMARK} | {(kind, 1): 0.1 for kind in EXTRA}
    ((grid,),) = corruption_grids(make_rows(find_results([store_model("net", ROBUST, cells=cells)]))).values()
    ((severity, values, mean),) = _by_severity(grid, [*BENCHMARK, *EXTRA])
    assert (severity, len(values)) == (1, 19)
    assert mean == pytest.approx(60)


def test_bars_of_a_study_end_where_the_measure_does_and_are_never_cut() -> None:
    assert [end.tolist() for end in _bounds("rare_clean", np.array([-3.0, 50]), np.array([4.0, 104]))] == [
        [0, 50], [4, 100],
    ]  # fmt: skip
    assert _bounds("min_separation", 5.0, 190.0) == (5, 180)
    middle, spread = np.array([10.0, 50, 55]), np.array([9.0, 1, 30])
    low, high = _legible_range(middle, middle - spread, middle + spread)
    assert low < 1
    assert high > 85


def test_heat_maps_round_what_the_table_says(store_model: Store) -> None:
    """The mean of these cells is 54.5 %, and as a float 54.500000000000014."""
    right = dict(enumerate((102, 102, 110, 116, 115), start=1))
    rows = make_rows(find_results([store_model("net", ROBUST, cells={("fog", s): n / 200 for s, n in right.items()})]))
    ((grid,),) = corruption_grids(rows).values()
    assert grid.by_type["fog"] == corruption_record(rows[0])["corruption:fog"] == 54.5
    assert grid.percent.loc["fog"].tolist() == [51.0, 51.0, 55.0, 58.0, 57.5]


def test_two_points_are_no_curve(store_model: Store) -> None:
    axes = plt.figure().subplots()
    for eps, style in (("8/255", "None"), ("16/255", "-")):
        rows = make_rows(find_results([store_model("a", ROBUST, eps=eps)]))
        (curve,) = epsilon_curves(rows, CommonWorstCase.of(rows))
        _draw_curve(axes, curve, Look(0, 0))
        assert axes.lines[-1].get_linestyle() == style
        assert len(axes.lines[-1].get_xdata()) == (2 if style == "None" else 3)
    plt.close("all")
