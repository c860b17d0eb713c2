"""The parts of training: rival methods against plain computations, weight perturbation, averaging, validation."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.losses import LOSSES
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw
from advdpnp.datasets.base import Split
from advdpnp.models.network import ModelConfig, build_model
from advdpnp.models.prototypes import CentreHead
from advdpnp.training.methods import METHODS
from advdpnp.training.validation import validate
from advdpnp.training.weights import WeightAverage, perturbed_weights


class Fixed(nn.Module):
    """Logits that are given, whatever the images: row i of the batch marked by its first pixel."""

    def __init__(self, clean: torch.Tensor, adversarial: torch.Tensor) -> None:
        super().__init__()
        self.tables = [clean, adversarial]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tables[int(x[0, 0, 0, 0] > 0.5)]


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = 3 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    adversarial = 3 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    return clean.requires_grad_(), adversarial.requires_grad_(), torch.tensor([0, 1, 2, 3, 1])


def loss_of(name: str, clean: torch.Tensor, adversarial: torch.Tensor, y: torch.Tensor, **values) -> torch.Tensor:
    x = torch.zeros(5, 1, 2, 2, dtype=torch.float64)
    return METHODS.make(name, **values).loss(Fixed(clean, adversarial), x, x + 1, y)[0]


def test_trades_matches_the_definition(logits):
    clean, adversarial, y = logits
    expected = 0.0
    for c, a, label in zip(clean.softmax(1).tolist(), adversarial.softmax(1).tolist(), y.tolist(), strict=True):
        expected += -math.log(c[label]) + 6 * sum(p * math.log(p / q) for p, q in zip(c, a, strict=True))
    assert loss_of("trades", *logits).item() == pytest.approx(expected / 5, rel=1e-10)


def test_mart_matches_the_definition(logits):
    clean, adversarial, y = logits
    expected = 0.0
    for c, a, label in zip(clean.softmax(1).tolist(), adversarial.softmax(1).tolist(), y.tolist(), strict=True):
        largest = max(p for k, p in enumerate(a) if k != label)
        divergence = sum(p * math.log(p / q) for p, q in zip(c, a, strict=True))
        expected += -math.log(a[label]) - math.log(1 - largest) + 5 * divergence * (1 - c[label])
    assert loss_of("mart", *logits).item() == pytest.approx(expected / 5, rel=1e-10)


def test_mart_is_finite_for_a_net_that_is_sure_and_wrong():
    clean = torch.tensor([[900.0, -900.0, 0.0]]).expand(5, 3).clone().requires_grad_()
    loss = loss_of("mart", clean, clean.detach() * -1, torch.zeros(5, dtype=torch.int64))
    loss.backward()
    assert loss.isfinite()
    assert clean.grad is not None
    assert clean.grad.isfinite().all()


@pytest.mark.parametrize("name", ["trades", "mart", "pgd-at", "fgsm-rs"])
def test_gradients_of_the_losses_are_right(name, logits):
    clean, adversarial, y = logits
    assert torch.autograd.gradcheck(lambda c, a: loss_of(name, c, a, y), (clean, adversarial))


def test_label_smoothing_reaches_every_cross_entropy(logits):
    _, adversarial, y = logits
    smooth = F.cross_entropy(adversarial, y, label_smoothing=0.1)
    assert loss_of("pgd-at", *logits, label_smoothing=0.1).item() == pytest.approx(smooth.item())
    for name in ("trades", "mart"):
        assert loss_of(name, *logits, label_smoothing=0.1).item() != pytest.approx(loss_of(name, *logits).item())


def small(head: str = "linear", radius: float | None = None):
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="small-cnn",
        classes=4,
        channels=1,
        image_size=(8, 8),
        feature_dim=None,
        head=head,
        radius=radius,
        mean=(0.5,),
        std=(0.25,),
    )
    return build_model(config)


def test_centre_loss_is_cross_entropy_and_squared_distance_to_the_centre():
    network = small("centre").eval()
    assert isinstance(network.head, CentreHead)
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    loss, _ = METHODS.make("center", lambda_pos=0.3).loss(network, x, None, y)
    h = network.features(x)
    distance = sum((h[i] - network.head.centres[int(y[i])]).square().sum() for i in range(6)) / 6
    assert loss.item() == pytest.approx((F.cross_entropy(network(x), y) + 0.3 * distance).item(), rel=1e-5)
    with pytest.raises(AdvdpnpError, match="centre"):
        METHODS.make("center").loss(small(), x, None, y)


def test_dpp_is_dpnp_without_its_negative_terms():
    network = small("prototype", 1.0).eval()
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    positive, _ = METHODS.make("dpp", lambda_pos=0.2).loss(network, x, None, y)
    same, _ = METHODS.make("dpnp", lambda_pos=0.2, lambda_sample_neg=0, lambda_class_neg=0).loss(network, x, None, y)
    assert positive.item() == same.item()


def test_kl_attack_raises_the_divergence_from_the_clean_output():
    network = small().eval()
    x, y = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    attack = PGD(ThreatModel.parse("linf", "0.1"), steps=5, objective="kl")
    x_adv = perturb(network, x, y, attack, Draw.of(0, torch.arange(8)))
    with torch.no_grad():
        clean = network(x)
        noise = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()
        found = LOSSES["kl"](network(x_adv), y, clean)
        assert (found > LOSSES["kl"](network(noise.clamp(0, 1)), y, clean)).all()
        assert LOSSES["kl"](clean, y, clean).abs().max() < 1e-6


def test_weight_perturbation_has_the_size_it_says_and_leaves_no_trace():
    network = small("prototype", 1.0)
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    before = copy.deepcopy(network.state_dict())
    F.cross_entropy(network(x), y).backward()
    start = F.cross_entropy(network(x), y).item()
    state = copy.deepcopy(network.state_dict())
    with perturbed_weights(network, 0.05):
        for name, weight in network.named_parameters():
            moved = (weight - before[name]).norm() / before[name].norm().clamp_min(1e-12)
            perturbed = weight.dim() >= 2 and name != "head.prototypes"
            assert moved.item() == pytest.approx(0.05 if perturbed else 0.0, rel=1e-3), name
        assert F.cross_entropy(network(x), y).item() > start
    assert all(torch.equal(before[name], weight) for name, weight in network.named_parameters())
    assert state.keys() == before.keys()


def test_average_follows_and_gets_its_own_batchnorm_statistics():
    network = small()
    average = WeightAverage(network, 0.9)
    first = network.head.weight.detach().clone()
    with torch.no_grad():
        network.head.weight += 1
    average.follow(network, step=1000)
    assert torch.allclose(average.network.head.weight, first + 0.1)
    batches = [torch.rand(16, 1, 8, 8) for _ in range(3)]
    average.recompute_batchnorm([lambda x=x: average.network(x) for x in batches])
    layer = next(m for m in average.network.modules() if isinstance(m, nn.BatchNorm2d))
    convolution = average.network.backbone.stages[0]
    with torch.no_grad():
        outputs = [convolution(average.network.normalise(x)) for x in batches]
    expected = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(layer.running_mean, expected)
    assert layer.momentum == 0.1
    assert not average.network.training


def test_average_soon_forgets_the_random_start_and_then_moves_at_its_decay():
    network = small()
    average, plain = WeightAverage(network, 0.999), WeightAverage(network, 0.999)
    network.head.weight.data.fill_(0.0)
    average.network.head.weight.data.fill_(1.0)  # the share of the start that is left
    plain.network.head.weight.data.fill_(1.0)
    for step in range(20):
        average.follow(network, step)
        plain.follow(network, 10**6)
    assert average.network.head.weight.max() < 1e-6
    assert plain.network.head.weight.min() > 0.97


class Saturated(nn.Module):
    """A linear net, as a function of the mean pixel, whose logits are so large that the softmax has no gradient."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.mean((1, 2, 3)) - 0.5
        return self.scale * torch.stack([score, -score], 1)


def test_validation_notices_a_masked_gradient():
    bright = torch.arange(200) % 2
    images = torch.where(bright == 0, 140, 115).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    split = Split(images, bright)
    threat = ThreatModel.parse("linf", "0.1")
    honest, masked = (validate(Saturated(scale), split, threat, 10, seed=0) for scale in (1.0, 1e5))
    assert honest.clean == masked.clean == 1
    assert (honest.pgd, honest.zero_gradient) == (0, 0)
    assert masked.pgd > 0.2
    assert masked.zero_gradient == 1
    assert masked.pgd_margin == masked.worst == 0
    assert honest.gap_p == 1
    assert masked.gap_p < 1e-3
