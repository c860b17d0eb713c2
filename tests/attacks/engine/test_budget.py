"""A budget of forwards and backwards for each image: never exceeded, and the same verdicts for any rows and order."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.base.errors import AdvdpnpError

NAMES = ("pgd-20", "apgd-ce", "mm-9", "fab-t", "square", "quick", "autoattack")


class Wide(nn.Module):
    """Ten linear classes in float64; ``lead`` is what the first one has before the others."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(192, 10, generator=generator, dtype=torch.float64))
        self.lead = lead

    def forward(self, x):
        z = x.double().flatten(1) @ self.w
        return (z + self.lead * torch.eye(10, dtype=z.dtype)[0]).float()


@pytest.fixture
def x():
    return 0.3 + 0.4 * torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("budget", [5, 23, 100])
@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_does_not_break_costs_nearly_the_budget_and_never_more(name, budget, attack, find, x):
    found = find(Wide(1e4), attack(name), x, torch.zeros(12, dtype=torch.int64), budget=budget)
    spent = found.forwards + found.backwards
    whole = {"pgd-20": 42}.get(name, 1000)  # what the attack costs anyway
    assert not bool(found.success.any())
    assert int(spent.max()) <= budget
    assert int(spent.min()) >= min(budget, whole) - 5


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_depend_on_the_image_alone_and_a_success_is_the_one_without_a_budget(name, attack, find, x):
    model = Wide(0)
    y = model(x).argmax(1)
    tried = attack(name, eps=0.01)
    first = find(model, tried, x, y, budget=60)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    again = find(model, tried, x[order], y[order], order, budget=60, max_active=5)
    for field in ("success", "x_adv", "forwards", "backwards", "stage"):
        assert torch.equal(getattr(first, field), getattr(again, field)), field
    if name != "autoattack":  # without a budget it takes long
        whole = find(model, tried, x, y)
        assert torch.equal(first.x_adv[first.success], whole.x_adv[first.success])
        assert not bool((first.success & ~whole.success).any())
    assert int((first.forwards + first.backwards).max()) <= 60


def test_claims_that_verification_rejects_count(attack, find, x):
    """The search copy claims what the model denies, which costs a look each time."""

    class Denied(Wide):
        def forward(self, x):
            z = super().forward(x)
            return z if torch.is_grad_enabled() and x.requires_grad else z + 1e6 * torch.eye(10)[0]

    found = find(Denied(0), attack("apgd-ce", eps=0.05), x, torch.zeros(12, dtype=torch.int64), budget=40)
    assert int(found.refused.max()) > 3
    assert int((found.forwards + found.backwards).max()) <= 40


def test_the_budget_is_for_all_stages_together(attack, find, x):
    tried = attack("quick")
    assert isinstance(tried, AttackEnsemble)
    first = replace(tried.stages[0], iterations=10)
    stages = replace(tried, stages=(first, tried.stages[1]))
    y = torch.zeros(12, dtype=torch.int64)
    alone = find(Wide(1e4), first, x, y)
    cost = int((alone.forwards + alone.backwards)[0])
    for budget, stage in ((cost + 4, 0), (cost + 5, 1), (cost + 60, 1)):
        found = find(Wide(1e4), stages, x, y, budget=budget)
        assert found.stage.tolist() == [stage] * 12
        assert int((found.forwards + found.backwards).max()) <= budget


def test_minimum_norm_searches_stop_too(attack, find, x):
    model = Wide(0)
    y = model(x).argmax(1)
    found = find(model, attack("cw-l2", eps=0.5, norm="l2"), x, y, budget=150)
    assert 140 <= int((found.forwards + found.backwards).min()) <= int((found.forwards + found.backwards).max()) <= 150
    assert bool(found.success.any())


@pytest.mark.parametrize(("randomised", "least"), [(False, 5), (True, 62)])
def test_a_budget_without_a_single_step_is_refused(randomised, least, attack, find, x):
    y = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(AdvdpnpError, match=f"a budget of {least - 1} passes .* give {least} or more"):
        find(Wide(0), attack("fgsm"), x, y, budget=least - 1, randomised=randomised)
    found = find(Wide(0), attack("fgsm"), x, y, budget=least, randomised=randomised)
    assert int((found.forwards + found.backwards).max()) <= least


@pytest.mark.parametrize("budget", [6, 30])
def test_a_search_in_low_precision_counts_its_look_at_the_clean_image(budget, net, attack, find, images, labels):
    found = find(net, attack("pgd-20", 1e-6), images[5:], labels[5:], budget=budget, precision="bf16")
    spent = found.forwards + found.backwards
    assert budget - 5 <= int(spent.min()) <= int(spent.max()) <= budget
    with pytest.raises(AdvdpnpError, match="give 6 or more"):
        find(net, attack("pgd-20"), images[5:], labels[5:], budget=5, precision="bf16")
