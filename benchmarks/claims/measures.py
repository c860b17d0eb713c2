"""Measurements that claims are judged by, each from stored results or from a checkpoint."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from advdpnp.base.statistics import SIGNIFICANT, holm
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.analysis.significance import compare_models
from advdpnp.eval.store.reader import find_results
from benchmarks.claims.findings import Finding, Verdict, of_difference, p_text


@cache
def _rows(folder: Path) -> list[Row]:
    return make_rows(find_results([folder]))


def against_rivals(
    folder: Path, ours: str, rivals: Sequence[str], column: str, what: str, *, competes: bool = False
) -> Finding:
    """One net against its rivals on the same images; the rival that comes nearest or leads decides.

    Args:
        column: of the leaderboard.
        what: the net and the data, in words.
        competes: the claim is only to compete with every rival.
    """
    found = pd.concat([compare_models(_rows(folder), ours, rival, [column]) for rival in rivals], ignore_index=True)
    found["p_holm"] = holm(found["p"].tolist())
    nearest = found.loc[found["difference"].idxmin()]
    verdict = of_difference(
        nearest["difference"], nearest["difference_low"], nearest["p_holm"], level=SIGNIFICANT, competes=competes
    )
    best, end = (f"the best of {len(rivals)} rivals (", ")") if len(rivals) > 1 else ("", "")
    return Finding(
        verdict,
        f"{what}, {nearest['n']} images: {nearest['a']:.1f} %, {best}{_method(nearest['model_b'])}{end} "
        f"{nearest['b']:.1f}; {nearest['difference']:+.1f} points "
        f"[{nearest['difference_low']:+.1f}, {nearest['difference_high']:+.1f}], {p_text(nearest['p_holm'])} (Holm)",
    )


def over_seeds(folder: Path, ours: str, rival: str, column: str, what: str, *, competes: bool = False) -> Finding:
    """Means over training seeds, compared by Welch's test over the seeds (``seeds.csv``)."""
    table = pd.read_csv(folder / "seeds.csv").set_index("group")
    mine, theirs = table.loc[ours], table.loc[rival]
    sign = -1 if theirs["against"] == ours else 1
    line = theirs if sign < 0 else mine
    difference, p = sign * line[f"{column}_difference"], line[f"{column}_difference_p"]
    low, high = sorted(sign * line[f"{column}_difference_{end}"] for end in ("low", "high"))
    return Finding(
        of_difference(difference, low, p, level=SIGNIFICANT, competes=competes),
        f"{what}, {int(mine['n'])} images, {int(mine['seeds'])} seeds: {mine[f'{column}_mean']:.1f} ± "
        f"{mine[f'{column}_std']:.1f} %, {theirs['method']} {theirs[f'{column}_mean']:.1f} ± "
        f"{theirs[f'{column}_std']:.1f}; {difference:+.1f} points [{low:+.1f}, {high:+.1f}], {p_text(p)} (Welch)",
    )


def geometry(folder: Path, name: str) -> dict[str, Any]:
    """What ``advdpnp geometry`` stored of a net; ``features`` by kind of image."""
    found: dict[str, Any] = json.loads((folder / name / "geometry.json").read_text(encoding="utf-8"))
    return {**found, "features": {each["kind"]: each for each in found["features"]}}


def compact_and_separate(folder: Path, ours: str, rivals: Sequence[str], what: str) -> Finding:
    """Distance between classes over spread within them, and MinSep, against the rivals.

    The claim holds if both are largest, and in part if one is.
    """
    found = {name: geometry(folder, name) for name in (ours, *rivals)}
    ratios = {name: each["features"]["clean"]["separation_ratio"] for name, each in found.items()}
    angles = {name: each["vectors"]["min_separation"] for name, each in found.items()}
    n = found[ours]["features"]["clean"]["n"]
    best = [max(rivals, key=values.__getitem__) for values in (ratios, angles)]
    leads = [ratios[ours] > ratios[best[0]], angles[ours] > angles[best[1]]]
    verdict: Verdict = "holds in part" if any(leads) else "does not hold"
    return Finding(
        "holds" if all(leads) else verdict,
        f"{what}, {n} images: between / within {ratios[ours]:.2f} ({best[0]} {ratios[best[0]]:.2f}), "
        f"MinSep {angles[ours]:.1f}° ({best[1]} {angles[best[1]]:.1f}°); no interval, one net each",
    )


def study(folder: Path, name: str, variant: str, column: str) -> pd.Series:
    """The values of a study's variant, one for each seed."""
    table = pd.read_csv(folder / f"{name}.csv")
    found: pd.Series = table.loc[table["variant"] == variant, column]
    if found.empty:
        raise ValueError(f"the study {name} has no variant '{variant}'; it has {', '.join(table['variant'].unique())}")
    return found


def _method(model: str) -> str:
    """ "trades" of "cifar10-trades-s0" and of "cifar10-resnet18-w16-trades-s0"."""
    return model.removeprefix("cifar10-").removeprefix("resnet18-w16-").rpartition("-s")[0]
