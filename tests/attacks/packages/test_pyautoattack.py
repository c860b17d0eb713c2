"""AutoAttack through pyautoattack: the same points as a direct call, resumable, and verified by us."""

import random

import numpy as np
import pytest
import torch

from advdpnp.attacks import AttackResult, ThreatModel
from advdpnp.attacks.packages import pyautoattack as module
from advdpnp.attacks.packages.pyautoattack import AutoAttack
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import PackageAttack, RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.base.compat import import_pyautoattack
from advdpnp.base.errors import AdvdpnpError

EPS = {"linf": 0.004, "l2": 0.06}
N = 40


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The package's defaults with fewer iterations, for both sides of a comparison."""
    package = import_pyautoattack()
    base = package.AutoAttack.__init__

    def init(self, *args, **kwargs):
        base(self, *args, **kwargs)
        self.square.n_queries = 30
        self.fab.n_iter = 5
        for apgd in (self.apgd, self.apgd_targeted):
            apgd.n_iter = 6
            apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = 2, 1, 1

    monkeypatch.setattr(package.AutoAttack, "__init__", init)


def run(attack, model, x, y, **options):
    settings = {"seed": 3, "batch_size": 16, "device": "cpu", **options}
    return list(attack.run(model, Batch(x, y, torch.arange(len(x)) + 100), RunOptions(**settings)))


def sorted_findings(items):
    found = AttackResult.concatenate([item for item in items if isinstance(item, AttackResult)])
    return found[found.sample.argsort()]


def direct(model, x, y, norm, seed=3, batch_size=16, targets=9, stages=None, eps=None):
    package = import_pyautoattack().AutoAttack(
        model,
        norm={"linf": "Linf", "l2": "L2"}[norm],
        eps=eps or EPS[norm],
        version="standard",
        seed=seed,
        device="cpu",
    )
    package.apgd_targeted.n_target_classes = package.fab.n_target_classes = targets
    package.attacks_to_run = stages or package.attacks_to_run
    state = torch.random.get_rng_state()
    x_adv, _ = package.run_standard_evaluation(x, y, batch_size=batch_size)
    torch.random.set_rng_state(state)
    with torch.no_grad():
        return x_adv, model(x_adv).argmax(1) != y


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("batch_size", [7, 16, 64])
def test_equals_a_direct_call(net, images, labels, norm, batch_size):
    x, y = images[:N], labels[:N]
    x_adv, misclassified = direct(net, x, y, norm, batch_size=batch_size)
    assert 6 < int(misclassified.sum()) < N - 5
    found = sorted_findings(run(AutoAttack(ThreatModel.parse(norm, EPS[norm]), 10), net, x, y, batch_size=batch_size))
    assert found.sample.tolist() == list(range(100, 100 + N))
    assert torch.equal(found.success, misclassified)
    assert torch.equal(found.x_adv[misclassified], x_adv[misclassified])


@pytest.mark.parametrize("stage", list(module.STAGES))
def test_every_stage_alone_equals_a_direct_call(net, images, labels, stage):
    x, y = images[:20], labels[:20]
    x_adv, misclassified = direct(net, x, y, "linf", stages=[stage], eps=0.02)
    assert int(misclassified.sum()) > 5
    found = sorted_findings(run(AutoAttack(ThreatModel.parse("linf", 0.02), 10, stages=(stage,)), net, x, y))
    assert torch.equal(found.success, misclassified)
    assert torch.equal(found.x_adv[misclassified], x_adv[misclassified])


def test_another_seed_is_another_search(net, images, labels):
    attack = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10)
    first = sorted_findings(run(attack, net, images[:N], labels[:N]))
    other = sorted_findings(run(attack, net, images[:N], labels[:N], seed=4))
    assert not torch.equal(first.x_adv, other.x_adv)


def test_the_same_on_a_second_run_of_the_same_object(net, images, labels):
    attack = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10)
    first, second = (sorted_findings(run(attack, net, images[:N], labels[:N])) for _ in range(2))
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_an_interruption_anywhere_changes_nothing(net, images, labels):
    attack, x, y = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10), images[:N], labels[:N]
    items = run(attack, net, x, y)
    whole = sorted_findings(items)
    records = [place for place, item in enumerate(items) if isinstance(item, StageRecord)]
    assert len(records) > 6
    for place in records:
        before = items[: place + 1]
        done = [item for item in before if isinstance(item, StageRecord)]
        known = [item for item in before if isinstance(item, AttackResult)]
        seen = torch.cat([item.sample for item in known])
        after = [item for item in run(attack, net, x, y, done=done) if isinstance(item, AttackResult)]
        fresh = [item[~torch.isin(item.sample, seen)] for item in after]
        joined = sorted_findings([*known, *fresh])
        for name in vars(whole):
            assert torch.equal(getattr(whole, name), getattr(joined, name)), (place, name)
        again = torch.cat([item.sample[torch.isin(item.sample, seen)] for item in after])
        assert set(again.tolist()) <= set(whole.sample[whole.norm == 0].tolist())


