"""Runs one attack and measures it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks import ATTACKS, AttackResult, PackageAttack, ThreatModel, search
from advdpnp.attacks.info import describe
from advdpnp.attacks.protocol import RunOptions
from advdpnp.attacks.rows import Batch
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.run.components import STATIC_BATCH_SIZES

OURS = "advdpnp"


class TooLong(BaseException):
    """The attack exceeded its time. Not an Exception, because adapters turn these into a sentence about the attack."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TooLong in the block after so many seconds of processor time."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


COLUMNS = (
    "norm", "eps", "library", "attack", "accuracy", "verified", "refused", "median distance", "seconds", "forwards",
    "backwards", "note",
)  # fmt: skip
"""Of the table."""


def measure(norm: str, name: str, eps: str, model: nn.Module, x: Tensor, y: Tensor, seconds: int) -> dict[str, Any]:
    """Run an attack on all images at once.

    Args:
        seconds: of processor time, after which the attack is stopped.

    Returns:
        Norm, eps, library and attack; accuracy in percent; images broken of those that were right, false claims;
        median distance of the images found if it searches for the nearest; seconds of processor time, which other
        processes disturb least; forwards and backwards for each image that was right. Without numbers, ``note`` says
        why.
    """
    library = name.partition(":")[0] if ":" in name else OURS
    row: dict[str, Any] = {"norm": norm, "eps": eps, "library": library, "attack": name}
    try:
        attack = ATTACKS.make(name, threat=ThreatModel.parse(norm, eps), classes=10)
        begin = time.process_time()
        with at_most(seconds):
            found = AttackResult.concatenate(list(_results(attack, model, Batch(x, y, torch.arange(len(x))))))
    except TooLong:
        return {**row, "note": limit_note(seconds)}
    except AdvdpnpError as error:
        return {**row, "note": str(error)}
    taken = time.process_time() - begin
    right = found.clean_prediction == found.label
    distances = found.norm[right & torch.isfinite(found.norm)]
    nearest = bool(describe(attack).minimum_norm) and len(distances) > 0
    return {
        **row,
        "accuracy": 100 * int((~found.success).sum()) / len(x),
        "verified": int(found.success[right].sum()),
        "refused": int((found.refused[right] > 0).sum()),
        "median distance": float(distances.median()) if nearest else float("nan"),
        "seconds": taken,
        "forwards": float(found.forwards[right].double().mean()),
        "backwards": float(found.backwards[right].double().mean()),
        "note": getattr(attack, "notes", {}).get(getattr(attack, "attack", ""), ""),
    }


def settled(rows: list[dict[str, Any]], seconds: int) -> list[dict[str, Any]]:
    """The rows that ``seconds`` leave as they are; attacks that were stopped after less may end now."""
    stopped = {limit_note(limit) for limit in range(1, seconds)}
    return [row for row in rows if row["note"] not in stopped]


def limit_note(seconds: int) -> str:
    """The note of an attack that was stopped."""
    return f"stopped after {seconds} s"


def _results(attack: Any, model: nn.Module, batch: Batch) -> Iterator[AttackResult]:
    if isinstance(attack, PackageAttack):
        run = attack.run(model, batch, RunOptions(seed=0, batch_size=len(batch)))
        return (item for item in run if isinstance(item, AttackResult))
    size = STATIC_BATCH_SIZES["cpu"]
    return search(model, attack, batch.x, batch.y, batch.sample, seed=0, static_batch_size=size)
