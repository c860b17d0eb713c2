"""The engine: what counts as a success, what a result may depend on, and what is left as it was."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.engine.executor import Executor, check_inputs, evaluation_mode, is_randomised
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.engine.verification import judge
from advdpnp.attacks.protocol import Attack, State
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.errors import AdvdpnpError


@dataclass(frozen=True)
class Scripted:
    """Asks for ``images(x, y)`` and ends, so that a test can make it claim any image."""

    threat: ThreatModel
    images: Callable[[Tensor, Tensor], Tensor]
    minimum_norm: bool = False
    name: str = "scripted"
    norms: tuple[str, ...] = ("linf", "l2")

    def definition(self) -> dict[str, Any]:
        return {}

    def start(self, x, y, logits, draw):
        return State(x, y, torch.zeros_like(y).bool(), draw)

    def ask(self, state):
        return self.images(state.x, state.y), None

    def tell(self, state, logits, gradient, misclassified):
        return replace(state, done=torch.ones_like(state.done))


class Brightness(nn.Module):
    """Class 1 if the mean of the image is above ``threshold``, else class 0. A third class is never predicted."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        value = x.flatten(1).mean(1) - self.threshold
        return torch.stack([-value, value, value * 0 - 5], 1)


def same(first: AttackResult, second: AttackResult) -> None:
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


@pytest.mark.parametrize("name", ["fgsm", "pgd-10", "cw"])
def test_results_are_bit_identical_for_any_rows_and_order(net, images, labels, attack, find, name):
    attack = attack(name, 0.006)
    first = find(net, attack, images, labels, max_active=16)
    assert 10 < int(first.success.sum()) < 55
    for rows in (1, 7, 64):
        same(first, find(net, attack, images, labels, max_active=rows))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    same(first, find(net, attack, images[order], labels[order], order, max_active=7))
    part = order[:23].sort().values
    same(first[part], find(net, attack, images[part], labels[part], part, max_active=64))


def test_the_seed_and_the_sample_index_determine_the_random_start(net, images, labels, attack, find):
    attack = attack("pgd-2", 0.006)
    first, other = find(net, attack, images, labels), find(net, attack, images, labels, seed=1)
    moved = find(net, attack, images, labels, torch.arange(60) + 7)
    assert not torch.equal(first.x_adv, other.x_adv)
    assert not torch.equal(first.x_adv, moved.x_adv)


def test_every_sample_is_yielded_once_and_results_are_consistent(net, images, labels, attack):
    sample, threat = torch.arange(60) * 3 + 1, ThreatModel.parse("linf", 0.006)
    parts = list(
        search(net, attack("pgd-5", 0.006), images, labels, sample, seed=0, static_batch_size=16, max_active=20)
    )
    found = AttackResult.concatenate(parts)
    assert sorted(found.sample.tolist()) == sample.tolist()
    place = (found.sample - 1) // 3
    x, y = images[place], labels[place]
    assert torch.equal(found.label, y)
    with torch.no_grad():
        assert torch.equal(found.clean_prediction, net(x).argmax(1))
        assert torch.equal(net(found.x_adv).argmax(1), found.adversarial_prediction)
    assert torch.equal(found.success, found.adversarial_prediction != y)
    assert torch.equal(found.success, found.margin < 0)
    assert torch.equal(found.x_adv[~found.success], x[~found.success])
    assert torch.equal(torch.isinf(found.norm), ~found.success)
    torch.testing.assert_close(found.norm[found.success], threat.distance(x, found.x_adv)[found.success])
    assert bool(threat.contains(x, found.x_adv).all())


def test_clean_mistakes_count_once_at_norm_zero(net, images, labels, attack, find):
    found = find(net, attack("pgd-5", 1e-6), images, labels)
    assert found.success.tolist() == [True] * 5 + [False] * 55
    assert found.norm[:5].tolist() == [0.0] * 5
    assert found.forwards[:5].tolist() == [1] * 5
    assert torch.equal(found.x_adv[:5], images[:5])
    assert found.forwards[5:].tolist() == [1 + 5 + 1] * 55  # clean, iterates, the last image
    assert found.backwards[5:].tolist() == [5] * 55
    assert bool((found.margin[5:] > 0).all())


def grays(values) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 4, 4).clone()