def test_costs_add_up_to_the_calls_of_the_model(net, images, labels):
    rows = []
    net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    attack = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10, stages=("apgd-ce",))
    items = run(attack, net, images[:N], labels[:N])
    found = sorted_findings(items)
    verified = sum(int((item.success & (item.norm > 0)).sum()) for item in items if isinstance(item, AttackResult))
    calls = sum(
        1 for item in items if isinstance(item, AttackResult) and bool((item.norm > 0).all() & item.success.any())
    )
    padded = 16 * calls - verified
    clean = 2 * 48 - N + 3 * 16 + N  # padded verification, three calls to detect noise, the package's loop
    assert int(found.forwards.sum()) > 300
    assert abs(sum(rows) - padded - clean - int(found.forwards.sum() - N)) <= 2 * 48
    assert int(found.backwards.sum()) == 35 * 7  # the 35 correct images, at the start and after each of the 6 steps


def test_leaves_generators_modes_and_buffers_alone(net, images, labels):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    net.train()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    buffers = [buffer.clone() for buffer in net.buffers()]
    run(AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10), net, images[:8], labels[:8])
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())
    assert all(torch.equal(*pair) for pair in zip(buffers, net.buffers(), strict=True))


def test_channels_last_images_and_models(net, images, labels):
    attack = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10)
    expected = sorted_findings(run(attack, net, images[:N], labels[:N]))
    x = images[:N].to(memory_format=torch.channels_last)
    assert torch.equal(sorted_findings(run(attack, net, x, labels[:N])).success, expected.success)
    found = sorted_findings(run(attack, net.to(memory_format=torch.channels_last), x, labels[:N]))
    assert int((found.success != expected.success).sum()) <= 1


def test_gradients_reach_the_package_contiguous():
    class ChannelsLast(torch.nn.Module):
        def forward(self, x):
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient.to(memory_format=torch.channels_last))
            return (x**2).flatten(1)

    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert not torch.autograd.grad(ChannelsLast()(x).sum(), x)[0].is_contiguous()
    counted = QueryCounter(ChannelsLast())
    (gradient,) = torch.autograd.grad(counted(x).sum(), x)
    assert gradient.is_contiguous()
    torch.testing.assert_close(gradient, 2 * x.detach())
    assert (counted.forwards, counted.backwards) == (2, 2)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_few_classes(make_net, images, attack, classes):
    net = make_net(classes)
    with torch.no_grad():
        y = net(images[:12]).argmax(1)
    found = sorted_findings(run(attack("pyautoattack", 0.2, classes=classes), net, images[:12], y))
    assert len(found) == 12
    assert bool(found.success.any())
    if classes < 4:
        with pytest.raises(AdvdpnpError, match="at least 4 classes"):
            attack("pyautoattack:apgd-t", classes=classes)
    else:
        _, misclassified = direct(net, images[:12], y, "linf", targets=classes - 1)
        same = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), classes)
        assert torch.equal(sorted_findings(run(same, net, images[:12], y)).success, misclassified)


@pytest.mark.parametrize("stage", ["apgd-ce", "square"])
def test_stages_by_name(attack, stage):
    assert attack(f"pyautoattack:{stage}").stages == (stage,)
    with pytest.raises(AdvdpnpError, match="it has apgd-ce, apgd-t, fab-t, square"):
        attack("pyautoattack:deepfool")


def test_false_claims_of_a_package_are_rejected(net, images, labels, monkeypatch):
    """Misclassified images outside eps are not successes, but their samples are still reported once."""

    class Liar:
        seed = 0

        def perturb(self, x, y):
            return 1 - x

    monkeypatch.setitem(module.STAGES, "apgd-ce", lambda package: Liar())
    attack = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10, stages=("apgd-ce",))
    found = sorted_findings(run(attack, net, images[:N], labels[:N]))
    assert len(found) == N
    with torch.no_grad():
        assert int((net(1 - images[:N]).argmax(1) != labels[:N]).sum()) > 10
    assert found.success.tolist() == [True] * 5 + [False] * (N - 5)


def test_all_broken_or_no_images(net, images, labels):
    attack = AutoAttack(ThreatModel.parse("linf", EPS["linf"]), 10)
    found = sorted_findings(run(attack, net, images[:4], (labels[:4])))
    assert found.success.tolist() == [True] * 4
    assert run(attack, net, images[:0], labels[:0]) == []
    assert len(sorted_findings(run(attack, net, images[5:6], labels[5:6]))) == 1


def test_the_definition_contains_everything_that_affects_results():
    attack = AutoAttack(ThreatModel.parse("linf", 0.1), 10)
    definition = attack.definition()
    assert isinstance(attack, PackageAttack)
    assert definition["stages"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert definition["package_version"]
    assert definition["order_dependent"] is True


def test_the_standard_version_is_the_published_one(monkeypatch, net):
    monkeypatch.undo()
    package = AutoAttack(ThreatModel.parse("linf", 0.1), 10)._package(net, RunOptions(0, 16))
    assert package.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (package.apgd.n_iter, package.apgd.n_restarts) == (100, 1)
    assert (package.apgd_targeted.n_iter, package.apgd_targeted.n_target_classes) == (100, 9)
    assert (package.fab.n_iter, package.fab.n_target_classes) == (100, 9)
    assert package.square.n_queries == 5000
