"""What an attack is follows from its stored definition, or from what it declares, and never from its name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import advdpnp.attacks.info as module
from advdpnp.attacks import ATTACKS, AttackInfo, ThreatModel
from advdpnp.attacks.info import UNKNOWN_COST, by_cost, describe, info_of

LINF = ThreatModel.parse("linf", "8/255")


def made(name: str, classes: int = 10) -> AttackInfo:
    return describe(ATTACKS.make(name, threat=LINF, classes=classes))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("fgsm", "torchattacks:FGSM"),
        ("pgd-20", "torchattacks:PGD-20"),
        ("pgd-10", "torchattacks:PGD"),
        ("apgd-ce", "pyautoattack:apgd-ce"),
        ("apgd-t", "pyautoattack:apgd-t"),
        ("square", "pyautoattack:square"),
        ("autoattack", "pyautoattack"),
    ],
)
def test_an_attack_and_its_counterpart_in_a_package_are_the_same(ours: str, theirs: str) -> None:
    def known(info: AttackInfo) -> tuple[object, ...]:
        kinds = tuple((stage.family, stage.loss, stage.steps) for stage in info.stages or (info,))
        return kinds, info.uses_gradients, info.cost_rank, info.standard_autoattack

    assert known(made(ours)) == known(made(theirs))


def test_autoattack_is_recognised_by_its_stages() -> None:
    assert made("autoattack").standard_autoattack
    assert made("autoattack", classes=4).standard_autoattack
    assert made("autoattack-few-classes").few_classes_autoattack
    for name in ("autoattack-few-classes", "autoattack-rand", "fast", "torchattacks:AutoAttack", "square"):
        assert not made(name).standard_autoattack, name
    shorter = json.loads(json.dumps(ATTACKS.make("autoattack", threat=LINF, classes=10).definition()))
    shorter["stages"][-1]["queries"] = 100
    assert not info_of({"attack": shorter}).standard_autoattack


def test_the_standard_attacks_are_ordered_by_cost() -> None:
    names = ["fgsm", "pgd-20", "cw", "pgd-40", "apgd-ce", "apgd-t", "square", "autoattack"]
    assert by_cost({name: made(name) for name in reversed(names)}) == names
    assert made("autoattack-rand").cost_rank == 20 * (made("apgd-ce").cost_rank + made("apgd-dlr").cost_rank)


def test_an_unknown_definition_gets_the_defaults() -> None:
    for identity in ({}, {"attack": None}, {"attack": {"attack": "mine", "steps": 3}}, {"attack": {"stages": [1]}}):
        info = info_of(identity)
        assert (info.family, info.loss, info.cost_rank) == ("", "", UNKNOWN_COST), identity


def test_info_survives_json_and_invalid_fields_get_defaults() -> None:
    info = AttackInfo(
        family="pgd", loss="ce", steps=7, uses_gradients=True, cost_rank=14, stages=(AttackInfo("square"),)
    )
    stored = json.loads(json.dumps(info.to_json()))
    assert info_of({}, stored) == info
    damaged = stored | {"steps": "many", "uses_gradients": 1, "stages": {"a": 1}, "extra": 3}
    assert info_of({}, damaged) == AttackInfo(family="pgd", loss="ce", cost_rank=14)


def test_the_module_needs_no_torch() -> None:
    code = f"import runpy, sys; runpy.run_path({str(Path(module.__file__))!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