def test_images_outside_eps_are_not_successes_per_sample(find):
    x = grays([0.45, 0.40, 0.49, 0.47])  # all class 0; 0.51 is class 1
    attack = Scripted(ThreatModel.parse("linf", 0.05), lambda x, y: torch.full_like(x, 0.505))
    found = find(Brightness(), attack, x, torch.zeros(4).long())
    assert found.success.tolist() == [False, False, True, True]
    assert found.norm[:2].tolist() == pytest.approx([0.055, 0.105], abs=1e-6)  # how far outside
    assert torch.equal(found.x_adv[:2], x[:2])


def test_the_tolerance_of_eps_covers_float32_rounding_only(find):
    x, eps = grays([0.45, 0.45]), 0.06
    attack = Scripted(
        ThreatModel.parse("linf", eps), lambda x, y: x + torch.tensor([eps, eps * 1.001])[:2, None, None, None]
    )
    found = find(Brightness(), attack, x, torch.zeros(2).long(), static_batch_size=2)
    assert found.success.tolist() == [True, False]


def test_images_outside_the_bounds_are_not_successes(find):
    x = grays([0.9, 0.9])

    def images(x, y):
        out = x.clone()
        out[:, :, 0, 0] -= 1.5  # below zero, and darker on average
        return out

    for minimum_norm in (False, True):
        attack = Scripted(ThreatModel.parse("l2", 100.0), images, minimum_norm)
        found = find(Brightness(0.88), attack, x, torch.ones(2).long(), static_batch_size=2)
        assert not bool(found.success.any())
        assert bool(torch.isinf(found.norm).all())  # a distance within eps would read as a success


def test_a_minimum_norm_image_outside_eps_is_stored_but_is_not_a_success(find):
    x = grays([0.45, 0.499])
    attack = Scripted(ThreatModel.parse("linf", 0.01), lambda x, y: torch.full_like(x, 0.505), minimum_norm=True)
    found = find(Brightness(), attack, x, torch.zeros(2).long())
    assert found.success.tolist() == [False, True]
    assert found.norm.tolist() == pytest.approx([0.055, 0.006], abs=1e-6)
    assert torch.equal(found.x_adv[0], x[0])


class Forgetful(nn.Module):
    """Predicts class 1 when gradients are enabled, so it is misclassified in the search but not in verification."""

    def __init__(self) -> None:
        super().__init__()
        self.searching = 0

    def forward(self, x):
        if torch.is_grad_enabled():
            self.searching += 1
            value = x.flatten(1).mean(1) * 0 + 1
        else:
            value = x.flatten(1).mean(1) - 0.5
        return torch.stack([-value, value], 1)


def test_rejected_candidates_continue_and_only_verified_images_are_successes(attack, find):
    x, model = grays([0.1, 0.2, 0.3]), Forgetful()
    found = find(model, attack("pgd-6", 0.05, classes=2), x, torch.zeros(3).long(), static_batch_size=4)
    assert not bool(found.success.any())
    assert found.backwards.tolist() == [6, 6, 6]
    assert found.forwards.tolist() == [1 + 6 + 6 + 1] * 3  # clean, iterates, each one's verification, the last image


def test_the_batch_is_full_while_rows_wait(net, attack, find):
    asked = []
    net.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])) if inputs[0].requires_grad else None)
    x = torch.rand(160, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x).argmax(1)
    found = find(net, attack("pgd-10", 0.1), x, y, static_batch_size=8)
    assert bool(found.success.all())
    assert int(found.backwards.max()) < 10
    needed = int(found.backwards.sum())
    assert needed <= sum(asked) <= needed + 8 * 8  # the last rows need not fill a batch


