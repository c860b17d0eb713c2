"""Chunks side by side, and rows that leave seldom: neither shows in the results."""

import pytest
import torch
from torch import nn

from advdpnp.attacks import search
from advdpnp.attacks.algorithms.apgd import APGD
from advdpnp.attacks.algorithms.cw_l2 import CWL2
from advdpnp.attacks.algorithms.square import Square
from advdpnp.attacks.engine import scheduler
from advdpnp.attacks.engine import search as engine
from advdpnp.attacks.engine.replicas import replicate
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.rows import Batch, where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError

THREAT = ThreatModel.parse("linf", 0.008)
STAGES = AttackEnsemble(
    "three", (Square(THREAT, queries=3, name="a"), APGD(THREAT, "margin", iterations=9), Square(THREAT, 70))
)
COLUMNS = ("success", "x_adv", "forwards", "backwards", "zero_gradient", "margin", "norm")


def assert_same(a, b):
    for name in COLUMNS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Disables forked workers, as on other platforms."""
    monkeypatch.setattr(engine, "can_fork", lambda: False)


def test_results_do_not_depend_on_the_number_of_cores(net, images, labels, find):
    one = find(net, STAGES, images, labels)
    torch.set_num_threads(3)
    three = find(net, STAGES, images, labels)
    assert torch.get_num_threads() == 3
    assert_same(one, three)


def test_results_do_not_depend_on_the_sync_interval(net, images, labels, find, monkeypatch):
    minimum = CWL2(ThreatModel.parse("l2", 0.5), searches=2, iterations=30)
    often = [find(net, attack, images, labels) for attack in (STAGES, minimum)]
    monkeypatch.setitem(scheduler.LOOK_EVERY, "cpu", 7)
    for attack, expected in zip((STAGES, minimum), often, strict=True):
        assert_same(find(net, attack, images, labels, max_active=20), expected)


class Notes(nn.Module):
    """Stores its input in forward, as some models do. Two threads in one object would mix their images."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        self.x = x
        h = self.net[0](self.x)
        for layer in self.net[1:]:
            h = layer(h)
        return h + 0 * self.x.flatten(1)[:, :1]


def test_each_replica_has_its_own_model(net, images, labels, find):
    torch.set_num_threads(2)
    noted = Notes(net)
    assert_same(find(noted, STAGES, images, labels), find(net, STAGES, images, labels))
    models = []
    with replicate(noted.eval(), 4, "cpu") as replicas:
        replicas.map(
            lambda executor, rows: models.append(executor.model) or rows, Batch(images[:8], labels[:8], labels[:8])
        )
    assert len(models) == len(set(map(id, models))) == 2
    assert any(model is noted for model in models)


class Uncopied(nn.Sequential):
    def __deepcopy__(self, memo):
        raise RuntimeError("no")


def test_a_model_that_cannot_be_copied_has_one_replica(net, images, labels, find):
    torch.set_num_threads(2)
    assert_same(find(Uncopied(*net), STAGES, images, labels), find(net, STAGES, images, labels))


def test_errors_of_a_replica_reach_the_caller(net, images, labels, find):
    class Broken(APGD):
        def tell(self, state, logits, gradient, misclassified):
            raise AdvdpnpError("it is late")

    torch.set_num_threads(2)
    with pytest.raises(AdvdpnpError, match="late"):
        list(search(net, Broken(THREAT, "ce"), images, labels, torch.arange(60), seed=0, static_batch_size=8))
    assert torch.get_num_threads() == 2


def test_where_rows_is_exact():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, 3, 8, 8, generator=generator) * torch.logspace(-30, 30, 50)[None, :, None, None, None]
    rows = torch.rand(50, generator=generator) < 0.5
    assert torch.equal(where_rows(rows, a, b), torch.where(rows[:, None, None, None], a, b))
    pixels = torch.rand(50, 1, 8, 8, generator=generator) < 0.5
    assert torch.equal(where_rows(pixels, a, b), torch.where(pixels, a, b))


