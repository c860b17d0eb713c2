"""+-ED-WTA against plain loops of the published per-sample rule, and what its training may and may not do."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from scipy.optimize import nnls
from torch import Tensor

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import ModelConfig, Network, build_model
from advdpnp.models.checkpoint import load_checkpoint
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.training.methods import METHODS
from advdpnp.training.methods.base import Common
from advdpnp.training.methods.prototypes.ed_wta import kmeans_centres, switched_scores
from advdpnp.training.recipe import Recipe, resolve_recipe
from advdpnp.training.step import TrainingStep
from advdpnp.training.trainer import train

CLASSES, SUBCLASSES, SIZE = 3, 2, (2, 3)
DIM = SIZE[0] * SIZE[1]


def small_network(beta: float = 1.5, spread: float = 1.0, winner: str = "max") -> Network:
    """Prototypes uniform in [0, spread], in float64, over images of 2x3 pixels."""
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="pixels",
        classes=CLASSES,
        channels=1,
        image_size=SIZE,
        feature_dim=None,
        head="ed-wta",
        radius=None,
        mean=(0.0,),
        std=(1.0,),
        subclasses=SUBCLASSES,
        winner=winner,
    )
    network = build_model(config).double()
    with torch.no_grad():
        for prototypes in (network.head.positive, network.head.negative):
            prototypes.copy_(spread * torch.rand(prototypes.shape, dtype=torch.float64))
        network.head.beta.fill_(beta)
    return network


def images(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, *SIZE, generator=draw, dtype=torch.float64), torch.arange(n) % CLASSES


def neurons(head: EDWTAHead, x: Tensor, y: int) -> tuple[list[float], list[float], float]:
    """z, tau and the loss of one image by plain loops over neurons, class by class, as published."""
    out = []
    for c in range(CLASSES):
        for k in range(SUBCLASSES):
            positive, negative = (sum((a - b) ** 2 for a, b in zip(x.tolist(), w[c, k].tolist(), strict=True)) / 2
                                  for w in (head.positive, head.negative))  # fmt: skip
            out.append(head.beta.item() * (negative - positive))
    total = sum(math.exp(o) for o in out)
    z = [math.exp(o) / total for o in out]
    own = [y * SUBCLASSES <= k < (y + 1) * SUBCLASSES for k in range(len(z))]
    share = sum(p for p, mine in zip(z, own, strict=True) if mine)
    tau = [p / share if mine else 0.0 for p, mine in zip(z, own, strict=True)]
    return z, tau, -math.log(share)


def a_step(network: Network, lr: float, beta_lr: float, batch: int = 2) -> TrainingStep:
    settings = {"optimiser.lr": lr, "optimiser.beta_lr": beta_lr, "batch_size": batch, "model.subclasses": SUBCLASSES}
    recipe = resolve_recipe("ed-wta", "none", {**settings, "precision": "64-true"})
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    threat = ThreatModel.parse("linf", "0.1")
    return TrainingStep(recipe, METHODS.make("ed-wta"), network, threat, fabric, compiled=False)


def test_the_loss_is_the_mean_of_plain_loops():
    network = small_network()
    x, y = images(7)
    expected = sum(neurons(network.head, x[i].flatten(), int(y[i]))[2] for i in range(7)) / 7
    loss, terms = METHODS.make("ed-wta").loss(network, x, None, y)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert terms["beta"] == 1.5
    assert not terms["beta"].requires_grad


@pytest.mark.parametrize("label", range(CLASSES))
def test_a_batch_of_one_is_the_published_rule(label):
    """Through the optimiser of the recipe, for ten images in turn: momentum or weight decay would show."""
    network, lr, beta_lr = small_network(), 0.3, 0.02
    plain = small_network()
    step = a_step(network, lr, beta_lr)
    for i, x in enumerate(images(10)[0]):
        step.update(x[None], torch.tensor([label]), torch.tensor([i]), epoch=0, step=i, progress=0.0)
        head, flat = plain.head, x.flatten()
        z, tau, _ = neurons(head, flat, label)
        beta, change = head.beta.item(), 0.0
        before = head.positive.detach().clone(), head.negative.detach().clone()
        with torch.no_grad():
            for c in range(CLASSES):
                for k in range(SUBCLASSES):
                    n = c * SUBCLASSES + k
                    positive, negative = before[0][c, k], before[1][c, k]
                    change += (z[n] - tau[n]) * float(
                        (flat - negative).square().sum() / 2 - (flat - positive).square().sum() / 2
                    )
                    if c == label:
                        head.positive[c, k] = positive - lr * beta * (tau[n] - z[n]) * (positive - flat)
                    else:
                        head.negative[c, k] = negative - lr * beta * z[n] * (negative - flat)
            head.beta -= beta_lr * change
        for ours, published in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, published, rtol=1e-10, atol=1e-13)


def test_an_image_moves_positive_prototypes_of_its_class_and_negative_ones_of_the_others():
    network = small_network()
    METHODS.make("ed-wta").loss(network, images(3)[0], None, torch.tensor([1, 1, 1]))[0].backward()
    positive, negative = (w.grad.abs().sum(2) for w in (network.head.positive, network.head.negative))
    assert (positive[1] > 0).all()
    assert (positive[[0, 2]] == 0).all()
    assert (negative[[0, 2]] > 0).all()
    assert (negative[1] == 0).all()


def test_every_step_goes_towards_the_image():
    network = small_network()
    for i, (x, label) in enumerate(zip(*images(12), strict=True)):
        before = [w.detach().clone() for w in (network.head.positive, network.head.negative)]
        a_step(network, 0.5, 0.01).update(x[None], label[None], torch.tensor([i]), 0, i, 0.0)
        for old, new in zip(before, (network.head.positive, network.head.negative), strict=True):
            way, taken = x.flatten() - old, new.detach() - old
            share = (taken * way).sum(2, keepdim=True) / way.square().sum(2, keepdim=True)
            torch.testing.assert_close(taken, share * way, rtol=1e-9, atol=1e-13)
            assert (share >= 0).all()
            assert (share <= 1).all()


def test_no_prototype_leaves_the_hull_of_its_start_and_the_images():
    """Batches of several images, so only the sum of a step is bounded; the same images come again and again."""
    network = small_network(spread=0.2)
    x, y = images(8)
    starts = [w.detach().clone() for w in (network.head.positive, network.head.negative)]
    step = a_step(network, lr=0.9, beta_lr=0.001)
    for i in range(60):
        part = torch.randperm(8, generator=torch.Generator().manual_seed(i))[:4]
        step.update(x[part], y[part], part, 0, i, 0.0)
    for start, end in zip(starts, (network.head.positive, network.head.negative), strict=True):
        for c in range(CLASSES):
            for k in range(SUBCLASSES):
                corners = torch.cat([start[c, k][None], x.flatten(1)])
                place = end[c, k].detach()
                assert (place >= corners.amin(0) - 1e-12).all()
                assert (place <= corners.amax(0) + 1e-12).all()
                system = np.vstack([corners.T.numpy(), np.ones(9)])
                weights, residual = nnls(system, np.append(place.numpy(), 1.0))
                assert residual < 1e-9
                assert weights.sum() == pytest.approx(1)
        assert not torch.allclose(start, end)


def test_the_gradient_for_the_features_is_untouched_by_the_switch():
    network = small_network()
    x, y = images(5)
    features = x.flatten(1).requires_grad_()
    head = network.head

    def loss(scores: Tensor) -> Tensor:
        return F.cross_entropy(scores.logsumexp(2), y)

    (switched,) = torch.autograd.grad(loss(switched_scores(head, features, y)), features)
    (plain,) = torch.autograd.grad(loss(head.scores(features, head.positive, head.negative)), features)
    torch.testing.assert_close(switched, plain, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda f: loss(switched_scores(head, f, y)), features)


def test_without_the_switch_prototypes_follow_the_whole_gradient_of_the_same_loss():
    x, y = images(6)
    found = {}
    for switch in (True, False):
        network = small_network()
        loss, _ = METHODS.make("ed-wta", switch=switch).loss(network, x, None, y)
        loss.backward()
        found[switch] = loss.item(), network.head.positive.grad
    assert found[True][0] == found[False][0]
    plain = small_network()
    F.cross_entropy(
        plain.head.scores(plain.features(x), plain.head.positive, plain.head.negative).logsumexp(2), y
    ).backward()
    torch.testing.assert_close(found[False][1], plain.head.positive.grad)
    assert not torch.allclose(found[True][1], found[False][1])


@pytest.mark.parametrize("winner", ["max", "logsumexp"])
def test_the_loss_is_the_cross_entropy_of_logsumexp_whatever_the_winner(winner):
    network = small_network(winner=winner)
    x, y = images(9)
    loss, terms = METHODS.make("ed-wta").loss(network, x, None, y)
    other = F.cross_entropy(network(x), y)
    assert (loss.item() == pytest.approx(other.item(), rel=1e-12)) == (winner == "logsumexp")
    assert terms["clean_accuracy"] == (network(x).argmax(1) == y).float().mean()


def test_smoothed_targets_are_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        METHODS.find("ed-wta")[0].build(label_smoothing=0.1)


@pytest.mark.parametrize("epochs", [1, 7, 49, 100])
def test_rates_fall_by_their_factor_after_every_epoch(epochs):
    network = small_network()
    step = a_step(network, 0.3, 0.02)
    recipe = step.recipe.model_copy(update={"epochs": epochs})
    step = TrainingStep(recipe, step.method, small_network(), step.attack.threat, step.fabric, compiled=False)
    x, y = images(2)
    for epoch in range(epochs):
        for part in (0, 1, 2):
            step.update(x, y, torch.arange(2), epoch, part, (epoch + part / 3) / epochs)
            rates = [group["lr"] for group in step.optimiser.param_groups]
            assert rates == pytest.approx([0.3 * 0.95**epoch, 0.02 * 0.95**epoch])


def test_kmeans_finds_the_means_of_separate_groups_and_the_same_ones_again():
    draw = torch.Generator().manual_seed(3)
    groups = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]])
    features = (groups[:, None] + torch.rand(4, 20, 3, generator=draw)).reshape(80, 3)
    labels = torch.arange(4).repeat_interleave(20) // 2  # two groups to a class
    centres = kmeans_centres(features, labels, 2, 2)
    means = features.double().reshape(4, 20, 3).mean(1).reshape(2, 2, 3)
    for c in range(2):
        order = torch.cdist(means[c], centres[c]).argmin(1)
        torch.testing.assert_close(centres[c][order], means[c])
    assert torch.equal(centres, kmeans_centres(features, labels, 2, 2))


def recipe(**changes) -> Recipe:
    values = {"epochs": 3, "batch_size": 32, "validation_steps": 1, "optimiser.lr": 0.3, "model.subclasses": 2}
    return resolve_recipe("ed-wta", "none", {**values, **changes})


def test_the_start_mean_puts_positive_prototypes_on_k_means_and_negative_ones_on_the_mean(quadrants, tmp_path):
    still = {"optimiser.lr": 1e-30, "optimiser.beta_lr": 1e-30, "epochs": 1}
    train(recipe(**{"method.start": "mean", "method.beta": 10.0, **still}), quadrants, tmp_path)
    head = load_checkpoint(tmp_path / "last.safetensors")[0].head
    pixels = quadrants.train.images.flatten(1).double() / 255
    torch.testing.assert_close(head.positive, kmeans_centres(pixels, quadrants.train.labels, 4, 2).float())
    torch.testing.assert_close(head.negative, pixels.mean(0).float().expand(4, 2, 64))
    assert head.beta == 10


def test_more_sub_classes_than_images_are_one_sentence(quadrants, tmp_path):
    with pytest.raises(AdvdpnpError, match=r"class 0 has .* training images, too few for 300 sub-classes; lower model"):
        train(recipe(**{"method.start": "mean", "model.subclasses": 300}), quadrants, tmp_path)


@pytest.mark.parametrize("start", ["random", "mean"])
def test_a_short_training_learns(start, quadrants, tmp_path):
    metrics = train(recipe(**{"method.start": start, "epochs": 4}), quadrants, tmp_path)
    assert metrics["validation_clean"].iloc[-1] > 0.9
    assert metrics["cce"].is_monotonic_decreasing
    head = load_checkpoint(tmp_path / "last.safetensors")[0].head
    assert head.positive.min() >= -0.01  # inside the hull of the start and the images
    assert head.positive.max() <= 1


def test_a_scale_that_turns_negative_stops_training_at_that_step():
    """A misclassified image lowers beta, here by far more than there is."""
    network = small_network()
    x, _ = images(1)
    worst = network(x).argmin(1)
    with pytest.raises(AdvdpnpError, match=r"beta of the head is -.* in training.*lower optimiser.beta_lr"):
        a_step(network, 0.1, beta_lr=1e3).update(x, worst, torch.tensor([0]), 0, 0, 0.0)


def test_other_methods_train_the_head_without_the_switch(quadrants, tmp_path, monkeypatch):
    changes = {"model.head": "ed-wta", "model.subclasses": 3, "epochs": 1, "batch_size": 32, "validation_steps": 1}
    own = resolve_recipe("ce", "none", {**changes, "model.winner": "logsumexp"})
    train(own, quadrants, tmp_path / "ce")
    model, _ = load_checkpoint(tmp_path / "ce")
    assert model.config.winner == "logsumexp"
    assert model.head.positive.shape == (4, 3, 128)
    monkeypatch.setattr(Common, "end_step", lambda self, model: model.head.beta.data.fill_(-1.0))
    with pytest.raises(AdvdpnpError, match="beta of the head is -1 in epoch 1"):
        train(own, quadrants, tmp_path / "negative")
    assert not list((tmp_path / "negative").glob("*.safetensors"))


def test_another_head_is_refused(quadrants, tmp_path):
    with pytest.raises(AdvdpnpError, match=r"ed-wta needs prototypes; set model.head=ed-wta"):
        train(recipe(**{"model.head": "linear"}), quadrants, tmp_path)


# The start from a checkpoint, and a frozen backbone


@pytest.fixture
def backbone(quadrants, tmp_path):
    """A trained small CNN."""
    values = {"epochs": 1, "batch_size": 32, "validation_steps": 1, "model.feature_dim": 5}
    train(resolve_recipe("ce", "none", values), quadrants, tmp_path / "backbone")
    return tmp_path / "backbone"


def on_features(backbone, **changes) -> Recipe:
    model = {"model.architecture": "small-cnn", "model.feature_dim": 5, "model.weights": str(backbone)}
    return recipe(**{**model, "model.frozen": True, "epochs": 2, **changes})


@pytest.mark.parametrize("average", [None, 0.5])
def test_a_frozen_backbone_stays_to_the_bit(average, backbone, quadrants, tmp_path):
    train(on_features(backbone, average=average), quadrants, tmp_path / "run")
    before, after = (load_checkpoint(path)[0] for path in (backbone, tmp_path / "run"))
    assert after.config.mean == before.config.mean
    kept = {k: v for k, v in before.state_dict().items() if not k.startswith("head")}
    state = after.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert set(state) - set(kept) == {"head.positive", "head.negative", "head.beta"}


def test_a_backbone_that_is_not_frozen_starts_there_and_learns(backbone, quadrants, tmp_path):
    free = {"model.frozen": False, "epochs": 1}
    train(on_features(backbone, **free), quadrants, tmp_path / "run")
    train(on_features(backbone, **free, **{"optimiser.lr": 1e-30}), quadrants, tmp_path / "slow")
    before, after, slow = (load_checkpoint(path)[0] for path in (backbone, tmp_path / "run", tmp_path / "slow"))
    assert not torch.equal(after.projection.weight, before.projection.weight)
    assert torch.equal(slow.projection.weight, before.projection.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.architecture": "tiny-resnet"}, "architecture of .* is small-cnn, but this run needs tiny-resnet"),
        ({"model.feature_dim": None, "model.architecture": "small-cnn"}, "feature_dim of .* is 5, but this run needs"),
        ({"model.weights": "nowhere.safetensors"}, "no file nowhere.safetensors"),
    ],
)
def test_a_start_that_does_not_fit_is_one_sentence(changes, message, backbone, quadrants, tmp_path):
    values = on_features(backbone).model_dump(mode="json")
    for key, value in changes.items():
        values["model"][key.removeprefix("model.")] = value
    with pytest.raises(AdvdpnpError, match=message):
        train(Recipe(**values), quadrants, tmp_path / "run")


def test_frozen_needs_a_start_and_only_one(quadrants, tmp_path):
    with pytest.raises(AdvdpnpError, match=r"set model.weights"):
        train(recipe(**{"model.frozen": True}), quadrants, tmp_path)
    with pytest.raises(AdvdpnpError, match="two starts of one backbone"):
        train(recipe(**{"model.weights": "a", "model.pretrained": True}), quadrants, tmp_path)
