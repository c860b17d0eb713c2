"""What a search tells while it runs: enough to say how long it takes, without changing what it finds."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.engine import status
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.engine.status import SearchStatus
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.info import AttackInfo, describe
from advdpnp.attacks.names import resolve_attacks
from advdpnp.attacks.search_state import AttackResult

THREAT = ThreatModel.parse("linf", "0.05")
N = 40


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def ensemble() -> AttackEnsemble:
    stages = [dict(resolve_attacks(name, THREAT, 3))[name] for name in ("apgd-ce", "square")]
    return AttackEnsemble("two", (stages[0], replace(stages[1], queries=50)))


def run(attack, told: list[SearchStatus] | None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N, 1, 4, 4, generator=generator)
    y = net()(x).argmax(1)
    y[::8] = (y[::8] + 1) % 3
    on_status = None if told is None else told.append
    found = search(
        net(), attack, x, y, torch.arange(N), seed=0, static_batch_size=8, max_active=16, on_status=on_status
    )
    parts = list(found)
    joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(AttackResult)}
    return {name: values[joined["sample"].argsort()] for name, values in joined.items()}


@pytest.mark.parametrize("threads", [1, 3])
def test_it_tells_what_is_spent_and_what_is_left_and_finds_the_same(monkeypatch, threads):
    monkeypatch.setattr(status, "HEARTBEAT", 0.0)  # before every iteration
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    attack, told = ensemble(), []
    cost = describe(attack).evaluations
    found, silent = run(attack, told), run(attack, None)
    assert all(torch.equal(found[name], silent[name]) for name in found)
    spent = int((found["forwards"] + found["backwards"]).sum())
    robust = int((~found["success"]).sum())
    assert 0 < robust < N
    assert told[-1] == SearchStatus({}, spent, 0)
    assert [each.spent for each in told] == sorted(each.spent for each in told)
    for each in told:  # what is left is a bound: nothing that survives costs more than was said
        waiting = N - sum(each.undecided.values())
        assert spent <= (each.spent + each.left + waiting * cost) * 1.05
    assert {name for each in told for name in each.undecided} == {"apgd-ce", "square"}
    middle = next(each for each in told if each.undecided.get("square") == sum(each.undecided.values()) > 0)
    assert 0 < middle.left < cost * middle.undecided["square"]


def test_an_attack_that_does_not_say_its_cost_leaves_it_open():
    assert AttackInfo().evaluations is None
    assert AttackInfo(stages=(AttackInfo(steps=3, cost_rank=6), AttackInfo())).evaluations is None
    assert AttackInfo(cost_rank=12).evaluations == 12
    assert SearchStatus.total([SearchStatus({"a": 1}, 2, 3), SearchStatus({"a": 1, "b": 1}, 2, None)]) == SearchStatus(
        {"a": 2, "b": 1}, 4, None
    )
