"""The page: what it holds, what it escapes, and that it loads nothing. A browser looks at it in test_html_browser."""

import base64
import io
import itertools
import json
import re
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from advdpnp.corruption import BENCHMARK, EXTRA, SEVERITIES
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.html import to_html
from advdpnp.eval.report.html.images import picture
from advdpnp.eval.report.html.sections import SECTIONS
from advdpnp.eval.report.leaderboard import tabulate_rows, to_json, with_published
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.report.write import write_report
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]
ROBUST = {"clean": 0.9, "fgsm": 0.6, "pgd-20": 0.5, "cw": 0.48, "autoattack": 0.45}
CELLS = {("fog", 1): 0.8, ("fog", 2): 0.6, ("snow", 1): 0.7, ("my-own", 2): 0.5}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--"
VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """Elements of a page in order, with their attributes and text; complains where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[list[str]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append([])
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.texts[place].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of all elements of a kind; ``class_`` stands for class."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        return [
            (attributes, "".join(text))
            for (name, attributes), text in zip(self.elements, self.texts, strict=True)
            if name == tag and wanted.items() <= attributes.items()
        ]


def page_of(folder: Path) -> tuple[Page, str, pd.DataFrame]:
    rows = make_rows(find_results([folder]))
    frame = tabulate_rows(rows)
    text = to_html(frame, rows, [folder])
    return Page(text), text, frame


def charts_of(page: Page) -> list[Any]:
    data = page.all("script", type="application/json")
    return [json.loads(text) for attributes, text in data if "id" not in attributes]


def data_of(page: Page) -> Any:
    return json.loads(page.all("script", id="data")[0][1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, write_results: Callable[..., None]) -> Path:
    """Three models, one of them at two radii; nobody may write here."""
    out = tmp_path_factory.mktemp("page") / "results"
    write_results(out, "weak", {"clean": 0.95, "fgsm": 0.3, "pgd-20": 0.1, "cw": 0.08, "autoattack": 0.0}, n=50)
    write_results(out, "masked", {"clean": 0.9, "fgsm": 0.3, "pgd-20": 0.8, "cw": 0.3}, method="pgd-at")
    write_results(
        out, "strong", ROBUST, images=True, cells=dict.fromkeys(itertools.product(BENCHMARK, SEVERITIES), 0.7)
    )
    write_results(out, "strong", ROBUST, eps="16/255")
    return out


@pytest.fixture(scope="module")
def seen(results: Path) -> tuple[Page, str, pd.DataFrame]:
    return page_of(results)


def test_the_data_in_the_page_are_the_leaderboard(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, frame = seen
    assert data_of(page) == json.loads(to_json(frame))
    assert len(data_of(page)["rows"]) == 4
    assert [model["name"] for model in json.loads(page.all("script", id="models")[0][1])] == [
        "masked",
        "strong",
        "weak",
    ]


def test_every_number_of_the_leaderboard_stands_in_its_tables(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, frame = seen
    shown = [float(value) for attributes, _ in page.all("td") if (value := attributes.get("data-v"))]
    for name in ("clean", "fgsm", "pgd-20", "cw", "autoattack", "worst_case", "corruptions"):
        for value in frame[name].dropna():
            assert value in shown, (name, value)
    cell = next(text for attributes, text in page.all("td", class_="key") if attributes["data-v"] == "45.0")
    assert re.sub(r"\s", "", cell) == "45.0038.3–51.9"


def test_flags_come_with_what_was_seen_and_the_remedy(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, frame = seen
    assert frame.set_index("model").loc["masked", "flags"] == "order; ce-margin-gap"
    reasons = [text for _, text in page.all("div", class_="reason")]
    assert len(reasons) == 2
    assert "pgd-20 leaves 80.00 %, cw 30.00 %" in reasons[1]
    assert FLAGS["ce-margin-gap"].remedy in reasons[1]
    assert {text for _, text in page.all("button", class_="flag")} == {"order", "ce-margin-gap"}


def test_every_row_tells_where_it_comes_from(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, frame = seen
    details = [text for _, text in page.all("tr", class_="detail")]
    assert len(details) == len(frame)
    for column in ("weights_hash", "data_hash", "definitions", "device", "date", "versions", "command"):
        assert all(any(value in text for text in details) for value in frame[column]), column
    assert "16,800" in "".join(details)  # forwards: 4 attacks, 200 images, 21 each


def test_rows_are_marked_as_the_markdown_marks_them(store_model: Store) -> None:
    store_model("best", {"clean": 0.9, "fgsm": 0.5})
    store_model("near", {"clean": 0.9, "fgsm": 0.485})
    page, _, _ = page_of(store_model("far", {"clean": 0.9, "fgsm": 0.3}))
    assert [text for _, text in page.all("td") if "°" in text and "48.50" in text]
    assert not [text for _, text in page.all("td") if "°" in text and "30.00" in text]
    details = "".join(text for _, text in page.all("tr", class_="detail"))
    for words in ("Has the best worst case", "Not significantly below the best", "Significantly below the best"):
        assert details.count(words) == 1, words


def test_what_is_not_comparable_stands_in_different_tables(store_model: Store) -> None:
    store_model("a", {"clean": 0.9, "fgsm": 0.5}, cells=CELLS)
    store_model("b", {"clean": 0.9, "fgsm": 0.5}, cells=CELLS, source="cifar10-c")
    page, _, _ = page_of(store_model("c", {"clean": 0.9, "fgsm": 0.5}, norm="l2", eps="0.5"))
    captions = [text for _, text in page.all("caption", class_="hush") if "accuracy in percent" in text]
    assert len(captions) == 3
    assert sum("corruptions: cifar10-c;" in text for text in captions) == 1
    charts = charts_of(page)
    severities = [chart for chart in charts if chart.get("x") == "severity"]
    assert [[line["name"] for line in chart["series"]] for chart in severities] == [["b"], ["a"]]


def test_charts_hold_accuracies_and_intervals(store_model: Store) -> None:
    store_model("net", {"clean": 0.9, "fgsm": 0.5})
    page, _, frame = page_of(store_model("net", {"clean": 0.9, "fgsm": 0.2}, eps="16/255"))
    charts = charts_of(page)
    (curve,) = [chart for chart in charts if chart["kind"] == "lines"]
    assert [tick[1] for tick in curve["ticks"]] == ["clean", "8/255", "16/255"]
    assert [point[1] for point in curve["series"][0]["points"]] == [90, 50, 20]
    assert curve["series"][0]["points"][2][2:] == frame.loc[1, ["fgsm_low", "fgsm_high"]].tolist()
    assert [chart["points"][0]["y"][0] for chart in charts if chart["kind"] == "scatter"] == [50, 20]


def test_curves_over_other_images_are_other_charts(store_model: Store) -> None:
    store_model("a", {"clean": 0.9, "fgsm": 0.5})
    page, _, _ = page_of(store_model("b", {"clean": 0.9, "fgsm": 0.5}, n=100))
    charts = charts_of(page)
    assert [len(chart["series"]) for chart in charts if chart["kind"] == "lines"] == [1, 1]
    assert page.all("p", class_="notice")


def test_what_users_write_is_text_and_nothing_else(store_model: Store) -> None:
    """Names of models, methods, data and attacks may hold anything: no element and no attribute comes of it."""
    plain, _, _ = page_of(store_model("plain", {"clean": 0.9, "my-attack": 0.5}, method="m", dataset="digits"))
    page, text, _ = page_of(
        store_model(HOSTILE, {"clean": 0.9, f"x{HOSTILE}": 0.5}, method=HOSTILE, dataset=HOSTILE).parent / "results"
    )
    assert "alert(1)</script>" not in text
    assert "<img src=x" not in text
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {
        "option",
        "label",
        "select",
        "wbr",
    }
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE in [row["model"] for row in data_of(page)["rows"]]
    assert HOSTILE in [text for _, text in page.all("span") if "alert" in text]
    assert len(page.all("script")) == len(plain.all("script")) + 2  # of the charts of the second data set


def test_no_script_runs_but_the_pages_own(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, _ = seen
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0][0]["content"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in re.search(r"script-src[^;]*", policy)[0]
    running = [text for attributes, text in page.all("script") if attributes.get("type") != "application/json"]
    allowed = set(re.findall(r"sha256-[^']+", policy))
    assert {"sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode() for text in running} == allowed


def test_nothing_is_loaded_from_anywhere(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, text, _ = seen
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value[:80])
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}  # the name of a language
    assert "@import" not in text
    assert "url(" not in text


def test_tables_are_readable_to_machines(seen: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, _ = seen
    assert all(attributes.get("scope") in ("col", "row") for attributes, _ in page.all("th"))
    sorted_by = [text.strip() for attributes, text in page.all("th") if attributes.get("aria-sort") == "descending"]
    assert set(sorted_by) == {"worst case"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(attributes["aria-controls"] in ids for attributes, _ in page.all("button", class_="more"))
    assert all(attributes.get("alt") for attributes, _ in page.all("img"))


def test_every_section_shows_what_there_is_and_is_left_out_otherwise(
    seen: tuple[Page, str, pd.DataFrame], store_model: Store
) -> None:
    page, _, _ = seen
    found = [attributes["id"] for attributes, _ in page.all("section")]
    assert found == [section.key for section in SECTIONS if section.key not in ("geometry", "seeds", "published")]
    assert [attributes["href"] for attributes, _ in page.all("a")][1:] == [f"#{key}" for key in found]
    bare, _, _ = page_of(store_model("net", {"clean": 0.9}))
    assert [attributes["id"] for attributes, _ in bare.all("section")] == ["leaderboard", "about"]


def test_no_results_and_one_row_make_a_page(store_model: Store) -> None:
    page = Page(to_html(tabulate_rows([]), []))
    assert "There is nothing to show yet" in page.all("p", class_="empty")[0][1]
    assert not page.all("form")
    page, _, frame = page_of(store_model("only", {"clean": 0.9}))
    assert len(frame) == 1
    assert "There is no attack to compare by." in page.all("tr", class_="detail")[0][1]


def test_models_of_one_name_are_told_apart(store_model: Store) -> None:
    store_model("net", ROBUST, weights="a" * 64)
    page, _, _ = page_of(store_model("net", {**ROBUST, "fgsm": 0.7}, weights="b" * 64))
    assert [each["name"] for each in json.loads(page.all("script", id="models")[0][1])] == ["net (aaaa)", "net (bbbb)"]


def test_rows_have_a_rank_where_they_are_compared(tmp_path: Path, write_results: Callable[..., None]) -> None:
    for name, share, n in (("a", 0.5, 100), ("b", 0.5, 100), ("c", 0.4, 100), ("odd", 0.9, 50)):
        write_results(tmp_path, name, {"clean": 0.9, "fgsm": share}, n=n)
    page, _, _ = page_of(tmp_path)
    assert [text.strip() for _, text in page.all("td", class_="rank")] == ["–", "1", "1", "3"]


def test_one_net_under_two_names_is_told(store_model: Store) -> None:
    store_model("old", ROBUST, weights="a" * 64)
    out = store_model("new", ROBUST, weights="a" * 64)
    page, _, frame = page_of(out)
    assert any("new and old have the same weights" in text for _, text in page.all("p", class_="note"))
    assert "new and old have the same weights." in to_markdown(frame)


def test_extra_types_of_corruptions_stand_apart(store_model: Store) -> None:
    cells = dict.fromkeys(itertools.product((*BENCHMARK, *EXTRA), (1, 2)), 0.7)
    page, text, _ = page_of(store_model("net", {"clean": 0.9, "fgsm": 0.5}, cells=cells))
    apart = [attributes["title"] for attributes, _ in page.all("th", class_="apart")]
    assert apart == ["speckle noise (extra)", "speckle noise"]
    assert "extra types, which enter no mean" in text
    page, text, _ = page_of(store_model("other", {"clean": 0.9}, dataset="toy"))
    assert text.count("extra types, which enter no mean") == 1


def test_short_names_of_classes_are_not_turned(store_model: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(out: Path) -> list[bool]:
        page, _, _ = page_of(out)
        return ["slant" in str(attributes.get("class")) for attributes, _ in page.all("table")]

    out = store_model("net", {"clean": 0.9, "fgsm": 0.5})
    assert any(turned(out))
    monkeypatch.setattr(Row, "class_name", lambda row, label: str(label))
    assert not any(turned(out))


def test_pictures_are_upright() -> None:
    image = np.zeros((1, 4, 6), np.float32)
    image[0, 0, 5] = 1  # the right end of the first line
    with Image.open(io.BytesIO(base64.b64decode(picture(image).partition(",")[2]))) as drawn:
        assert drawn.size == (6, 4)
        assert drawn.getpixel((5, 0)) == 255


def test_transfer_has_a_matrix_of_its_own(store_model: Store) -> None:
    page, _, _ = page_of(store_model("net", {"clean": 0.9, "fgsm": 0.4, "transfer:other": 0.7}))
    (table,) = [text for _, text in page.all("table") if "made for other" in text]
    assert re.findall(r"\d+\.\d", table) == ["90.0", "70.0", "40.0"]


def test_examples_are_in_the_page_until_it_gets_large(store_model: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        out = store_model(name, {"clean": 0.5, "fgsm": 0.02}, n=200, images=True)
    page, text, _ = page_of(out)
    broken = [text for attributes, text in page.all("li", class_="broken")]
    assert len(broken) == 3 * 4  # of the first eight images four are broken
    assert len(page.all("img")) == 3 * (4 * 3 + 4)
    assert "zero" not in broken[0]
    assert "come without images" not in text
    monkeypatch.setattr("advdpnp.eval.report.html.sections.examples.BUDGET", 10)
    page, text, _ = page_of(out)
    assert len(page.all("img")) == 4 * 3 + 4
    assert "2 more evaluations come without images" in text


def test_damaged_pictures_and_measurements_do_not_withhold_the_page(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.9, "fgsm": 0.1}, images=True)
    (path,) = out.rglob("adversarials.parquet")
    path.write_bytes(b"no")
    (out / "geometry" / "net").mkdir(parents=True)
    (out / "geometry" / "net" / "geometry.json").write_text('{"model": "net"')
    page, _, _ = page_of(out)
    assert not {"examples", "geometry"} & {attributes["id"] for attributes, _ in page.all("section")}


def test_geometry_is_shown_where_it_was_measured(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.9, "fgsm": 0.1})
    folder = out / "geometry" / "net"
    folder.mkdir(parents=True)
    angles = [[0.0, 91.4], [91.4, 0.0]]
    vectors = {"angles": angles, "min_separation": 91.4, "simplex_bound": 180.0, "bound_can_be_reached": True}
    features = [{"kind": "clean", "mean_angle_to_own": 12.34, "silhouette": None}]
    report = {"model": "net", "dataset": "digits", "vectors": vectors, "features": features}
    (folder / "geometry.json").write_text(json.dumps(report))
    (folder / "geometry-pca.png").write_bytes(b"no picture")
    page, _, _ = page_of(out)
    section = page.all("section", id="geometry")[0][1]
    for text in ("91.40°", "180.00°", "12.3", "91"):
        assert text in section
    assert not page.all("img")


def test_a_page_of_many_models_stays_small(store_model: Store) -> None:
    for number in range(25):
        out = store_model(f"model-{number:02d}", {"clean": 0.9, "fgsm": number / 25}, n=20)
    page, text, _ = page_of(out)
    assert len(text) < 400_000
    assert len(page.all("tbody", data_m="24")) >= 3
    assert [json.loads(page.all("script", id="models")[0][1])[n]["mark"] for n in (0, 11, 24)] == [0, 1, 2]


def test_many_classes_are_cut_to_the_hardest(store_model: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdpnp.eval.report.html.sections.classes.SHOWN", 3)
    page, _, _ = page_of(store_model("net", {"clean": 1.0, "fgsm": 0.5}, n=15))  # classes 0 to 4 keep half their images
    section = page.all("section", id="classes")[0][1]
    assert "The 3 hardest of 10 classes" in section


def test_evaluations_and_tables_leave_the_page_and_its_neighbours(store_model: Store, tmp_path: Path) -> None:
    rows = make_rows(find_results([store_model("net", ROBUST)]))
    frame = write_report(rows, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"leaderboard.html", "leaderboard.csv", "per-class.csv", "agreement.csv"} <= names
    assert (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8") == to_html(frame, rows)
    assert len(pd.read_csv(tmp_path / "out" / "per-class.csv")) == 10 * 6
    assert len(pd.read_csv(tmp_path / "out" / "agreement.csv")) == 4 * 3


def test_a_page_of_the_same_verdicts_is_the_same_page(results: Path, seen: tuple[Page, str, pd.DataFrame]) -> None:
    assert page_of(results)[1] == seen[1]


def test_seeds_and_published_rows_have_their_sections(tmp_path: Path, write_results: Callable[..., None]) -> None:
    for seed, share in enumerate((0.4, 0.5)):
        name = f"net-s{seed}"
        write_results(tmp_path, name, {"clean": 0.9, "fgsm": share}, dataset="cifar10", recipe="aa", training_seed=seed)
    rows = make_rows(find_results([tmp_path]))
    ours = tabulate_rows(rows)
    alone, beside = (Page(to_html(frame, rows)) for frame in (ours, with_published(ours, rows)))
    assert [attributes["data-v"] for attributes, _ in alone.all("td", class_="key best")] == ["50.0"]
    assert any("45.00 ±\u00a07.07" in text for _, text in alone.all("td"))
    assert not alone.all("section", id="published")
    assert beside.all("section", id="published")
    assert any(text == "Bartoldson2024Adversarial_WRN-94-16" for _, text in beside.all("th", scope="row"))
    assert {str(attributes["href"])[:8] for attributes, _ in beside.all("a", rel="noreferrer")} == {"https://"}
    assert len(beside.all("tr", class_="line")) == len(ours)
    assert len(data_of(beside)["rows"]) > len(ours)


def test_a_row_over_other_images_is_marked_as_a_stranger(tmp_path: Path, write_results: Callable[..., None]) -> None:
    for name, n in (("one", 100), ("two", 100), ("odd", 50)):
        write_results(tmp_path, name, {"clean": 0.9, "fgsm": 0.4 if name == "one" else 0.5}, n=n)
    page, text, _ = page_of(tmp_path)
    assert text.count("†</sup>") == 1
    assert any("odd was judged on other images than the rest (n = 50)" in text for _, text in page.all("p"))
