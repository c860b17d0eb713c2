"""What --attacks means."""

import re

import pytest

from advdpnp.attacks import ATTACKS, ThreatModel, resolve_attacks
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.names import check_attack, reference_of
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.registry import Registry

LINF = ThreatModel.parse("linf", "8/255")


@pytest.mark.parametrize(
    ("classes", "last"),
    [(2, "autoattack-few-classes"), (3, "autoattack-few-classes"), (4, "autoattack"), (10, "autoattack")],
)
def test_all_is_four_attacks(classes, last):
    assert [label for label, _ in resolve_attacks("all", LINF, classes)] == ["fgsm", "pgd-20", "cw", last]


def test_names_keep_their_order_without_duplicates():
    found = resolve_attacks(" pgd-7, fgsm,torchattacks:BIM ,pgd-7,pgd-007", LINF, 10)
    assert [label for label, _ in found] == ["pgd-7", "fgsm", "torchattacks:BIM"]
    assert [attack.name for _, attack in found] == ["pgd-7", "fgsm", "torchattacks:BIM"]
    assert found[0][1].steps == 7
    assert found[0][1].threat == LINF


def test_none_is_no_attack():
    assert resolve_attacks("none", LINF, 10) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("fgms", "did you mean fgsm"), ("", "no attack"), ("none,fgsm", "cannot be combined"), (" , ", "no attack")],
)
def test_invalid_names_raise(text, message):
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


@pytest.mark.parametrize(
    ("own", "reference"),
    [
        ("fgsm", "torchattacks:FGSM"),
        ("pgd-20", "torchattacks:PGD-20"),
        ("autoattack", "pyautoattack"),
        ("autoattack-few-classes", "pyautoattack"),
        ("square", "pyautoattack:square"),
        ("torchattacks:BIM", "torchattacks:BIM"),
        ("cw", None),
        ("apgd-dlr", None),
    ],
)
def test_counterparts_in_the_packages(own, reference):
    assert reference_of(own) == reference
    if reference is not None:
        assert ATTACKS.make(reference, threat=LINF, classes=10).name == reference


def test_the_reference_engine_uses_the_attacks_of_the_packages():
    found = resolve_attacks("all", LINF, 10, engine="reference")
    assert [label for label, _ in found] == ["torchattacks:FGSM", "torchattacks:PGD-20", "pyautoattack"]
    with pytest.raises(AdvdpnpError, match="no counterpart of 'cw'"):
        resolve_attacks("cw,fgsm", LINF, 10, engine="reference")
    with pytest.raises(AdvdpnpError, match="no engine called 'fast'"):
        resolve_attacks("fgsm", LINF, 10, engine="fast")


def test_l1_belongs_to_the_reference_engine():
    threat = ThreatModel.parse("l1", 12)
    assert [label for label, _ in resolve_attacks("autoattack", threat, 10, engine="reference")] == ["pyautoattack"]
    with pytest.raises(AdvdpnpError, match="adv-lib:fmn or pyautoattack"):
        resolve_attacks("autoattack", threat, 10)


def test_steps_of_package_attacks():
    attack = ATTACKS.make("torchattacks:PGD-7", threat=LINF, classes=10)
    assert attack.arguments(0)["steps"] == 7
    with pytest.raises(AdvdpnpError, match="FGSM has none"):
        ATTACKS.make("torchattacks:FGSM-7", threat=LINF, classes=10)


def test_an_error_in_a_builder_is_one_sentence():
    registry = Registry("attack", "advdpnp.no_such_group")

    @registry.register("tries-{count}", description="", reference="")
    def tries(count: str) -> int:
        return int(count)

    assert registry.make("tries-3") == 3
    with pytest.raises(AdvdpnpError, match="'tries-x' cannot be built: invalid literal"):
        registry.make("tries-x")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("MM-5", "mm-5"), ("mm", "mm-9"), ("mm5", "mm-9"), ("MM+", "mm-plus"), ("PMA+", "pma-plus"), ("MALT", "malt"),
        ("stong", "strong"), ("quick-aa", "quick"), ("PGD-20", "pgd-20"),
    ],
)  # fmt: skip
def test_names_as_papers_write_them_and_near_misses_say_what_is_meant(written, meant):
    with pytest.raises(AdvdpnpError, match=rf"no attack called '{re.escape(written)}'; did you mean {meant}\b"):
        resolve_attacks(written, LINF, 10)


def test_a_family_of_targets_says_how_many():
    with pytest.raises(AdvdpnpError, match=r"'x' in 'mm-x' is not a number of targets .*; write for example mm-5"):
        resolve_attacks("mm-x", LINF, 10)


def test_a_family_without_its_steps_suggests_some():
    with pytest.raises(AdvdpnpError, match="no attack called 'pgd'; did you mean pgd-20"):
        resolve_attacks("pgd", ThreatModel.parse("linf", "8/255"), 10)


@pytest.mark.parametrize(
    "name", ["clean", "n", "seed", "model", "worst_case", "fgsm_low", "corruption:fog", "my_mean", "a (bf16 search)"]
)
def test_an_attack_called_like_a_column_is_refused_when_it_is_registered(monkeypatch, name):
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    with pytest.raises(AdvdpnpError, match=f"the attack '{re.escape(name)}' needs another name: "):
        ATTACKS.register(name, description="a test")(lambda threat, classes: None)
    assert name not in ATTACKS.names()
    with pytest.raises(AdvdpnpError, match=f"the attack '{re.escape(name)}' needs another name: "):
        check_attack("own", PGD(LINF, name=name))


@pytest.mark.parametrize("name", ["all", "none", "", " own", "a,b", "two\nlines"])
def test_a_name_that_attacks_cannot_say_is_refused_when_it_is_registered(monkeypatch, name):
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    with pytest.raises(AdvdpnpError, match="needs a"):
        ATTACKS.register(name, description="a test")(lambda threat, classes: None)


@pytest.mark.parametrize("name", ["pgd-20", "pgd-{n}", "{anything}", "torchattacks:own"])
def test_an_attack_that_would_hide_another_is_refused(monkeypatch, name):
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    with pytest.raises(AdvdpnpError, match="would hide or be hidden by"):
        ATTACKS.register(name, description="a test")(lambda threat, classes: None)
    assert ATTACKS.make("pgd-20", threat=LINF, classes=10).steps == 20


@pytest.mark.parametrize(
    ("name", "meant"), [("aa", "autoattack"), ("AA", "autoattack"), ("PGD", "pgd-20"), ("FGSM", "fgsm"), ("c&w", "cw")]
)
def test_names_of_other_programs_get_a_hint(name, meant):
    with pytest.raises(AdvdpnpError, match=f"no attack called '{name}'; did you mean {meant}"):
        resolve_attacks(name, LINF, 10)
