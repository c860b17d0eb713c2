"""Searches in bf16: what they find counts in float32 only, and nothing they miss for their precision is lost."""

import pytest
import torch
from torch import nn

from advdpnp.attacks import AttackResult
from advdpnp.attacks.algorithms.apgd import APGD
from advdpnp.attacks.algorithms.fab import FAB
from advdpnp.attacks.algorithms.square import Square
from advdpnp.attacks.engine import precision as engine_precision
from advdpnp.attacks.engine.precision import GAIN, candidates, check_precision, fastest_precision, near_within
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.search_copy.low_precision import make_low_precision_copy
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError

THREAT = ThreatModel.parse("linf", 0.008)
DECISIVE = APGD(THREAT, "margin", iterations=9, name="decisive")
STAGES = AttackEnsemble("some", (DECISIVE, FAB(THREAT, iterations=6, runs=2), Square(THREAT, queries=30)), "decisive")


def assert_same(a, b):
    for name in AttackResult._names():
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_a_bf16_search_succeeds_on_the_samples_of_a_float32_search(net, images, labels, find):
    full, low = find(net, STAGES, images, labels), find(net, STAGES, images, labels, precision="bf16")
    assert torch.equal(low.success, full.success)
    assert not torch.equal(low.x_adv, full.x_adv)
    with torch.no_grad():
        assert torch.equal(net(low.x_adv).argmax(1) != labels, low.success)
    assert bool(THREAT.contains(images, low.x_adv).all())


def test_results_do_not_depend_on_other_rows_or_the_number_of_processes(net, images, labels, find):
    expected = find(net, STAGES, images, labels, precision="bf16")
    for rows in (1, 7, 64):
        assert_same(find(net, STAGES, images, labels, precision="bf16", max_active=rows), expected)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    assert_same(find(net, STAGES, images[order], labels[order], order, precision="bf16"), expected)
    torch.set_num_threads(3)
    assert_same(find(net, STAGES, images, labels, precision="bf16"), expected)


def ensemble(eps):
    threat = ThreatModel.parse("linf", eps)
    return AttackEnsemble(
        "two", (APGD(threat, "margin", iterations=9, name="decisive"), Square(threat, queries=30)), "decisive"
    )


def test_survivors_that_came_near_repeat_the_decisive_stage_in_float32_and_others_do_not(net, images, labels, find):
    full, low = (find(net, ensemble(1e-5), images, labels, precision=each) for each in ("32", "bf16"))
    survivors = ~full.success
    assert int(survivors.sum()) > 50
    again = low.backwards - full.backwards
    assert set(again[survivors].tolist()) == {0, 10}  # ten iterates in float32, or none
    with torch.no_grad():
        ordered = net(images).topk(2, dim=1).values
        logits = net(images)
    margins = ordered[:, 0] - ordered[:, 1]
    low_logits = make_low_precision_copy(net.requires_grad_(False), images[:8])(images)
    near = margins < near_within(low_logits, logits) - 0.01  # what so small an eps changes is less
    far = margins > near_within(low_logits, logits) + 0.01
    assert near[survivors].any()
    assert far[survivors].any()
    assert bool((again[survivors & near] == 10).all())
    assert bool((again[survivors & far] == 0).all())


def test_a_single_attack_is_repeated_like_the_decisive_stage(net, images, labels, find, attack):
    full, low = (find(net, attack("pgd-10", 1e-5), images, labels, precision=each) for each in ("32", "bf16"))
    assert set((low.backwards - full.backwards)[~full.success].tolist()) == {0, 10}
    once = ~full.success & (low.backwards == full.backwards)
    assert set((low.forwards - full.forwards)[once].tolist()) == {1}  # the clean image in low precision
    assert torch.equal(low.success, full.success)


def test_minimum_norm_attacks_search_in_float32_whatever_is_asked(net, images, labels, find, attack):
    assert_same(
        find(net, attack("cw-l2", 0.5, "l2"), images[:8], labels[:8], precision="bf16"),
        find(net, attack("cw-l2", 0.5, "l2"), images[:8], labels[:8]),
    )


class Liar(nn.Module):
    """Misclassifies every image as soon as its first layer is in bf16."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        logits = self.net(x).float()
        if self.net[0].weight.dtype == torch.float32:
            return logits
        return logits.scatter_add(1, logits.argmax(1, keepdim=True), torch.full((len(x), 1), -100.0))


def test_what_succeeds_only_in_bf16_is_no_success_and_is_searched_in_float32(
    net, images, labels, find, attack, monkeypatch
):
    monkeypatch.setattr("advdpnp.attacks.search_copy.low_precision.resembles", lambda *_: True)
    monkeypatch.setattr("advdpnp.attacks.engine.scheduler.resembles", lambda *_: True)
    attack = attack("pgd-10", 0.008)
    full, low = find(net, attack, images, labels), find(Liar(net), attack, images, labels, precision="bf16")
    assert 0 < int(full.success[5:].sum()) < 55
    assert bool((low.success >= full.success).all())  # what survives is searched from the start in float32
    with torch.no_grad():
        assert torch.equal(net(low.x_adv).argmax(1) != labels, low.success)
    assert bool((low.refused[~low.success] >= 10).all())


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), id="one layer"),
        pytest.param(lambda: nn.Sequential(Functional(), nn.Flatten(), nn.Linear(768, 10)), id="own weights"),
    ],
)
def test_models_without_a_copy_in_bf16_are_searched_under_autocast(model, images, find, attack):
    torch.manual_seed(0)
    model = model().eval()
    with torch.no_grad():
        labels = model(images).argmax(1)
    assert make_low_precision_copy(model.requires_grad_(False), images[:8]) is None
    full, low = (find(model, attack("pgd-5", 0.01), images, labels, precision=each) for each in ("32", "bf16"))
    assert abs(int(full.success.sum()) - int(low.success.sum())) <= 2
    assert not torch.equal(low.x_adv, full.x_adv)


class Functional(nn.Module):
    """A convolution without a layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3) / 5)

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, padding=1)


