"""Iterations that are replayed from buffers of their own, with a closure in the place of a graph."""

from dataclasses import fields, replace
from functools import partial

import pytest
import torch

from advdpnp.attacks.engine import capture
from advdpnp.attacks.rows import Batch


class Closures:
    """Does the work again, on the same buffers."""

    made = 0

    def __init__(self, device):
        """No device has memory of its own here."""

    def warm_up(self, work):
        return work()

    def record(self, work):
        Closures.made += 1
        return work


@pytest.fixture
def replayed(monkeypatch):
    """The second iteration of rows is recorded."""
    monkeypatch.setitem(capture.GRAPHS, "cpu", Closures)
    monkeypatch.setattr(capture, "PLAIN", 1)
    monkeypatch.setattr(Closures, "made", 0)
    return Closures


SHORTER = {
    "pgd-6": {},
    "apgd-ce": {"iterations": 12},
    "apgd-t": {"iterations": 5},
    "fab-t": {"iterations": 3},
    "square": {"queries": 15},
}


@pytest.mark.parametrize("name", SHORTER)
def test_replays_give_the_results_of_the_plain_path(name, net, attack, images, labels, find, monkeypatch, caplog):
    search = replace(attack(name), **SHORTER[name])
    plain = find(net, search, images[:24], labels[:24], static_batch_size=16)
    monkeypatch.setitem(capture.GRAPHS, "cpu", Closures)
    monkeypatch.setattr(capture, "PLAIN", 1)
    monkeypatch.setattr(Closures, "made", 0)
    found = find(net, search, images[:24], labels[:24], static_batch_size=16)
    for field in fields(found):
        assert torch.equal(getattr(found, field.name), getattr(plain, field.name)), field.name
    assert Closures.made > 0
    assert not caplog.records


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SHORTER)
def test_cuda_graphs_give_the_results_of_the_plain_path(name, net, attack, images, labels, find, monkeypatch, caplog):
    search, net = replace(attack(name), **SHORTER[name]), net.cuda()
    monkeypatch.setattr(capture, "PLAIN", 10**9)
    plain = find(net, search, images, labels, device="cuda")
    monkeypatch.setattr(capture, "PLAIN", 1)
    found = find(net, search, images, labels, device="cuda")
    for field in fields(found):
        assert torch.equal(getattr(found, field.name), getattr(plain, field.name)), field.name
    assert not caplog.records


def test_models_whose_code_must_run_every_time_are_not_captured(net, attack, images, labels, find, replayed):
    calls = []
    hook = net.register_forward_hook(lambda *_: calls.append(1))
    find(net, attack("pgd-6"), images[:8], labels[:8])
    assert len(calls) >= 7
    hook.remove()
    find(net, attack("pgd-6"), images[:8], labels[:8], randomised=True)
    assert replayed.made == 0


def test_rows_that_change_their_shape_are_not_captured(replayed, caplog):
    capture._say.cache_clear()
    rows = Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    captured = capture.Capture(torch.device("cpu"), allowed=True)
    for _ in range(2):
        longer = captured.run(lambda rows, _: replace(rows, x=torch.cat([rows.x] * 2, 1)), "owner", rows, [True])
        assert longer.x.shape == (2, 2)
    assert "changes the shape" in caplog.text


def test_a_value_may_move_from_one_buffer_to_another(replayed):
    rows = Batch(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3]))
    captured = capture.Capture(torch.device("cpu"), allowed=True)
    swaps = partial(captured.run, lambda rows, _: Batch(rows.y, rows.x[:], rows.sample), "owner")
    for count in (1, 2, 3):
        after = swaps(rows, [True] * count)
        assert (float(after.x), float(after.y)) == ((2.0, 1.0) if count % 2 else (1.0, 2.0))
    assert (float(rows.x), float(rows.y)) == (1.0, 2.0)
    assert replayed.made == 1


def test_recordings_of_the_same_shapes_share_their_memory(replayed, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "empty_like", lambda tensor: made.append(tensor) or tensor.clone())
    images, numbers = torch.arange(60.0).view(5, 3, 2, 2), torch.arange(5)
    rows = Batch(images, numbers, numbers)  # two tensors that are one
    captured = capture.Capture(torch.device("cpu"), allowed=True)
    for _ in range(3):
        for factor in (2, 3):
            found = captured.run(
                lambda each, _, factor=factor: replace(each, x=each.x * factor, y=each.y + factor),
                factor,
                rows,
                [False] * 2,
            )
            assert torch.equal(found.x, images * factor**2)
            assert torch.equal(found.y, numbers + 2 * factor)
            assert torch.equal(found.sample, numbers)
    assert replayed.made == 2
    assert len(made) == 3
