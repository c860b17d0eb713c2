"""A model's entry for RobustBench: the JSON of its folder ``model_info/DATASET/NORM/NAME.json``.

The keys and the text form of percentages are those of the files in RobustBench's repository (its ``ModelInfo``; version
1.1.1). What only the authors know (link, title, authors, venue, whether training saw other data, the accuracy that the
paper reports) is null, to be filled in.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.analysis.rows import Row

_BENCHMARK = {
    ("cifar10", "linf"): 8 / 255, ("cifar10", "l2"): 0.5, ("cifar100", "linf"): 8 / 255, ("imagenet", "linf"): 4 / 255,
    ("imagenet", "l2"): 3.0,
}  # fmt: skip
"""The radii that RobustBench ranks, by data set and norm."""
_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}


def to_model_info(rows: Sequence[Row]) -> str:
    """JSON text of the entry.

    Args:
        rows: of one model.

    Raises:
        AdvdpnpError: not exactly one row holds the standard AutoAttack under a threat model that RobustBench ranks.
    """
    fitting = [row for row in rows if _standard(row) and _is_ranked(row)]
    if len(fitting) != 1:
        ranked = ", ".join(f"{data} {norm} {eps:.4g}" for (data, norm), eps in _BENCHMARK.items())
        found = "; ".join(f"{row.dataset} {row.threat.label}, seed {row.seed}" for row in fitting)
        raise AdvdpnpError(
            f"an entry needs one evaluation by the standard autoattack under a threat model that RobustBench ranks "
            f"({ranked}), and here is "
            + (f"more than one: {found}; name a folder with one of them" if fitting else "none")
        )
    (row,) = fitting
    return json.dumps(_entry(row), indent=2) + "\n"


def _standard(row: Row) -> str:
    """Label of the standard AutoAttack, "" if it never ran; the one searched in float32 first."""
    labels = [label for label, info in row.attack_infos.items() if info.standard_autoattack]
    return min(labels, key=len, default="")


def _is_ranked(row: Row) -> bool:
    eps = _BENCHMARK.get((row.dataset, row.threat.norm))
    return eps is not None and math.isclose(eps, row.threat.eps, rel_tol=1e-6)


def _entry(row: Row) -> dict[str, Any]:
    robust = ~row.misclassified_under(_standard(row))
    worst = ~row.misclassified_under_any
    entry: dict[str, Any] = {
        "link": None, "name": None, "authors": None, "additional_data": None, "number_forward_passes": 1,
        "dataset": row.dataset, "venue": None, "architecture": row.model.architecture, "eps": row.threat.eps_text,
        "clean_acc": _percent(~row.clean_wrong), "reported": None, "autoattack_acc": _percent(robust),
    }  # fmt: skip
    if worst.sum() < robust.sum():  # as RobustBench calls what another attack has found
        entry["external"] = _percent(worst)
    if row.n < _IMAGES[row.dataset]:
        entry["footnote"] = f"Evaluated on {row.n:,} of the {_IMAGES[row.dataset]:,} test images."
    return entry


def _percent(right: Any) -> str:
    return f"{100 * float(right.mean()):.2f}"
