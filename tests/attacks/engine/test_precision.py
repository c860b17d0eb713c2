"""Searches in bf16: what they find counts in float32 only, and nothing they miss for their precision is lost."""

import pytest
import torch
from torch import nn

from advdpnp.attacks import AttackResult
from advdpnp.attacks.algorithms.apgd import APGD
from advdpnp.attacks.algorithms.fab import FAB
from advdpnp.attacks.algorithms.square import Square
from advdpnp.attacks.engine.precision import choose_precision
from advdpnp.attacks.ensemble import AttackEnsemble
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


def test_survivors_repeat_the_decisive_stage_in_float32(net, images, labels, find):
    tiny = ThreatModel.parse("linf", 1e-5)
    stages = AttackEnsemble(
        "two", (APGD(tiny, "margin", iterations=9, name="decisive"), Square(tiny, queries=30)), "decisive"
    )
    full, low = find(net, stages, images, labels), find(net, stages, images, labels, precision="bf16")
    assert not bool(full.success[5:].any())
    # One clean evaluation and ten iterates, in bf16 and again in float32.
    assert bool((low.backwards[5:] == full.backwards[5:] + 10).all())


class Liar(nn.Module):
    """Misclassifies every image under autocast."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        logits = self.net(x).float()
        if not torch.is_autocast_enabled("cpu"):
            return logits
        return logits.scatter_add(1, logits.argmax(1, keepdim=True), torch.full((len(x), 1), -100.0))


def test_a_row_that_succeeds_only_in_bf16_continues_in_float32(net, images, labels, find, attack):
    attack = attack("pgd-10", 0.008)
    full, low = find(net, attack, images, labels), find(Liar(net), attack, images, labels, precision="bf16")
    assert 0 < int(full.success[5:].sum()) < 55
    with torch.no_grad():
        assert torch.equal(net(low.x_adv).argmax(1) != labels, low.success)
    # The first iterate is rejected. The remaining steps, in float32, succeed on nearly as many samples as all steps.
    assert int((low.success != full.success).sum()) <= 3
    assert bool((low.forwards[~low.success] == full.forwards[~low.success] + 1).all())


def test_precisions_by_device():
    cpu = torch.device("cpu")
    assert choose_precision("32", cpu) == "32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("32", "bf16")
    assert choose_precision("tf32", torch.device("cuda")) == "tf32"
    with pytest.raises(AdvdpnpError, match="tf32 is a format of NVIDIA GPUs"):
        choose_precision("tf32", cpu)
    with pytest.raises(AdvdpnpError, match="no precision called 'fp8'"):
        choose_precision("fp8", cpu)
