"""What is stored of a model besides verdicts, against the model: its record, and the measurements behind flags."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from advdpnp.attacks.threat import ThreatModel
from advdpnp.datasets import Dataset
from advdpnp.eval.audit.images import Auditor
from advdpnp.eval.diagnostics import measure
from advdpnp.eval.run.results import identity_of
from advdpnp.eval.store.diagnostics_record import ABSENT, VERSION, DiagnosticRecord
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.models.loading import LoadedModel

_OF_CHECKPOINTS = (
    "method", "architecture", "parameters", "min_separation", "training_seconds", "recipe_hash", "training_seed",
    "dtype",
)  # fmt: skip
_ANY_MODEL = ("parameters", "dtype")  # a model of other projects has no header that says the rest
_CLOSE = 0.05  # numbers of one measurement on two machines


def wrong_record(stored: ModelRecord, loaded: LoadedModel, data: Dataset) -> Iterator[str]:
    """What the record of a model says otherwise than its checkpoint and the data set do, in words."""
    found = identity_of(loaded, data)
    for name in _OF_CHECKPOINTS if loaded.header else _ANY_MODEL:
        here, there = getattr(stored, name), getattr(found, name)
        if here != there:
            yield f"model.json says {name.replace('_', ' ')} {here or 'nothing'}; the model says {there or 'nothing'}"
    if stored.class_names and stored.class_names != found.class_names:
        yield "model.json has other names of classes than the data set"


def measured_again(auditor: Auditor, records: Sequence[DiagnosticRecord], static_batch_size: int) -> Iterator[str]:
    """What the measurements behind flags say otherwise than the model does when it is measured again, in words."""
    for record in records:
        if record.version != VERSION or record.data != auditor.split.content_hash:
            continue
        samples = np.arange(record.samples)
        x, y = (each.to(auditor.device) for each in (auditor.images(samples), auditor.split.some_labels(samples)))
        threat = ThreatModel.parse(record.norm, record.eps_text) if record.norm else None
        found = measure(auditor.model, x, y, static_batch_size=static_batch_size, seed=record.seed, threat=threat)
        about = f" under {record.norm} {record.eps_text}" if record.norm else ""
        others = {"outputs"}  # which earlier releases measured otherwise
        if _searched(found) != _searched(record.numbers):
            others |= {"rising", "rounded", "zero_start", "zero_gradient", "nan_gradient"}  # of other images
        for name in sorted((record.numbers | found).keys() - others):
            if not _alike(*(each.get(name, ABSENT[name]) for each in (found, record.numbers))):
                yield f"measured again{about}, {name.replace('_', ' ')} comes out otherwise than it is stored"


def _searched(numbers: dict[str, Any]) -> int:
    """How many images PGD was run on."""
    right = numbers.get("right", {})
    return max((len(digits) for name, digits in right.items() if name.startswith("pgd") and " " not in name), default=0)


def _alike(found: Any, stored: Any) -> bool:
    """Whether two machines may have measured these."""
    if isinstance(found, dict) and isinstance(stored, dict):
        return found.keys() == stored.keys() and all(_alike(found[name], stored[name]) for name in found)
    if isinstance(found, str) and isinstance(stored, str) and set(found + stored) <= set("01"):
        if len(found) != len(stored):
            return True  # of other images
        return sum(map(str.__ne__, found, stored)) <= _CLOSE * len(found)  # a digit per image
    if isinstance(found, float | int) and isinstance(stored, float | int) and not isinstance(found, bool):
        return abs(found - stored) <= _CLOSE * max(1.0, abs(found))
    return bool(found == stored)
