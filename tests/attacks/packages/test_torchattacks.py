"""Attacks of torchattacks by their own names: as the package runs them, verified by us."""

import random

import numpy as np
import pytest
import torch

from advdpnp.attacks import ATTACKS, AttackResult, ThreatModel, search
from advdpnp.attacks.protocol import RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.base.compat import import_torchattacks
from advdpnp.base.errors import AdvdpnpError


def run(attack, model, x, y, **options):
    settings = {"seed": 0, "batch_size": 16, "device": "cpu", **options}
    items = list(attack.run(model, Batch(x, y, torch.arange(len(x))), RunOptions(**settings)))
    found = AttackResult.concatenate([item for item in items if isinstance(item, AttackResult)])
    return found[found.sample.argsort()], [item for item in items if isinstance(item, StageRecord)]


def test_results_equal_those_of_a_direct_call(net, images, labels, attack):
    found, _ = run(attack("torchattacks:BIM", "2/255"), net, images, labels, batch_size=64)
    with torch.no_grad():
        right = net(images).argmax(1) == labels
        reference = import_torchattacks().BIM(net, eps=2 / 255, alpha=2 / 255 / 4)
        with torch.enable_grad():
            x_adv = reference(images[right], labels[right])
        misclassified = net(x_adv).argmax(1) != labels[right]
    assert 5 < int(misclassified.sum()) < 50
    assert torch.equal(found.success[right], misclassified)
    assert torch.equal(found.x_adv[right][misclassified], x_adv[misclassified])
    assert bool(found.success[~right].all())


@pytest.mark.parametrize(
    ("name", "norm", "eps"),
    [
        ("FGSM", "linf", 0.02), ("PGD", "linf", 0.02), ("APGDT", "linf", 0.02), ("MIFGSM", "linf", 0.02),
        ("PIFGSM", "linf", 0.02), ("Square", "linf", 0.1), ("PGDL2", "l2", 1.0), ("DeepFool", "l2", 1.0),
        ("CW", "l2", 1.0), ("FAB", "l2", 1.0), ("GN", "linf", 0.5), ("EADL1", "l1", 50.0),
        ("EADEN", "l1", 50.0), ("OnePixel", "l0", 3), ("Pixle", "l0", 100), ("SparseFool", "l0", 60),
    ],
)  # fmt: skip
def test_many_classes_run_and_succeed(net, images, labels, attack, name, norm, eps):
    x, y = images[5:13], labels[5:13]
    made = attack(f"torchattacks:{name}", eps, norm)
    assert made.name == f"torchattacks:{name}"
    found, records = run(made, net, x, y)
    assert len(found) == 8
    assert len(records) == 1
    assert bool(made.threat.contains(x, found.x_adv).all())
    with torch.no_grad():
        assert torch.equal(net(found.x_adv).argmax(1) != y, found.success)
    if name not in ("GN", "CW", "OnePixel"):
        assert int(found.success.sum()) > 2
    assert int(found.forwards.min()) > 1


def test_the_step_size_keeps_its_ratio_to_eps(attack):
    assert attack("torchattacks:PGD", "8/255").arguments(0)["alpha"] == pytest.approx(2 / 255)
    assert attack("torchattacks:PGD", "16/255").arguments(0)["alpha"] == pytest.approx(4 / 255)
    assert attack("torchattacks:PIFGSM", "4/255").arguments(0) == {"max_epsilon": pytest.approx(4 / 255)}
    assert attack("torchattacks:OnePixel", 3, "l0").arguments(0) == {"pixels": 3}
    assert attack("torchattacks:FAB", 0.5, "l2", classes=7).arguments(5) == {
        "norm": "L2", "eps": 0.5, "n_classes": 7, "seed": 5,
    }  # fmt: skip


def test_autoattack_of_torchattacks_has_its_own_name(net, images, labels, attack):
    made = attack("torchattacks:AutoAttack", 0.02)
    found, _ = run(made, net, images[5:9], labels[5:9])
    assert int(found.success.sum()) > 2
    assert made.name == "torchattacks:AutoAttack"
    assert made.definition()["attack"] == "torchattacks:AutoAttack"
    assert made.definition()["note"].startswith("not AutoAttack")


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("PDG", "linf", "did you mean.*PGD"),
        ("nonsense-name", "linf", "it has VANILA"),
        ("pgd", "linf", "PGD"),
        ("PGD", "l2", "does not support l2"),
        ("CW", "linf", "does not support linf"),
        ("OnePixel", "linf", "does not support linf, only l0"),
        ("LGV", "linf", "needs trainloader"),
        ("MultiAttack", "linf", "needs attacks"),
    ],
)
def test_unusable_classes_raise_one_sentence(attack, name, norm, message):
    with pytest.raises(AdvdpnpError, match=message):
        attack(f"torchattacks:{name}", 0.1, norm)


def test_the_seed_determines_results_and_a_resumed_run_equals_a_full_one(net, images, labels, attack):
    made = attack("torchattacks:PGD", 0.006)
    first, records = run(made, net, images, labels)
    second, _ = run(made, net, images, labels)
    rest, _ = run(made, net, images, labels, done=records[:2])
    assert len(records) == 4
    assert len(rest) == 5 + 55 - 32
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
        assert torch.equal(getattr(first, name)[rest.sample], getattr(rest, name)), name
    other, _ = run(made, net, images, labels, seed=1)
    assert not torch.equal(first.x_adv, other.x_adv)


def test_leaves_generators_modes_gradients_and_buffers_alone(net, images, labels, attack):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    net.train()
    net[2].eval()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    run(attack("torchattacks:PGD"), net, images[:8], labels[:8])
    run(attack("torchattacks:Square"), net, images[:8], labels[:8])
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert [module.training for module in net] == [True, True, False, True, True, True, True]
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_channels_last(net, images, labels, attack):
    made = attack("torchattacks:PGDL2", 0.3, "l2")
    expected, _ = run(made, net, images, labels)
    x = images.to(memory_format=torch.channels_last)
    found, _ = run(made, net.to(memory_format=torch.channels_last), x, labels)
    assert int((found.success != expected.success).sum()) <= 1


def test_a_failing_attack_is_one_sentence(net, images, labels, attack, monkeypatch):
    package = import_torchattacks()
    monkeypatch.setattr(package.PGD, "forward", lambda *_: 1 / 0)
    with pytest.raises(AdvdpnpError, match=r"'torchattacks:PGD' fails.*division by zero"):
        run(attack("torchattacks:PGD"), net, images[:8], labels[:8])


def test_the_engine_does_not_search_for_a_package():
    attack = ATTACKS.make("torchattacks:PGD", threat=ThreatModel.parse("linf", "8/255"), classes=2)
    with pytest.raises(AdvdpnpError, match="run 'torchattacks:PGD' by "):
        next(
            search(
                None,
                attack,
                torch.rand(1, 1, 2, 2),
                torch.zeros(1).long(),
                torch.arange(1),
                seed=0,
                static_batch_size=1,
            )
        )
