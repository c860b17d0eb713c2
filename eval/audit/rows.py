"""Check the rows of a leaderboard against audited verdicts: equal numbers, complete provenance."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.audit.images import UnitAudit
from advdpnp.eval.store.key import short_hash
from advdpnp.eval.store.reader import StoredEvaluation

_HASH = re.compile("[0-9a-f]{64}")


def audit_rows(units: Sequence[StoredEvaluation], audits: Mapping[str, UnitAudit], leaderboard: Path) -> Iterator[str]:
    """What does not hold of the rows that a model's verdicts make, in words.

    Args:
        units: all evaluations of one model.
        audits: what was found of them, by hash; rows of which nothing was audited are passed over.
        leaderboard: a ``leaderboard.csv`` to compare with; where there is none, the record of each row is checked.
    """
    try:
        table = read_leaderboard(leaderboard) if leaderboard.exists() else None
    except AdvdpnpError as error:
        yield str(error)
        return
    for row in make_rows(units):
        found = {label: audits.get(unit.hash) for label, unit in _units(row).items()}
        mine = {label: each for label, each in found.items() if each is not None and each.judged}
        if not mine:
            continue
        name = f"{row.model.name}, {row.threat.label}"
        yield from (f"{name}: {gap}" for gap in provenance_gaps(row))
        if table is not None:
            yield from (f"{name}: {wrong}" for wrong in _differences(row, mine, table))


def provenance_gaps(row: Row) -> list[str]:
    """What a row does not tell about where it comes from: hashes, seed, versions, device, cost."""
    gaps = [] if _HASH.fullmatch(row.model.weights_hash) else ["the hash of the weights is missing"]
    gaps += [] if _HASH.fullmatch(row.data) else ["the hash of the data is missing"]
    gaps += ["the seed is missing"] if row.attacks and row.seed is None else []
    for label, unit in _units(row).items():
        run = unit.last_run
        lacking = [key for key in ("versions", "device", "date") if not run.get(key)]
        frame = unit.verdicts.frame
        lacking += [] if (frame["forwards"] > 0).all() else ["forwards"]
        lacking += [] if "seconds" in run else ["seconds"]
        gaps += [f"{label} does not tell its {', '.join(lacking)}"] if lacking else []
    return gaps


def _units(row: Row) -> dict[str, StoredEvaluation]:
    return {row.clean.label: row.clean, **row.attacks}


def _differences(row: Row, audits: Mapping[str, UnitAudit], table: pd.DataFrame) -> Iterator[str]:
    """Numbers of the table that are not those of what was judged again."""
    record = _record(row, table)
    if record is None:
        yield "leaderboard.csv has no row of it; make it again with advdpnp leaderboard"
        return
    hashes = [unit.hash for unit in (*_units(row).values(), *row.cells.values())]
    if record["n"] is pd.NA or int(record["n"]) != row.n or record["definitions"] != short_hash(sorted(hashes)):
        yield "leaderboard.csv was made from other verdicts; make it again with advdpnp leaderboard"
        return
    broken = {label: _broken(row, label, each) for label, each in audits.items()}
    if len(broken) == len(_units(row)) and row.attacks:
        broken["worst_case"] = np.logical_or.reduce(list(broken.values()))
    for label, each in broken.items():
        stated, found = float(record.get(label, np.nan)), round(100 * float(1 - each.mean()), 2)
        by = "when it is judged again" if label not in audits or audits[label].shown else "by its verdicts"
        if not abs(stated - found) < 0.005:
            yield f"{label} is {stated:.2f} in leaderboard.csv and {found:.2f} {by}"


def _broken(row: Row, label: str, audit: UnitAudit) -> np.ndarray:
    """Which samples were shown to be broken, bool (n,); where nothing can be shown, what the verdicts say."""
    return np.isin(row.samples, audit.broken) if audit.shown else row.misclassified_under(label)


def _record(row: Row, table: pd.DataFrame) -> Mapping[str, Any] | None:
    same = (table["model"] == row.model.name) & (table["weights_hash"] == row.model.weights_hash)
    same &= (table["data_hash"] == row.data) & (table["norm"] == row.threat.norm)
    if row.threat.norm:
        same &= np.isclose(table["eps"].astype(float), row.threat.eps) & (table["seed"] == row.seed).fillna(False)
    found = table[same]
    return None if found.empty else {str(name): value for name, value in found.iloc[0].items()}
