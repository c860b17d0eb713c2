"""Contradictions between the columns of one evaluation's verdicts."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from advdpnp.attacks.threat import ThreatModel
from advdpnp.eval.store.rules.known_data import KNOWN_DATA

_NO_ANSWER = -1  # the prediction where logits are not finite


def wrong_verdicts(columns: Mapping[str, np.ndarray], identity: Mapping[str, Any], classes: int = 0) -> str:
    """What no search can have written, in words; "" if nothing.

    Args:
        columns: those of ``FOUND``, each (n,).
        identity: what decides the verdicts.
        classes: how many the model is said to have; 0 if unknown.
    """
    known = KNOWN_DATA.get(str(identity.get("data")))
    size = known.size if known else np.iinfo(np.int64).max
    classes = max(classes, known.classes) if known and classes else 0
    for which, why in _broken_rules(columns, identity, size, classes or np.iinfo(np.int64).max):
        if which.any():
            count = int(which.sum())
            others = f" (and {count - 1:,} more)" if count > 1 else ""
            return f"sample {int(columns['sample'][which.argmax()])}{others} {why}"
    return ""


def _broken_rules(
    columns: Mapping[str, np.ndarray], identity: Mapping[str, Any], size: int, classes: int
) -> Iterator[tuple[np.ndarray, str]]:
    """Each rule: where it is broken, bool (n,), and what is said of such a sample."""
    sample, label, clean = (columns[name] for name in ("sample", "label", "clean_prediction"))
    yield (sample < 0) | (sample >= size), "is not in the data set"
    yield (label < 0) | (label >= classes), "has a label that is no class"
    yield (clean < _NO_ANSWER) | (clean >= classes), "has a prediction that is no class"
    threat = identity.get("threat")
    if identity.get("corruption") is None:  # predictions on corrupted images are stored once, so nothing can differ
        adversarial, norm = columns["adversarial_prediction"], columns["norm"]
        yield (adversarial < _NO_ANSWER) | (adversarial >= classes), "has a prediction that is no class"
        yield np.isnan(norm) | (norm < 0), "has a distance that is none"
        if threat is None:
            yield from _unattacked(columns)
        else:
            yield from _attacked(columns, identity, ThreatModel(threat["norm"], float(threat["eps"]), ""))


def _unattacked(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, str]]:
    clean, success = columns["clean_prediction"], columns["success"]
    yield columns["adversarial_prediction"] != clean, "has two predictions for its clean image"
    yield success != (clean != columns["label"]), "is right and counts as wrong, or the other way round"


def _attacked(
    columns: Mapping[str, np.ndarray], identity: Mapping[str, Any], threat: ThreatModel
) -> Iterator[tuple[np.ndarray, str]]:
    label, clean, adversarial = (columns[name] for name in ("label", "clean_prediction", "adversarial_prediction"))
    success, norm = columns["success"], columns["norm"]
    within, eps = threat.in_ball(norm), threat.eps
    targeted = bool((identity.get("attack") or {}).get("targets"))
    if not targeted:
        yield (clean != label) & ~success, "is misclassified unchanged and counts as robust"
        yield (clean != label) & (adversarial != clean), "is misclassified unchanged and was attacked all the same"
    yield success & (adversarial == label), "counts as broken, and its adversarial image is classified right"
    yield ~success & (adversarial != clean), "counts as robust, and its adversarial image is classified otherwise"
    yield success & ~within, f"counts as broken by an image at no finite distance within eps, which is {eps:.6g}"
    yield ~success & within, f"counts as robust, and an adversarial image of it lies within eps, which is {eps:.6g}"
    yield columns["zero_gradient"] & (columns["backwards"] == 0), "has a gradient of zero, and none was computed"
