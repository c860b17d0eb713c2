"""BibTeX of what stands in a table: attacks, training methods, corruptions.

An attack goes by what its verdicts say it is (family, loss, stages, package), not by its column's name. What has no
entry in ``references.bib`` is named in a comment, with the reference that its registry entry gives.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from advdpnp.attacks import ATTACKS, AttackInfo
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.registry import Registry
from advdpnp.eval.analysis.rows import Row, order_attacks
from advdpnp.training.methods import METHODS

_BIBLIOGRAPHY = Path(__file__).with_name("references.bib")
_FAMILIES = {
    "fgsm": "goodfellow2015explaining", "pgd": "madry2018towards", "apgd": "croce2020reliable",
    "malt": "melamed2024malt", "pma": "xie2025towards", "fab": "croce2020minimally",
    "square": "andriushchenko2020square", "cw-l2": "carlini2017towards",
}  # fmt: skip
_PACKAGES = {
    "torchattacks": "kim2020torchattacks", "foolbox": "rauber2020foolbox", "adv-lib": "rony2020adversarial",
    "art": "nicolae2018adversarial",
}  # fmt: skip
_METHODS = {
    "adv-dpnp": "sabzevar2025deep", "center": "wen2016discriminative", "dpnp": "zareisabzevar2025deep",
    "dpp": "zareisabzevar2025deep", "ed-wta": "zareisabzevar2023prototype", "fgsm-rs": "wong2020fast",
    "mart": "wang2020improving", "pgd-at": "madry2018towards", "trades": "zhang2019theoretically",
}  # fmt: skip
_CORRUPTIONS = "hendrycks2019benchmarking"


def to_bibtex(rows: Sequence[Row]) -> str:
    """Comments that say what to cite for which name, then the entries, each once."""
    cited: dict[str, list[str]] = {}
    for label in order_attacks(rows):
        having = [row for row in rows if label in row.attacks]
        keys = [key for row in having for key in attack_keys(label, row.attack_infos[label], row.threat.norm)]
        cited[label] = list(dict.fromkeys(keys))
    for method in sorted({row.model.method for row in rows} - {"", "ce"}):  # plain cross-entropy needs no paper
        cited[method] = [_METHODS[method]] if method in _METHODS else []
    if any(row.cells for row in rows):
        cited["corruptions"] = [_CORRUPTIONS]
    lines = [_comment(name, keys) for name, keys in cited.items()]
    known = entries()
    wanted = dict.fromkeys(key for keys in cited.values() for key in keys)
    return "\n".join([*lines, "", *(f"{known[key]}\n" for key in wanted)])


def attack_keys(label: str, info: AttackInfo, norm: str = "") -> list[str]:
    """Keys of the entries to cite for an attack, the algorithm before the package; empty where none is known."""
    keys = [key for stage in info.stages or (info,) for key in _algorithm(stage, norm)]
    if info.stages and "croce2020reliable" in keys:  # the ensemble before its stages
        keys.insert(0, "croce2020reliable")
    package = label.partition(":")[0]
    return list(dict.fromkeys([*keys, *([_PACKAGES[package]] if package in _PACKAGES else [])]))


def entries() -> dict[str, str]:
    """All entries that are known, by key."""
    text = _BIBLIOGRAPHY.read_text(encoding="utf-8")
    return {match[1]: match[0] for match in re.finditer(r"^@\w+\{(\w+),\n.*?^\}$", text, re.DOTALL | re.MULTILINE)}


def _algorithm(info: AttackInfo, norm: str) -> Iterator[str]:
    if info.family in _FAMILIES:
        yield _FAMILIES[info.family]
    if info.family == "pgd" and info.loss == "margin":
        yield "carlini2017towards"  # the source of the loss
    if info.loss == "margin-targeted":
        yield "gao2022fast"
    if info.family == "apgd" and norm == "l1":
        yield "croce2021mind"


def _comment(name: str, keys: Iterable[str]) -> str:
    if found := ",".join(keys):
        return f"% {name}: \\cite{{{found}}}"
    return f"% {name}: no entry here; {_reference(name) or 'cite its source'}"


def _reference(name: str) -> str:
    """What the registry gives as the source of an attack or a method; "" if it has none."""
    registries: tuple[Registry, ...] = (ATTACKS, METHODS)
    for registry in registries:
        with suppress(AdvdpnpError):
            return registry.find(name)[0].reference
    return ""
