"""What ``advdpnp geometry`` has measured and drawn, where it lies below the folders of results."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from advdpnp.base.untrusted.files import STRICT, Text, describe_fault, parse_json, read_bounded, validated
from advdpnp.eval.report.html.context import PageContext
from advdpnp.eval.report.html.images import figure
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.tables import number

_logger = logging.getLogger("advdpnp")

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
_LARGEST = 2**26  # bytes of a report: the angles of a thousand classes


class _Part(BaseModel):
    """What is read of a mapping that holds more."""

    model_config = STRICT | ConfigDict(extra="ignore")


class _Vectors(_Part):
    angles: list[list[float]]
    min_separation: float
    simplex_bound: float
    bound_can_be_reached: bool

    @field_validator("angles")
    @classmethod
    def _square(cls, angles: list[list[float]]) -> list[list[float]]:
        if any(len(line) != len(angles) for line in angles):
            raise ValueError("there is not one angle for each pair of classes")
        return angles


class _Features(_Part):
    kind: Text
    mean_angle_to_own: float | None = None
    mean_angle_to_nearest_rival: float | None = None
    within: float | None = None
    between: float | None = None
    separation_ratio: float | None = None
    silhouette: float | None = None


class _Report(_Part):
    model: Text
    dataset: Text
    vectors: _Vectors
    features: Annotated[list[_Features], Field(max_length=100)]


_REPORT = TypeAdapter(_Report)


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
    """What one ``geometry.json`` says; None if it is damaged, which is no reason to withhold the page."""
    try:
        report = validated(_REPORT, parse_json(read_bounded(path, _LARGEST), _LARGEST))
    except (OSError, ValueError) as error:
        _logger.warning("%s is damaged (%s) and not shown; measure it again with advdpnp geometry", path,
                        describe_fault(error))  # fmt: skip
        return None
    return {
        "name": report.model,
        "dataset": report.dataset,
        "min_separation": report.vectors.min_separation,
        "bound": report.vectors.simplex_bound,
        "reachable": report.vectors.bound_can_be_reached,
        "angles": report.vectors.angles if len(report.vectors.angles) <= _NAMED else [],
        "features": [
            (each.kind, [number(getattr(each, key), digits) for key, _, digits in _MEASURES])
            for each in report.features
        ],
        "figures": [],
    }


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
