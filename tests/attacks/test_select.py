"""What --attacks means."""

import pytest

from advdpnp.attacks import ATTACKS, ThreatModel, resolve_attacks
from advdpnp.errors import AdvdpnpError

LINF = ThreatModel.parse("linf", "8/255")


@pytest.mark.parametrize(
    ("classes", "last"),
    [(2, "autoattack-few-classes"), (3, "autoattack-few-classes"), (4, "autoattack"), (10, "autoattack")],
)
def test_all_is_four_attacks(classes, last):
    assert [label for label, _ in resolve_attacks("all", LINF, classes)] == ["fgsm", "pgd-20", "cw", last]


def test_names_in_the_order_given_each_once():
    found = resolve_attacks(" pgd-7, fgsm,torchattacks:BIM ,pgd-7,pgd-007", LINF, 10)
    assert [label for label, _ in found] == ["pgd-7", "fgsm", "torchattacks:BIM"]
    assert [attack.name for _, attack in found] == ["pgd-7", "fgsm", "torchattacks:BIM"]
    assert found[0][1].steps == 7
    assert found[0][1].threat == LINF


def test_none_is_no_attack():
    assert resolve_attacks("none", LINF, 10) == []


@pytest.mark.parametrize(
    ("text", "message"), [("fgms", "did you mean fgsm"), ("", "no attack"), ("none,fgsm", "no attack")]
)
def test_nonsense_is_refused(text, message):
    with pytest.raises(AdvdpnpError, match=message):
        resolve_attacks(text, LINF, 10)


def test_the_registry_lists_them_with_their_sources():
    names = {entry.name for entry in ATTACKS}
    assert {
        "fgsm",
        "pgd-{steps}",
        "cw",
        "cw-l2",
        "autoattack",
        "autoattack-few-classes",
        "torchattacks:{attack}",
    } <= names
    assert all(entry.description and entry.reference for entry in ATTACKS)
