"""Detections as a data frame: one line per model, score and kind of images; percentages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.randomness import seed_of
from advdpnp.base.statistics import Interval, wilson
from advdpnp.eval.detection.measures import separation
from advdpnp.eval.detection.run import OUTLIERS, Detection, ScoredImages

MEASURES = ("auroc", "aupr", "fpr95")
SHARES = ("flagged", "undetected_errors")


def to_frame(detections: Sequence[Detection], *, seed: int, facts: dict[str, Any]) -> pd.DataFrame:
    """The columns:

    model, method, score; kind ("clean", "outliers", "attack", "adaptive"); images: the name of the set;
    auroc, aupr, fpr95 of the positives against the negatives; flagged: share of the images above the threshold;
    undetected_errors: share of all images that are misclassified and not flagged (empty for outliers); each with _low
    and _high, its 95 % interval (bootstrap of the measures, Wilson of the shares), in percent;
    n: images; positives, negatives: numbers behind the measures; held_out: number behind the threshold; threshold.

    Args:
        detections: what ``detect`` found.
        seed: of the bootstrap.
        facts: constant columns.
    """
    records = []
    for each in detections:
        for images in (each.clean, *each.others):
            records.append(_record(each, images, seed) | facts)
    bounds = [f"{name}{side}" for name in (*MEASURES, *SHARES) for side in ("", "_low", "_high")]
    columns = ["model", "method", "score", "kind", "images", *bounds, "n", "positives", "negatives", "held_out",
               "threshold", *facts]  # fmt: skip
    return pd.DataFrame(records, columns=columns)


def _record(each: Detection, images: ScoredImages, seed: int) -> dict[str, Any]:
    positives, negatives = images.scores[images.positive], each.negatives(images)
    flagged = images.scores > each.threshold
    record: dict[str, Any] = {
        "model": each.model, "method": each.method, "score": each.score, "kind": images.kind, "images": images.name,
        "n": len(images.scores), "positives": len(positives), "negatives": len(negatives),
        "held_out": len(each.held_out), "threshold": each.threshold,
    }  # fmt: skip
    record |= _share("flagged", flagged)
    if images.kind != OUTLIERS:
        record |= _share("undetected_errors", images.misclassified & ~flagged)
    if len(positives) and len(negatives):
        found = separation(positives, negatives, seed=abs(seed_of("bootstrap", seed)))
        for name in MEASURES:
            measure = getattr(found, name)
            record |= _percent(name, measure.value, measure.interval)
    return record


def _share(name: str, which: np.ndarray) -> dict[str, float]:
    count, n = int(which.sum()), len(which)
    return _percent(name, count / n if n else math.nan, wilson(count, n))


def _percent(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: 100 * value, f"{name}_low": 100 * interval.low, f"{name}_high": 100 * interval.high}
