"""The table of all attacks of all libraries."""

from importlib.util import find_spec

import pandas as pd
import pytest
import torch

from advdpnp.attacks import ATTACKS, ThreatModel
from benchmarks.attack_libraries import far_pixels, quick_call, run
from benchmarks.attack_libraries.__main__ import ordered
from benchmarks.attack_libraries.chosen import RADII, in_turns
from benchmarks.attack_libraries.figure import draw, pareto

LIBRARIES = ("foolbox", "adv_lib", "art")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10)).eval()


@pytest.fixture
def data(net):
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, (net(x).argmax(1) + (torch.arange(12) < 2)) % 10


def test_every_chosen_attack_exists_under_its_norm():
    if not all(map(find_spec, LIBRARIES)):
        pytest.skip("not all libraries are installed")
    turns = in_turns()
    assert len(turns) == len(set(turns)) > 80
    for norm, name in turns:
        ATTACKS.make(name, threat=ThreatModel.parse(norm, RADII[norm]), classes=10)


def test_a_row_counts_what_holds(net, data):
    row = run.measure("linf", "pgd-20", "0.03", net, *data, seconds=60)
    assert row["library"] == "advdpnp"
    assert row["accuracy"] == pytest.approx(100 * (10 - row["verified"]) / 12)
    assert 0 < row["verified"] <= 10
    assert row["refused"] == 0
    assert 2 <= row["forwards"] <= 22
    assert row["note"] == ""
    theirs = run.measure("linf", "torchattacks:PGD", "0.03", net, *data, seconds=60)
    assert theirs["library"] == "torchattacks"
    assert theirs["backwards"] == 10


def test_what_minimum_norm_attacks_find_is_judged_by_the_net(net, data):
    x, y = data

    def half(net, x, y):
        """Other images for every second one; the clean ones for the others."""
        found = x.clone()
        found[::2] = 1 - x[::2]
        return found

    rows = {row["attack"]: row for row in far_pixels.measured(net, x, y, {"half": half, "none": lambda net, x, y: x})}
    assert rows["none"]["left"] == pytest.approx(100 * 10 / 12)  # two are wrong already
    assert rows["none"]["median distance"] == float("inf")
    moved = (1 - 2 * x).abs().flatten(1)
    wrong = (net(1 - x).argmax(1) != y) & (torch.arange(12) % 2 == 0) & (net(x).argmax(1) == y)
    distance = torch.where(wrong, moved.norm(dim=1), torch.inf)[net(x).argmax(1) == y]
    assert rows["half"]["median distance"] == pytest.approx(float(distance.median()))
    assert rows["half"]["left"] == pytest.approx(100 * float((distance > far_pixels.EPS).sum()) / 12)
    assert rows["half"]["largest change"] == pytest.approx(float(moved[::2].max()))


def test_an_attack_that_takes_too_long_or_fails_has_a_note(net, data, monkeypatch):
    def endless(*_, **__):
        while True:
            sum(range(1000))

    monkeypatch.setattr(run, "search", endless)
    assert run.measure("linf", "pgd-20", "0.03", net, *data, seconds=1)["note"] == "stopped after 1 s"
    notes = [run.measure("linf", "pgd-20", "0.03", net, *data, seconds=1)]
    assert ordered(pd.DataFrame(notes)).columns.tolist() == list(run.COLUMNS)
    assert "does not support" in run.measure("l2", "torchattacks:PGD", "0.03", net, *data, seconds=1)["note"]


def test_the_front_holds_what_nothing_beats_in_cost_and_accuracy(tmp_path):
    table = pd.DataFrame(
        [
            ("linf", "1", "a", "cheap", 60.0, 1.0, 1.0), ("linf", "1", "a", "beaten", 70.0, 2.0, 2.0),
            ("linf", "1", "b", "strong", 40.0, 50.0, 50.0), ("linf", "1", "b", "as strong", 40.0, 60.0, 60.0),
            ("l0", "1", "b", "failed", *[float("nan")] * 3), ("l0", "1", "b", "only", 1.0, 1.0, 0.0),
        ],
        columns=["norm", "eps", "library", "attack", "accuracy", "forwards", "backwards"],
    )  # fmt: skip
    front = pareto(table[table["norm"] == "linf"].assign(cost=table["forwards"] + table["backwards"]))
    assert front["attack"].tolist() == ["cheap", "strong"]
    assert ordered(table)["attack"].tolist() == ["strong", "as strong", "cheap", "beaten", "only", "failed"]
    draw(table, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_the_calls_that_are_timed_do_the_same_work(net, data):
    x, y = data
    found = {name: call() for name, call in quick_call._calls(net, x, y, 0.03).items()}
    assert found[quick_call.BARE].shape == x.shape
    searched = {name: each for name, each in found.items() if name.startswith("advdpnp.evaluate")}
    robust = [int((~found["advdpnp.attack"].success).sum())]
    robust += [round(each.row["pgd-20"].item() * len(x) / 100) for each in searched.values()]
    assert len(set(robust)) == 1
    assert ["unmeasured" in each.row["flags"].item() for each in searched.values()] == [True, False]


def test_an_attack_that_was_stopped_is_run_again_with_more_time():
    notes = {"pgd-20": run.limit_note(5), "fgsm": run.limit_note(60), "square": ""}
    rows = [{"norm": "linf", "eps": "2/255", "library": "advdpnp", "attack": name, "note": note}
            for name, note in notes.items()]  # fmt: skip
    assert [row["attack"] for row in run.settled(rows, 60)] == ["fgsm", "square"]
    assert [row["attack"] for row in run.settled(rows, 5)] == ["pgd-20", "fgsm", "square"]
