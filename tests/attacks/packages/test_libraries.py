"""Attacks of foolbox, adv-lib and ART by their own names: run unchanged, verified and counted by us."""

import builtins
import random
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from advdpnp.attacks import AttackResult
from advdpnp.attacks.info import describe
from advdpnp.attacks.packages import foolbox
from advdpnp.attacks.packages.library_attack import LibraryAttack
from advdpnp.attacks.protocol import RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.base import compat
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.libraries import offered

MODULES = {"foolbox": "foolbox", "adv-lib": "adv_lib", "art": "art"}


def needs(name):
    library = name.partition(":")[0]
    if library in MODULES and find_spec(MODULES[library]) is None:
        pytest.skip(f"{library} is not installed")


def run(attack, model, x, y, **options):
    settings = {"seed": 0, "batch_size": 16, "device": "cpu", **options}
    items = list(attack.run(model, Batch(x, y, torch.arange(len(x))), RunOptions(**settings)))
    found = AttackResult.concatenate([item for item in items if isinstance(item, AttackResult)])
    return found[found.sample.argsort()], [item for item in items if isinstance(item, StageRecord)]


@pytest.mark.parametrize(
    ("name", "norm", "eps"),
    [
        ("foolbox:LinfPGD-20", "linf", 0.05), ("foolbox:FGSM", "linf", 0.05), ("foolbox:LInfFMN-20", "linf", 0.1),
        ("foolbox:L2DeepFool-10", "l2", 1.0), ("foolbox:DDN-10", "l2", 1.0), ("foolbox:L2CarliniWagner-5", "l2", 2.0),
        ("foolbox:L0FMN-20", "l0", 60), ("foolbox:SparseL1Descent-5", "l1", 10.0),
        ("foolbox:HopSkipJump-1", "linf", 0.5), ("foolbox:VirtualAdversarial-5", "l2", 2.0),
        ("adv-lib:fmn-20", "l1", 10.0), ("adv-lib:ddn-10", "l2", 1.0), ("adv-lib:alma-20", "l2", 2.0),
        ("adv-lib:pdpgd-20", "linf", 0.1), ("adv-lib:pdgd-100", "l2", 2.0), ("adv-lib:apgd-5", "linf", 0.03),
        ("adv-lib:sigma_zero-20", "l0", 100), ("adv-lib:pgd_linf-20", "linf", 0.05), ("adv-lib:tr-20", "linf", 0.1),
        ("art:ProjectedGradientDescent-5", "linf", 0.03), ("art:FastGradientMethod", "l2", 1.0),
        ("art:DeepFool-10", "l2", 1.0), ("art:CarliniL2Method-2", "l2", 2.0), ("art:SquareAttack-50", "linf", 0.1),
        ("art:AutoProjectedGradientDescent-5", "l2", 1.0),
    ],
)  # fmt: skip
def test_attacks_run_and_succeed_and_every_success_holds(net, images, labels, attack, name, norm, eps):
    needs(name)
    x, y = images[5:13], labels[5:13]
    made = attack(name, eps, norm)
    assert made.name == name
    assert isinstance(made, LibraryAttack)
    found, records = run(made, net, x, y)
    assert (len(found), len(records)) == (8, 1)
    assert bool(made.threat.contains(x, found.x_adv).all())
    with torch.no_grad():
        sure = ~found.borderline  # DeepFool stops on the boundary, where the batch size decides
        assert torch.equal((net(found.x_adv).argmax(1) != y)[sure], found.success[sure])
    if "CarliniL2Method" not in name:
        assert int(found.success.sum()) > 2
    assert int(found.forwards.min()) > 1
    distance = made.threat.distance(x, found.x_adv)
    assert torch.equal(found.norm[found.success], distance[found.success])


def test_counts_equal_those_of_the_steps(net, images, labels, attack):
    needs("foolbox")
    found, _ = run(attack("foolbox:LinfPGD-5", 0.03), net, images[5:13], labels[5:13])
    # Clean image, five steps, foolbox's own check, our check.
    assert set(found.forwards.tolist()) == {1 + 5 + 1 + 1}
    assert set(found.backwards.tolist()) == {5}


def test_a_minimum_norm_search_is_read_at_eps_and_keeps_its_distances(net, images, labels, attack):
    needs("adv-lib")
    near, _ = run(attack("adv-lib:fmn-50", 0.2, "l2"), net, images[5:21], labels[5:21])
    wide, _ = run(attack("adv-lib:fmn-50", 2.0, "l2"), net, images[5:21], labels[5:21])
    assert torch.equal(near.norm, wide.norm)
    assert torch.equal(near.success, near.norm <= 0.2)
    assert 0 < int(near.success.sum()) < int(wide.success.sum())
    assert int(near.refused.sum()) == 0  # an image outside eps is no false claim of such a search


class _Liar(LibraryAttack):
    """Claims every image: the clean one, one outside [0, 1], one outside eps, one that is not a number."""

    library = "torch"
    norms = ("linf",)
    minimum_norm = False

    def arguments(self, seed):
        return {}

    def craft(self, model, batch, seed, others):
        x_adv = batch.x.clone()
        x_adv[1], x_adv[2], x_adv[3] = 40.0, 1 - x_adv[2].round(), torch.nan
        if len(batch) > 4:  # wrong by far more than eps allows in one step, and outside [0, 1] by rounding alone
            x_adv[4:] = batch.x[4:] + 0.3 * torch.randn(batch.x[4:].shape).sign()
            x_adv[4:] = x_adv[4:].clamp(-4e-6, 1 + 4e-6)
        return x_adv, torch.ones(len(batch), dtype=torch.bool)


