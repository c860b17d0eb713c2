"""Charts as data: what the page's script draws, in the reader's colours and at the reader's width."""

from collections.abc import Sequence
from typing import Any

from advdpnp.eval.analysis.curves import Estimate
from advdpnp.eval.report.html.context import Model


def rounded(accuracy: Estimate) -> list[float]:
    """An accuracy and the ends of its interval, as charts hold them."""
    return [round(value, 2) for value in accuracy]


def series(model: Model, points: Sequence[tuple[float, Sequence[float]]]) -> dict[str, Any]:
    """One line: points are x and [y, low, high]; without an interval [y]."""
    return {"m": model.number, "name": model.name, "points": [[x, *values] for x, values in points]}


def lines(x: str, ticks: Sequence[tuple[float, str]], drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line chart of accuracies; ``ticks`` say where on the x axis what is written."""
    return {"kind": "lines", "x": x, "ticks": [list(tick) for tick in ticks], "series": list(drawn)}


def scatter(x: str, y: str, drawn: Sequence[tuple[Model, list[float], list[float]]]) -> dict[str, Any]:
    """A point per model, with the intervals of both accuracies."""
    points = [{"m": model.number, "name": model.name, "x": across, "y": up} for model, across, up in drawn]
    return {"kind": "scatter", "x": x, "y": y, "points": points}