def test_may_contain_never_excludes_an_allowed_image():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 3, 8, 8, generator=generator)
    for norm, eps in (("linf", 8 / 255), ("l2", 0.5), ("l1", 12.0)):
        threat = ThreatModel.parse(norm, eps)
        direction = torch.randn(x.shape, generator=generator)
        length = threat.distance(torch.zeros_like(x), direction).float()[:, None, None, None]
        sizes = eps * torch.linspace(0.9999, 1.003, 400)[:, None, None, None]
        other = x + direction / length * sizes
        box = ThreatModel(norm, eps, "", -10, 10)
        inside, maybe = box.contains(x, other), box.may_contain(x, other)
        assert not bool((inside & ~maybe).any())
        assert 0 < int(inside.sum()) < 400
        assert not bool(maybe.all())


class BatchDependent(nn.Module):
    """Rounds differently in small batches, as some libraries do."""

    def __init__(self, net, least):
        super().__init__()
        self.net, self.least = net, least

    def forward(self, x):
        return self.net(x) * (1 if len(x) >= self.least else 1 + 1e-6)


class Exact(nn.Module):
    """Small integers, for images of zeros and ones: its logits and gradients are exact in any order of sums.

    The logits lie so far apart that a softmax over them is exact too.
    """

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
        for weight in self.net.parameters():
            weight.data = torch.randint(-2, 3, weight.shape, generator=generator).float()

    def forward(self, x):
        return self.net(x) - 100_000 * torch.arange(10)


@pytest.fixture
def exact_images(images):
    return images.round()


def test_smaller_batches_are_used_only_if_they_give_the_same_bits(net, images, exact_images, labels, find):
    for model, sizes in (
        (Exact(), [4, 4, 8, 12, 16, 16]),
        (BatchDependent(Exact(), 8), [8, 8, 8, 12, 16, 16]),
        (BatchDependent(Exact(), 16), [16] * 6),
    ):
        model.eval().requires_grad_(False)
        with replicate(model, 16, "cpu", example=exact_images[:9]) as replicas:
            assert replicas.chunk_size(1) == 16  # nothing has been wasted yet, so no trial is allowed
        with replicate(model, 16, "cpu", example=exact_images[:9], wasted=10_000) as replicas:
            assert [replicas.chunk_size(rows) for rows in (1, 4, 5, 12, 13, 90)] == sizes
            assert replicas.padded_size(17) == 32
            assert replicas.first.batch_sizes == {16, *sizes}
    asked = []
    net.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
    found = find(BatchDependent(net, 16), STAGES, images, labels)
    assert set(asked[-50:]) == {16}
    assert bool(found.success.any())


@pytest.mark.parametrize(
    ("equal", "computed"),
    [
        (True, [16] * 5 + [4] * 3),  # a trial is three calls of 16 and of 4 rows, and 12 rows are wasted each time
        (False, [16] * 60),
    ],
)
def test_a_size_is_tried_once_it_has_wasted_what_a_trial_costs(equal, computed, exact_images, labels):
    model, sizes, asked = (Exact() if equal else BatchDependent(Exact(), 16)).eval().requires_grad_(False), [], []

    def ask(executor, rows):
        sizes.append(len(rows))
        return rows

    row = Batch(exact_images[:1], labels[:1], torch.arange(1))
    with replicate(model, 16, "cpu", example=exact_images[:16], count=1) as replicas:
        model.register_forward_pre_hook(lambda module, inputs: asked.append(len(inputs[0])))
        for _ in computed:
            replicas.map(ask, row)
    assert sizes == computed
    smaller = {size for size in asked if size < 16}
    assert smaller == {4}  # after one that failed, the next needs ten times the waste


def test_rows_are_split_over_all_replicas(exact_images):
    model = Exact().requires_grad_(False)
    with replicate(model, 16, "cpu", example=exact_images[:16], count=2, wasted=10_000) as replicas:
        assert [replicas.chunk_size(rows) for rows in (1, 8, 9, 16, 17, 32, 90)] == [4, 4, 8, 8, 12, 16, 16]
        assert replicas.width == 32