def test_false_claims_are_refused_and_counted(net, images, labels, attack):
    made = _Liar(attack("fgsm").threat, 10, "anything")
    found, _ = run(made, net, images[5:9], labels[5:9])
    assert found.refused.tolist() == [1, 1, 1, 1]
    assert not found.success.any()
    assert torch.isinf(found.norm[[0, 1, 3]]).all()
    assert torch.equal(found.x_adv, images[5:9])


def test_values_outside_the_bounds_by_rounding_are_clipped(net, images, labels, attack):
    made = _Liar(attack("fgsm", 0.31).threat, 10, "anything")
    found, _ = run(made, net, images[5:29], labels[5:29], batch_size=24)
    assert int(found.success[4:].sum()) > 2
    assert float(found.x_adv.min()) == 0
    assert float(found.x_adv.max()) == 1


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("foolbox:LinfPDG", "linf", "did you mean .*LinfPGD"),
        ("foolbox:nonsense-name", "linf", "foolbox has no attack called 'nonsense-name'; it has "),
        ("foolbox:LinfPGD", "l2", "does not support l2, only linf"),
        ("foolbox:FGSM-3", "linf", "sets 3 steps, but FGSM has none"),
        ("foolbox:Spatial", "linf", "shifts and turns"),
        ("foolbox:VirtualAdversarial", "l2", "write for example foolbox:VirtualAdversarial-10"),
        ("adv-lib:fnm", "linf", "did you mean .*fmn"),
        ("adv-lib:ddn", "linf", "does not support linf, only l2"),
        ("adv-lib:perc_al", "l2", "keeps to no norm"),
        ("art:DeepFol", "l2", "did you mean .*DeepFool"),
        ("art:AdversarialPatch", "l2", "art has no attack called"),
        ("art:DeepFool", "linf", "does not support linf, only l2"),
    ],
)
def test_unusable_names_are_one_sentence(attack, name, norm, message):
    needs(name)
    with pytest.raises(AdvdpnpError, match=message):
        attack(name, 0.1, norm)


@pytest.mark.parametrize(("name", "same"), [("linfpgd", "LinfPGD"), ("L2DeepFoolAttack", "L2DeepFool")])
def test_upper_case_and_the_word_attack_are_optional(attack, name, same):
    needs("foolbox")
    norm = "linf" if "linf" in name else "l2"
    assert attack(f"foolbox:{name}", 0.1, norm).name == f"foolbox:{same}"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("foolbox:FGSM", r"pip install 'advdpnp\[foolbox\]'"),
        ("art:DeepFool", r"pip install 'advdpnp\[art\]'"),
        ("adv-lib:fmn", "pip install --no-deps adv-lib"),
    ],
)
def test_a_missing_library_is_one_sentence_with_the_command(attack, monkeypatch, name, command):
    module = MODULES[name.partition(":")[0]]
    real = builtins.__import__

    def fail(wanted, *args, **kwargs):
        if wanted.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(compat.importlib, "import_module", fail)
    for loaded in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(AdvdpnpError, match=command):
        attack(name, 0.1, "l2" if name == "art:DeepFool" else "linf")


@pytest.mark.parametrize("name", ["foolbox:LinfPGD-3", "adv-lib:apgd-3", "art:ProjectedGradientDescent-3"])
def test_the_seed_determines_results_and_nothing_outside_changes(net, images, labels, attack, name):
    needs(name)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    net.train()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    state = {each: value.clone() for each, value in net.state_dict().items()}
    made = attack(name, 0.006)
    first, records = run(made, net, images[:24], labels[:24])
    with torch.no_grad():
        second, _ = run(made, net, images[:24], labels[:24])
    rest, _ = run(made, net, images[:24], labels[:24], done=records[:1])
    for field in vars(first):
        assert torch.equal(getattr(first, field), getattr(second, field)), field
        assert torch.equal(getattr(first, field)[rest.sample], getattr(rest, field)), field
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert all(module.training for module in net)
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert all(torch.equal(value, state[each]) for each, value in net.state_dict().items())


def test_a_walk_from_outside_starts_at_the_nearest_image_of_another_class(images, labels):
    batch, others = Batch(images[5:9], labels[5:9], labels[5:9]), Batch(images[5:], labels[5:], labels[5:])
    starts = foolbox._nearest_of_other_classes(batch, others)
    for x, y, start in zip(batch.x, batch.y, starts, strict=True):
        rest = [each for each, label in zip(others.x, others.y, strict=True) if label != y]
        assert torch.equal(start, min(rest, key=lambda each: float((each - x).norm())))
    alone = batch[torch.tensor([0])]
    assert foolbox._nearest_of_other_classes(alone, alone) is None


def test_tables_know_what_the_definition_says(attack):
    needs("adv-lib")
    assert describe(attack("adv-lib:fmn", 0.1)).minimum_norm is True
    assert describe(attack("adv-lib:apgd", 0.1)).minimum_norm is False


def test_the_names_of_installed_libraries_are_read_without_importing_them():
    assert all(len(names) > 10 for names in offered().values())
    assert {"torchattacks", "foolbox", "adv-lib", "art"} >= set(offered())
    assert "DeepFool" in offered()["torchattacks"]
    assert {"LGV", "VANILA"} & set(offered()["torchattacks"]) == {"VANILA"}
