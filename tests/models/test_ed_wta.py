"""The +-ED-WTA head against its definition, and what a checkpoint of it may hold."""

import pytest
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import ModelConfig, Network, build_model
from advdpnp.models.checkpoint import load_checkpoint, save_checkpoint
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.models.prototypes import PrototypeHead, class_vectors


def head(winner: str = "max", spread: float = 1.0) -> EDWTAHead:
    """Four classes of three sub-classes over five features, in float64."""
    made = EDWTAHead(5, 4, 3, winner).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.positive.copy_(torch.rand(made.positive.shape, generator=draw, dtype=torch.float64))
        noise = torch.rand(made.positive.shape, generator=draw, dtype=torch.float64)
        made.negative.copy_(made.positive + spread * (noise - 0.5))
        made.beta.fill_(2.5)
    return made


def some(n: int = 7, dim: int = 5) -> Tensor:
    return torch.rand(n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def difference_of_distances(made: EDWTAHead, features: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The definition, beta (d- - d+), in the precision of its arguments."""
    x = features[:, None, None]
    return made.beta * ((x - negative).square().sum(3) / 2 - (x - positive).square().sum(3) / 2)


def test_a_score_is_half_the_difference_of_the_squared_distances():
    made, x = head(), some()
    expected = difference_of_distances(made, x, made.positive, made.negative)
    torch.testing.assert_close(made.scores(x, made.positive, made.negative), expected, rtol=1e-12, atol=1e-14)


def test_scores_keep_their_digits_where_prototypes_nearly_coincide_and_distances_do_not():
    made, x = head(spread=1e-5), some(50)
    exact = difference_of_distances(made, x, made.positive, made.negative)
    single = EDWTAHead(5, 4, 3)
    single.load_state_dict(made.state_dict())
    # What the float32 prototypes themselves say, in float64: only the arithmetic is judged, not their rounding.
    wide = single.positive.double(), single.negative.double()
    exact = difference_of_distances(made, x.float().double(), *wide)
    ours = single.scores(x.float(), single.positive, single.negative).double()
    plain = difference_of_distances(single, x.float(), single.positive, single.negative).double()
    scale = exact.abs().mean()
    assert (ours - exact).abs().max() < 1e-5 * scale
    assert (plain - exact).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("winner", ["max", "logsumexp"])
def test_the_logit_of_a_class_comes_from_its_own_sub_classes(winner):
    made, x = head(winner), some()
    scores = made.scores(x, made.positive, made.negative)
    for i in range(len(x)):
        for c in range(4):
            own = scores[i, c]
            expected = max(own.tolist()) if winner == "max" else own.exp().sum().log().item()
            assert made(x)[i, c].item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_for_the_features_is_that_of_finite_differences():
    for winner in ("max", "logsumexp"):
        assert torch.autograd.gradcheck(head(winner), some().requires_grad_())


def test_class_distances_are_to_the_nearest_positive_prototype():
    made, x = head(), some()
    plain = [[min((x[i] - w).norm().item() for w in made.positive[c]) for c in range(4)] for i in range(len(x))]
    torch.testing.assert_close(made.class_distances(x), torch.tensor(plain, dtype=torch.float64))
    assert (made.class_distances(made.positive[:, 1].detach()).diagonal() == 0).all()


def test_class_distances_of_the_prototype_head():
    made, x = PrototypeHead(5, 4, 2.0).double(), some()
    plain = [[(x[i] - c).norm().item() for c in made.prototypes] for i in range(len(x))]
    torch.testing.assert_close(made.class_distances(x), torch.tensor(plain, dtype=torch.float64))


def test_class_distances_have_a_finite_gradient_at_a_prototype():
    for made in (head(), PrototypeHead(5, 4, 2.0).double()):
        at = made.positive[:, 0] if isinstance(made, EDWTAHead) else made.prototypes
        x = at.detach().clone().requires_grad_()
        made.class_distances(x).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_class_vectors_point_where_the_logits_of_a_class_grow():
    made = EDWTAHead(5, 4, 1).double()
    x = some().requires_grad_()
    vectors = class_vectors(made)
    assert vectors.shape == (4, 5)
    for c in range(4):
        (gradient,) = torch.autograd.grad(made(x)[:, c].sum(), x)
        torch.testing.assert_close(gradient, (made.beta * vectors[c]).expand(7, 5))


def config(**changes: object) -> ModelConfig:
    values = {
        "architecture": "pixels", "classes": 4, "channels": 1, "image_size": (6, 5), "feature_dim": None,
        "head": "ed-wta", "radius": None, "mean": (0.0,), "std": (1.0,), "subclasses": 3, "winner": "max",
    }  # fmt: skip
    return ModelConfig(**{**values, **changes})


def test_pixels_are_the_features_and_prototypes_are_images():
    model = build_model(config())
    x = torch.rand(3, 1, 6, 5)
    assert torch.equal(model.features(x), x.flatten(1))
    assert torch.equal(model.features(x.to(memory_format=torch.channels_last)), x.flatten(1))
    colour = build_model(config(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3))
    x = torch.rand(3, 3, 6, 5)
    assert torch.equal(colour.features(x.to(memory_format=torch.channels_last)).reshape(3, 3, 6, 5), x)
    assert sum(p.numel() for p in colour.parameters()) == 2 * 4 * 3 * 90 + 1


@pytest.mark.parametrize("winner", ["max", "logsumexp"])
def test_a_checkpoint_of_the_head_is_read_back(winner, tmp_path):
    torch.manual_seed(0)
    model = build_model(config(winner=winner)).eval()
    save_checkpoint(tmp_path / "net.safetensors", model, {})
    loaded, _ = load_checkpoint(tmp_path / "net.safetensors")
    assert loaded.config == model.config
    x = torch.rand(5, 1, 6, 5)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("beta", [0.0, -0.5])
def test_a_checkpoint_whose_scale_is_not_positive_is_refused(beta, tmp_path):
    model = build_model(config())
    model.head.beta.data.fill_(beta)
    save_checkpoint(tmp_path / "net.safetensors", model, {})
    with pytest.raises(AdvdpnpError, match=f"beta of the head is {beta:.3g} in .*net.safetensors, but it must be pos"):
        load_checkpoint(tmp_path / "net.safetensors")


def test_a_checkpoint_whose_scale_is_not_finite_is_refused(tmp_path):
    model = build_model(config())
    model.head.beta.data.fill_(torch.nan)
    save_checkpoint(tmp_path / "net.safetensors", model, {})
    with pytest.raises(AdvdpnpError, match=r"not finite \(head.beta\)"):
        load_checkpoint(tmp_path / "net.safetensors")


def test_a_description_of_an_older_version_has_no_sub_classes():
    values = config(head="linear", subclasses=1).to_dict()
    del values["subclasses"], values["winner"]
    assert ModelConfig.from_dict(values) == config(head="linear", subclasses=1)
    assert isinstance(build_model(ModelConfig.from_dict(values)), Network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subclasses": 0}, "cannot have 0 sub-classes"),
        ({"head": "linear"}, "the head linear cannot have 3 sub-classes"),
        ({"winner": "mean"}, "no winner called 'mean'; choose max or logsumexp"),
        ({"radius": 1.0}, "the head ed-wta has no radius"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(changes, message):
    with pytest.raises(AdvdpnpError, match=message):
        build_model(config(**changes))
