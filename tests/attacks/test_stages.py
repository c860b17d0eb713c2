"""Attacks in stages: what each finds, what it costs, and that nothing depends on company."""

import pytest
import torch

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.apgd import APGD
from advdpnp.attacks.cw_l2 import CWL2
from advdpnp.attacks.square import Square
from advdpnp.attacks.stages import Stages

THREAT = ThreatModel.parse("linf", 0.008)


@pytest.fixture
def stages():
    """Each breaks some that those before it do not."""
    weak = Square(THREAT, queries=2, name="one")
    return Stages("both", (weak, APGD(THREAT, "margin", iterations=12, name="two"), Square(THREAT, queries=150)))


def test_each_stage_gets_what_the_ones_before_it_left(net, images, labels, find, stages):
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
def test_rows_in_flight_and_order_change_nothing(net, images, labels, find, stages, rows):
    reference = find(net, stages, images, labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(rows))
    other = find(net, stages, images[order], labels[order], order, rows=rows)
    for name in ("success", "x_adv", "forwards", "backwards", "zero_gradient", "margin"):
        assert torch.equal(getattr(reference, name), getattr(other, name)), name


def test_findings_come_while_later_stages_work(net, images, labels, stages):
    from advdpnp.attacks import search

    running = search(net, stages, images, labels, torch.arange(60), seed=0, shape=16)
    first = next(running)
    assert len(first) < 60
    running.close()


def test_one_search_may_name_its_samples_as_it_likes(net, images, labels, find, stages):
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
def test_stages_that_do_not_go_together_are_refused(parts):
    with pytest.raises(ValueError, match="stages"):
        Stages("mix", parts)


@pytest.mark.parametrize(("classes", "names"), [(10, ["apgd-ce", "apgd-t"]), (2, ["apgd-ce"])])
def test_fast_is_two_stages_of_autoattack_and_says_that_it_is_not_autoattack(attack, classes, names):
    fast = attack("fast", classes=classes)
    assert [stage.name for stage in fast.stages] == names
    assert fast.definition()["attack"] == "fast"
