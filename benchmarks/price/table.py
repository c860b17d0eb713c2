"""Robust accuracy less AutoAttack's, and price, per net and attack, from verdicts alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.reader import StoredEvaluation, find_results
from benchmarks.price.nets import NETS, RESULTS, Net

AUTOATTACK = "autoattack"
STORED = ("fgsm", "pgd-20", "cw", AUTOATTACK)
"""Attacks whose verdicts the evaluations of these nets have stored."""


def stored_verdicts(net: Net, units: Sequence[StoredEvaluation]) -> dict[str, pd.DataFrame]:
    """The verdicts on a net among ``units`` by attack, with the sample as index."""
    units = [
        unit
        for unit in units
        if unit.model.name == net.name and unit.threat is not None and unit.threat.eps_text == net.eps
    ]
    newest_last = sorted(units, key=lambda unit: unit.date)  # of two definitions, the newer one counts
    return {unit.label: unit.frame for unit in newest_last if unit.label in STORED}


def rows_of(name: str, attacks: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per attack, on the images that all attacks have judged.

    Args:
        name: of the net.
        attacks: verdicts by attack, with the sample as index; AutoAttack's among them.

    Returns:
        Columns model, attack, n; robust (percent) and difference (points more than AutoAttack leaves); missed and
        beyond: images that AutoAttack alone breaks, and that it leaves and the attack breaks; passes: mean forwards and
        backwards of an image; share: of AutoAttack's passes; most: passes of the dearest image.

    Raises:
        AdvdpnpError: two attacks saw different images.
    """
    shared = sorted(set.intersection(*(set(frame.index) for frame in attacks.values())))
    frames = {label: frame.loc[shared] for label, frame in attacks.items()}
    reference = frames[AUTOATTACK]
    rows = []
    for label, frame in frames.items():
        if (frame[["label", "clean_prediction"]] != reference[["label", "clean_prediction"]]).to_numpy().any():
            raise AdvdpnpError(f"{label} and {AUTOATTACK} saw other images of {name}; search again on this machine")
        passes = frame["forwards"] + frame["backwards"]
        robust, left = ~frame["success"], ~reference["success"]
        more = int(robust.sum()) - int(left.sum())
        rows.append({
            "model": name, "attack": label, "n": len(shared), "robust": 100 * int(robust.sum()) / len(shared),
            "difference": 100 * more / len(shared), "missed": int((robust & ~left).sum()),
            "beyond": int((left & ~robust).sum()), "passes": passes.mean(),
            "share": passes.mean() / (reference["forwards"] + reference["backwards"]).mean(), "most": int(passes.max()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def all_rows(searched: pd.DataFrame, results: Path = RESULTS) -> pd.DataFrame:
    """The rows of every net that has verdicts in ``searched``, a table of ``benchmarks.price.search``."""
    folders = dict.fromkeys(net.results for net in NETS)
    stored = {folder: find_results([results / folder]) for folder in folders}
    parts = []
    for net in NETS:
        mine = searched[searched["model"] == net.name]
        if len(mine):
            found = {str(label): frame.set_index("sample") for label, frame in mine.groupby("attack")}
            parts.append(rows_of(net.name, {**stored_verdicts(net, stored[net.results]), **found}))
    return pd.concat(parts, ignore_index=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per attack over its nets, from cheap to dear.

    Returns:
        Columns attack, nets, images; difference (mean over the nets) and worst (of a net), in points; missed and beyond
        (sums); passes and share (means over the nets), most (of an image).
    """
    grouped = rows.groupby("attack")
    table = pd.DataFrame({
        "nets": grouped.size(), "images": grouped["n"].sum(), "difference": grouped["difference"].mean(),
        "worst": grouped["difference"].max(), "missed": grouped["missed"].sum(), "beyond": grouped["beyond"].sum(),
        "passes": grouped["passes"].mean(), "share": grouped["share"].mean(), "most": grouped["most"].max(),
    })  # fmt: skip
    return table.sort_values("passes").reset_index()
