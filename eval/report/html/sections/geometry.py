"""What ``advdpnp geometry`` has measured and drawn, where it lies below the folders of results."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from advdpnp.eval.report.html.context import PageContext
from advdpnp.eval.report.html.images import figure
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.tables import number

BUDGET = 1_500_000
"""Characters of all pictures; models beyond it have numbers only."""

_MEASURES = (
    ("mean_angle_to_own", "angle to own class", 1), ("mean_angle_to_nearest_rival", "angle to nearest rival", 1),
    ("within", "within", 2), ("between", "between", 2), ("separation_ratio", "between / within", 2),
    ("silhouette", "silhouette", 3),
)  # fmt: skip
_FIGURES = {
    "pca": "Features, PCA", "t-sne": "Features, t-SNE", "histogram": "Angles or distances of features",
    "centres": "Prototypes and centres beside the images", "prototypes": "Prototypes",
}  # fmt: skip
_NAMED = 20  # classes: a matrix of more is not legible


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    panels, spent = [], 0
    for path in _reports(context.folders):
        if (panel := _panel(path)) is None:
            continue
        if spent <= BUDGET:
            panel["figures"] = _figures(path.parent)
            spent += sum(len(shown) for _, shown in panel["figures"])
        panels.append(panel)
    numbers = {model.name: model.number for model in context.models}
    names = {row.model.name: row.model.class_names for row in context.named_rows}
    for panel in panels:
        panel["number"] = numbers.get(panel["name"])
        known, count = names.get(panel["name"], ()), len(panel["angles"])
        panel["classes"] = list(known) if len(known) == count else [str(label) for label in range(count)]
    measures, offered = [label for _, label, _ in _MEASURES], [(panel["number"], panel["name"]) for panel in panels]
    return {"panels": panels, "measures": measures, "choices": offered} if panels else None


def _reports(folders: Iterable[Path]) -> list[Path]:
    found = {path.resolve(): path for folder in folders for path in sorted(folder.rglob("geometry.json"))}
    return list(found.values())


def _panel(path: Path) -> dict[str, Any] | None:
    """What one ``geometry.json`` says; None if it is damaged."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        vectors = report["vectors"]
        angles = [[float(angle) for angle in line] for line in vectors["angles"]]
        return {
            "name": str(report["model"]),
            "dataset": str(report["dataset"]),
            "min_separation": float(vectors["min_separation"]),
            "bound": float(vectors["simplex_bound"]),
            "reachable": bool(vectors["bound_can_be_reached"]),
            "angles": angles if len(angles) <= _NAMED else [],
            "features": [
                (str(each["kind"]), [number(each.get(key), digits) for key, _, digits in _MEASURES])
                for each in report["features"]
            ],
            "figures": [],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged measurement is no reason to withhold the page


def _figures(folder: Path) -> list[tuple[str, str]]:
    found = [(title, figure(folder / f"geometry-{kind}.png")) for kind, title in _FIGURES.items()]
    return [(title, shown) for title, shown in found if shown]


SECTION = Section(
    "geometry",
    "Geometry",
    "Geometry of the classes",
    "Angles between the vectors of the classes, and how tightly features lie around them, clean and attacked. MinSep "
    "is the smallest angle; no arrangement of so many classes beats the simplex bound.",
    _gather,
)
