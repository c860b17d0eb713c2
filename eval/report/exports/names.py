"""Names as papers print them: of attacks, columns, methods, data sets and threat models.

What is not known here, such as the attack of a plug-in, keeps its own name.
"""

import re
from pathlib import PurePath

DATASETS = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "Digits", "fashion-mnist": "Fashion-MNIST",
    "imagenet": "ImageNet", "mnist": "MNIST", "svhn": "SVHN",
}  # fmt: skip

METHODS = {
    "adv-dpnp": "Adv-DPNP", "ce": "Cross-entropy", "center": "Center loss", "dpnp": "DPNP", "dpp": "DPP",
    "ed-wta": "±ED-WTA", "fgsm-rs": "FGSM-RS", "mart": "MART", "pgd-at": "PGD-AT", "trades": "TRADES",
}  # fmt: skip

_COLUMNS = {
    "clean": "Clean", "worst_case": "Worst case", "corruptions": "Corruptions", "mce": "mCE", "fgsm": "FGSM",
    "cw": "C&W", "cw-l2": "C&W-L2", "autoattack": "AutoAttack", "autoattack-rand": "AutoAttack (rand)",
    "autoattack-few-classes": "AutoAttack (few classes)", "pyautoattack": "AutoAttack (pyautoattack)",
    "fast": "APGD-CE + APGD-T", "square": "Square",
}  # fmt: skip
_PREFIXES = ("pgd", "apgd", "fab")  # of names that papers print in capitals: pgd-20, apgd-ce, fab-t
_PACKAGES = ("torchattacks", "pyautoattack", "foolbox", "adv-lib", "art")
_NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$", "l0": r"$\ell_0$"}


def column_name(column: str) -> str:
    """Of a column of the leaderboard: "pgd-20" is PGD-20, "torchattacks:CW" is CW (torchattacks)."""
    name, bracket, note = column.partition(" (")
    package, colon, attack = name.partition(":")
    if colon and package == "transfer":
        return f"Transfer from {attack}{bracket}{note}"
    if colon and package in _PACKAGES:
        return f"{column_name(attack)} ({package}){bracket}{note}"
    known = _COLUMNS.get(name) or (name.upper() if name.partition("-")[0] in _PREFIXES else name)
    return known + bracket + note


def dataset_name(dataset: str) -> str:
    """Of a data set; of ``npz:PATH`` and ``folder:PATH`` the last part of the path without its ending."""
    kind, colon, path = dataset.partition(":")
    return PurePath(path).stem if colon and kind in ("npz", "folder") else DATASETS.get(dataset, dataset)


def threat_in_latex(norm: str, eps_text: str) -> str:
    r"""``$\ell_\infty$, $\epsilon = 8/255$``."""
    return rf"{_NORMS.get(norm, norm)}, $\epsilon = {eps_text}$" if norm else "clean images only"


def slug(text: str) -> str:
    """Small letters, digits and hyphens, for a label: "8/255" is 8-255."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