def test_a_copy_in_bf16_converts_layers_once_and_answers_in_float32(net, images):
    low = make_low_precision_copy(net.requires_grad_(False), images[:8])
    assert [type(each).__name__ for each in low] == [type(each).__name__ for each in net]
    assert {low[0].weight.dtype, low[3].weight.dtype} == {torch.bfloat16}
    assert {low[1].weight.dtype, low[6].weight.dtype, net[0].weight.dtype} == {torch.float32}
    inside = []
    low[3].register_forward_hook(lambda module, arguments, output: inside.append((arguments[0].dtype, output.dtype)))
    x = images.clone().requires_grad_()
    logits = low(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert inside == [(torch.bfloat16, torch.bfloat16)]
    assert (logits.dtype, gradient.dtype) == (torch.float32, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(logits, net(images), rtol=0.05, atol=0.05)


class Prototypes(nn.Module):
    """A head that is no layer of torch; its parent looks into it."""

    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(10, 9))

    def forward(self, features):
        return -torch.cdist(features, self.prototypes)


def test_a_head_of_prototypes_stays_in_float32(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 9), Prototypes()).eval()
    low = make_low_precision_copy(model.requires_grad_(False), images[:8])
    assert {low[1].weight.dtype, low[3].weight.dtype} == {torch.bfloat16}
    assert low[4].prototypes.dtype == low(images).dtype == torch.float32


def test_precisions_by_device(monkeypatch):
    cpu = torch.device("cpu")
    for name in ("32", "bf16", "auto"):
        assert check_precision(name, cpu) == name
    assert check_precision("tf32", torch.device("cuda")) == "tf32"
    with pytest.raises(AdvdpnpError, match="tf32 is a format of NVIDIA GPUs"):
        check_precision("tf32", cpu)
    with pytest.raises(AdvdpnpError, match="no precision called 'fp8'"):
        check_precision("fp8", cpu)
    monkeypatch.setattr(engine_precision, "computes_bf16", lambda device: False)
    assert candidates(cpu) == ("32",)
    assert fastest_precision(nn.Identity(), torch.rand(8, 3, 4, 4), 8, cpu).precision == "32"  # nothing is called
    monkeypatch.setattr(engine_precision, "computes_bf16", lambda device: True)
    assert candidates(cpu) == ("32", "bf16")
    assert candidates(torch.device("cuda")) == ("32", "tf32", "bf16")


@pytest.fixture
def clock(monkeypatch):
    """Milliseconds that a call in each precision seems to take; the fixture lists the calls that were timed."""
    timed = []

    def work(model, precision, device):
        return lambda batch: timed.append((precision, len(batch)))

    def seconds(call, device):
        call()
        return times[timed[-1][0]] / 1000

    times = {"32": 10.0, "bf16": 10.0}
    monkeypatch.setattr(engine_precision, "_call", work)
    monkeypatch.setattr(engine_precision, "_seconds", seconds)
    monkeypatch.setattr(engine_precision, "_SECONDS", 0.0)
    monkeypatch.setattr(engine_precision, "computes_bf16", lambda device: True)
    monkeypatch.setattr(engine_precision, "model_to_search", lambda model, example, precision: (model, precision))
    monkeypatch.setattr(engine_precision, "_known", {})
    return times, timed


@pytest.mark.parametrize(("factor", "taken"), [(0.9, "32"), (GAIN - 0.01, "32"), (GAIN + 0.01, "bf16"), (4.0, "bf16")])
def test_auto_takes_bf16_where_it_is_clearly_faster(net, images, clock, factor, taken):
    times, _ = clock
    times["bf16"] = times["32"] / factor
    choice = fastest_precision(net, images, 16, torch.device("cpu"))
    assert choice.precision == taken
    assert choice.facts == {"timed": {"rows": 16, "32": 10.0, "bf16": round(10 / factor, 3)}}


class Float32Only(nn.Module):
    """Its own code fails where layers answer in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        features = x.new_zeros(len(x), 4)
        features[torch.arange(len(x))] = self.first(x).mean((2, 3))
        return self.last(features)


def test_auto_leaves_out_a_precision_that_the_model_cannot_compute_in(images, monkeypatch):
    monkeypatch.setattr(engine_precision, "computes_bf16", lambda device: True)
    monkeypatch.setattr(engine_precision, "_SECONDS", 0.0)
    choice = fastest_precision(Float32Only().eval(), images, 16, torch.device("cpu"))
    assert choice.precision == "32"
    assert choice.milliseconds.keys() == {"32"}


def test_an_architecture_is_timed_once_on_each_shape_and_a_slow_one_on_fewer_rows(net, make_net, images, clock):
    times, timed = clock
    cpu = torch.device("cpu")
    first = fastest_precision(net, images, 16, cpu)
    count = len(timed)
    times["bf16"] = 1.0
    assert fastest_precision(make_net(10, seed=3), images, 16, cpu) is first
    assert len(timed) == count
    assert fastest_precision(make_net(7), images, 16, cpu).precision == "bf16"
    times["32"] = 1000.0
    assert fastest_precision(net, images, 64, cpu).rows == 8
