"""Attacks in stages: what each finds, what it costs, and that nothing depends on company."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms.apgd import APGD
from advdpnp.attacks.algorithms.cw_l2 import CWL2
from advdpnp.attacks.algorithms.eot import ExpectationOverTransformation
from advdpnp.attacks.algorithms.square import Square
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.base.errors import AdvdpnpError

THREAT = ThreatModel.parse("linf", 0.008)


@pytest.fixture
def stages():
    """Each stage succeeds on some samples that survive the stages before it."""
    weak = Square(THREAT, queries=2, name="one")
    return AttackEnsemble(
        "both", (weak, APGD(THREAT, "margin", iterations=12, name="two"), Square(THREAT, queries=150))
    )


def test_each_stage_runs_on_the_survivors_of_the_stages_before(net, images, labels, find, stages):
    together = find(net, stages, images, labels)
    left = torch.arange(len(images))
    success, forwards = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images), dtype=torch.int64)
    broken = []
    for stage in stages.stages:
        alone = find(net, stage, images[left], labels[left], left)
        forwards[left] += alone.forwards
        success[left] = alone.success
        assert torch.equal(together.x_adv[left[alone.success]], alone.x_adv[alone.success])
        broken.append(int(alone.success.sum()))
        left = left[~alone.success]
    assert torch.equal(together.success, success)
    assert torch.equal(together.forwards, forwards)
    assert min(broken[:2]) > 0
    assert len(left) > 0


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_results_do_not_depend_on_active_rows_or_order(net, images, labels, find, stages, rows):
    reference = find(net, stages, images, labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(rows))
    other = find(net, stages, images[order], labels[order], order, max_active=rows)
    for name in ("success", "x_adv", "forwards", "backwards", "zero_gradient", "margin"):
        assert torch.equal(getattr(reference, name), getattr(other, name)), name


def test_results_arrive_while_later_stages_run(net, images, labels, stages):
    from advdpnp.attacks import search

    running = search(net, stages, images, labels, torch.arange(60), seed=0, static_batch_size=16)
    first = next(running)
    assert len(first) < 60
    running.close()


def test_sample_indices_need_not_be_consecutive(net, images, labels, find, stages):
    names = torch.arange(60) * 7 + 100
    found = find(net, stages, images, labels, names)
    assert found.sample.tolist() == names.tolist()


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (APGD(THREAT, "ce"), APGD(THREAT, "dlr")),
        (APGD(THREAT, "ce"), Square(ThreatModel.parse("linf", 0.1))),
        (CWL2(ThreatModel.parse("l2", 1.0)),),
    ],
)
def test_incompatible_stages_raise(parts):
    with pytest.raises(ValueError, match="stages"):
        AttackEnsemble("mix", parts)


@pytest.mark.parametrize(("classes", "names"), [(10, ["apgd-ce", "apgd-t"]), (2, ["apgd-ce"])])
def test_fast_is_two_stages_of_autoattack_under_its_own_name(attack, classes, names):
    fast = attack("fast", classes=classes)
    assert [stage.name for stage in fast.stages] == names
    assert fast.definition()["attack"] == "fast"


class Noisy(torch.nn.Module):
    """Adds new noise to the images in every call."""

    def __init__(self, model: torch.nn.Module, size: float) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x + self.size * torch.randn_like(x))
        return logits


def test_averaging_evaluates_each_image_repeatedly_and_is_exact_without_noise(net, images, labels, find):
    plain = APGD(THREAT, "ce", iterations=5)
    once, often = find(net, plain, images, labels), find(net, ExpectationOverTransformation(plain, 4), images, labels)
    assert torch.equal(once.success, often.success)
    never = ~once.success
    assert bool((often.backwards[never] == 4 * once.backwards[never]).all())


def test_averaged_gradients_beat_single_ones_on_a_randomised_model(net, images, labels, find):
    noisy = Noisy(net, 0.3)
    threat = ThreatModel.parse("linf", 0.01)
    counts = [
        int(find(noisy, attack, images[5:], labels[5:], randomised=True).success.sum())
        for attack in (
            APGD(threat, "margin", iterations=6),
            ExpectationOverTransformation(APGD(threat, "margin", iterations=6), 16),
        )
    ]
    assert counts[1] > counts[0]


def test_rand_is_two_averaged_stages(attack):
    rand = attack("autoattack-rand")
    assert [stage.definition()["gradients_averaged"] for stage in rand.stages] == [20, 20]
    assert [stage.definition()["objective"] for stage in rand.stages] == ["ce", "dlr"]
    with pytest.raises(AdvdpnpError, match="at least 3 classes"):
        attack("autoattack-rand", classes=2)


def short(attack):
    """The stages of an attack with few steps."""
    lengths = {"apgd": {"iterations": 6}, "fab-t": {"iterations": 4}, "square": {"queries": 20}}
    return AttackEnsemble(
        attack.name,
        tuple(replace(stage, **lengths[stage.definition()["attack"]]) for stage in attack.stages),
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("classes", "image"),
    [(2, (1, 28, 28)), (3, (3, 16, 16)), (10, (3, 32, 32)), (100, (3, 20, 12)), (5, (3, 224, 224))],
)
def test_autoattack_on_any_number_of_classes_and_any_image(attack, find, classes, image, norm):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LazyLinear(classes))
    x = torch.rand(6, *image, generator=generator)
    net(x)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
        y = net(x).argmax(1)
    name = "autoattack" if classes >= 4 else "autoattack-few-classes"
    whole = attack(name, {"linf": 0.3, "l2": 0.4 * x[0].numel() ** 0.5}[norm], norm, classes=classes)
    found = find(net, short(whole), x, y, static_batch_size=4)
    assert found.success.tolist() == [True] * 6
    assert bool(whole.threat.contains(x, found.x_adv).all())
    held = find(net, short(attack(name, 1e-6, norm, classes=classes)), x, y, static_batch_size=4)
    assert held.success.tolist() == [False] * 6


class Float64(nn.Module):
    """A float64 model for float32 images: in float32, scales and shifts round the logits themselves."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()

    def forward(self, x):
        return self.model(x.double())


LENGTHS = {
    "apgd-t": {"iterations": 8, "runs": 3},
    "apgd-dlr": {"iterations": 8},
    "fab-t": {"iterations": 6, "runs": 3},
    "square": {"queries": 60},
}


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, 300.0)])
@pytest.mark.parametrize("name", LENGTHS)
def test_neither_scale_nor_shift_of_the_logits_changes_a_verdict(
    net, affine, images, labels, attack, find, name, scale, shift
):
    chosen = replace(attack(name, 0.008), **LENGTHS[name])
    plain = Float64(net)
    found, other = (find(model, chosen, images, labels) for model in (plain, affine(plain, scale, shift)))
    assert torch.equal(found.success, other.success)
    assert 0 < int(found.success.sum()) < len(images)