class BrokenGradient(nn.Module):
    """The gradient of samples whose first pixel is dark is NaN."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        if x.requires_grad:
            bad = (x[:, :1, :1, :1] < 0.5).detach().expand_as(x)
            x = x.view_as(x)
            x.register_hook(lambda gradient: torch.where(bad, torch.nan, gradient))
        return self.model(x)


def test_nan_gradients_become_zero_and_are_reported(net, images, labels, attack, find):
    bad = images[:, 0, 0, 0] < 0.4
    good = images[:, 0, 0, 0] > 0.6
    found = find(BrokenGradient(net), attack("pgd-3", 0.01), images, labels)
    right = found.clean_prediction == labels
    assert bool(found.zero_gradient[bad & right].all())
    assert not bool(found.zero_gradient[good].any())
    same(found[good], find(net, attack("pgd-3", 0.01), images, labels)[good])
    assert bool(torch.isfinite(found.x_adv).all())


def test_a_model_that_ignores_its_input_has_zero_gradients(attack, find):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)

    found = find(Constant(), attack("pgd-2", classes=3), torch.rand(5, 3, 4, 4), torch.zeros(5).long())
    assert bool(found.zero_gradient.all())
    assert not bool(found.success.any())


def test_a_model_in_training_mode_is_evaluated_in_eval_mode_and_restored(net, images, labels, attack, find):
    expected = find(net, attack("pgd-3"), images, labels)
    net.train()
    net[2].eval()
    net[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    same(expected, find(net, attack("pgd-3"), images, labels))
    assert [module.training for module in net] == [True, True, False, True, True, True, True]
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 7
    assert all(p.grad is None for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_search_closed_early_restores_the_model_too(net, images, labels, attack):
    net.train()
    running = search(net, attack("pgd-3"), images, labels, torch.arange(60), seed=0, static_batch_size=16)
    next(running)
    assert not net.training
    running.close()
    assert net.training


def test_models_that_ignore_eval_are_set_to_eval_mode(net, images, labels, attack, find):
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    expected = find(net, attack("fgsm"), images, labels)
    stubborn = Stubborn(8)
    stubborn.load_state_dict(net[1].state_dict())
    net[1] = stubborn.train()
    same(expected, find(net, attack("fgsm"), images, labels))
    assert net[1].training
    assert int(net[1].num_batches_tracked) == 0


def test_buffers_that_a_model_changes_in_eval_mode_are_restored(net, images, labels, attack, find):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.net(x)

    model = Counting()
    find(model, attack("fgsm"), images, labels)
    assert float(model.calls) == 0


def test_channels_last_images_and_models_work(net, images, labels, attack, find):
    expected = find(net, attack("pgd-5", 0.006), images, labels)
    same(expected, find(net, attack("pgd-5", 0.006), images.to(memory_format=torch.channels_last), labels))
    found = find(net.to(memory_format=torch.channels_last), attack("pgd-5", 0.006), images, labels)
    assert int((found.success != expected.success).sum()) <= 1


@pytest.mark.parametrize("classes", [2, 3, 100])
def test_any_number_of_classes(make_net, images, attack, find, classes):
    net = make_net(classes)
    with torch.no_grad():
        y = net(images).argmax(1)
    for name in ("fgsm", "pgd-10", "cw"):
        assert int(find(net, attack(name, 0.2, classes=classes), images, y).success.sum()) > 30


def test_global_generators_are_untouched(net, images, labels, attack, find):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    find(net, attack("pgd-3"), images, labels)
    find(Noisy(net), attack("pgd-2"), images[:4], labels[:4], randomised=True)
    is_randomised(Noisy(net), images)
    assert before[0] == random.getstate()
    assert (before[1] == np.random.get_state()[1]).all()
    assert torch.equal(before[2], torch.random.get_rng_state())


class Noisy(nn.Module):
    """Adds ``noise`` to the logits of the first class."""

    def __init__(self, model: nn.Module, noise: float = 0.3) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x):
        logits = self.model(x)
        return logits + self.noise * torch.randn(len(x), 1) * (torch.arange(logits.shape[1]) == 0)


def test_randomised_models_are_recognised(net, images):
    assert is_randomised(Noisy(net), images[:4])
    assert not is_randomised(net, images[:4])


class Coin(nn.Module):
    """Predicts class 1 with probability ``p`` for any image."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x):
        heads = (torch.rand(len(x)) < self.p).float() + x.flatten(1).sum(1) * 0
        return torch.stack([1 - heads, heads, heads * 0 - 1], 1)


def test_randomised_models_are_decided_by_the_majority_and_by_the_seed(attack, find):
    x, y = torch.rand(40, 3, 4, 4), torch.zeros(40).long()
    rarely = find(Coin(0.2), attack("pgd-5", classes=3), x, y, randomised=True)
    assert int(rarely.success.sum()) <= 2  # if one draw decided, nearly all would be misclassified within five steps
    assert int(find(Coin(0.2), attack("pgd-5", classes=3), x, y).success.sum()) > 8
    mostly = find(Coin(0.8), attack("pgd-5", classes=3), x, y, randomised=True)
    assert int(mostly.success.sum()) >= 38
    assert mostly.forwards.tolist()[0] == 20
    same(rarely, find(Coin(0.2), attack("pgd-5", classes=3), x, y, randomised=True))


def test_a_tie_of_votes_is_not_a_success():
    class Alternate(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            first = torch.tensor([1.0, 0.0, 0.0] if self.calls % 2 else [0.0, 1.0, 0.0])
            return first.repeat(len(x), 1)

    judged = judge(Executor(Alternate(), 2, "cpu", seed=0), torch.rand(2, 3, 4, 4), torch.zeros(2).long())
    assert judged.prediction.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.rand(2, 3, 4, 4) * 2 - 1, torch.zeros(2).long(), r"must lie in \[0, 1\]"),
        (torch.rand(2, 3, 4, 4) * 255, torch.zeros(2).long(), r"must lie in \[0, 1\]"),
        (torch.full((2, 3, 4, 4), torch.nan), torch.zeros(2).long(), "NaN"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2).long(), "images / 255|/ 255"),
        (torch.rand(3, 4, 4), torch.zeros(3).long(), "n, c, h, w"),
        (torch.rand(2, 3, 4, 4), torch.zeros(3).long(), "2 integers"),
        (torch.rand(2, 3, 4, 4), torch.zeros(2), "integers"),
        (torch.rand(2, 3, 4, 4), torch.tensor([0, -1]), "negative"),
    ],
)
def test_unusable_inputs_are_refused(x, y, message, attack):
    with pytest.raises(AdvdpnpError, match=message):
        check_inputs(x, y)
    with pytest.raises(AdvdpnpError, match=message):
        list(search(Brightness(), attack("fgsm", classes=3), x, y, torch.arange(len(x)), seed=0, static_batch_size=4))


def test_unusable_models_are_refused(attack, find):
    x, y = torch.rand(2, 3, 4, 4), torch.zeros(2).long()

    class Returns(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def forward(self, x):
            return self.make(x)

    for make, message in [
        (lambda x: x, "must return logits"),
        (lambda x: (x.flatten(1), 1), "must return logits"),
        (lambda x: x.flatten(1)[:, :1], "must return logits"),
    ]:
        with pytest.raises(AdvdpnpError, match=message):
            find(Returns(make), attack("fgsm"), x, y)
    with pytest.raises(AdvdpnpError, match="label 7 is not a class"):
        find(Brightness(), attack("fgsm", classes=3), x, y + 7)


@pytest.mark.parametrize("name", ["pgd-5", "fab-t", "cw-l2", "square", "apgd-ce"])
def test_images_without_finite_logits_count_as_misclassified(name, attack, find):
    """Images that are brighter than a bound have no finite logits: clean ones, and what a search finds."""

    class Overflows(Brightness):
        def forward(self, x):
            logits = super().forward(x)
            return logits / (x.flatten(1).mean(1) < 0.62)[:, None].float()

    x, y = grays([0.7, 0.6, 0.2]), torch.tensor([1, 1, 0])
    norm = "l2" if name == "cw-l2" else "linf"
    found = find(Overflows(), attack(name, norm=norm, eps=0.5 if norm == "l2" else 0.05, classes=2), x, y)
    assert found.clean_prediction.tolist()[0] == -1
    assert found.success.tolist()[:1] == [True]
    assert not found.success[2]
    assert bool(found.x_adv.isfinite().all())
    assert (found.adversarial_prediction[found.success] != y[found.success]).all()


def test_borderline_rows_are_marked(find):
    x = grays([0.5, 0.4])
    x[0] += 1e-7
    found = find(
        Brightness(),
        Scripted(ThreatModel.parse("linf", 0.1), lambda x, y: x),
        x,
        torch.tensor([1, 0]),
        static_batch_size=2,
    )
    assert found.borderline.tolist() == [True, False]


def test_no_images_give_no_results(net, attack):
    x, none = torch.rand(0, 3, 16, 16), torch.arange(0)
    assert list(search(net, attack("fgsm"), x, none, none, seed=0, static_batch_size=4)) == []


def test_calls_are_padded_to_one_batch_size(net, images):
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with evaluation_mode(net.train()):
        logits = Executor(net, 4, "cpu").logits(images[:10])
    assert seen == [4, 4, 4]
    assert net.training
    assert logits.shape == (10, 10)


def test_the_attacks_implement_the_protocol(attack):
    for made in (attack("fgsm"), attack("pgd-7"), attack("cw"), attack("cw-l2", 0.5, "l2")):
        assert isinstance(made, Attack)
        assert made.definition()["version"] >= 1
