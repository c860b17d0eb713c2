"""What the methods promise: who moves the prototypes, and what each loss is made of."""

import pytest
import torch
import torch.nn.functional as F

from advdpnp.models.network import ModelConfig, build_model
from advdpnp.training.methods import METHODS
from advdpnp.training.methods.prototypes import losses

METHOD_NAMES = METHODS.names()


def tiny_network(head: str = "prototype", radius: float = 1.0, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="small-cnn",
        classes=4,
        channels=1,
        image_size=(8, 8),
        feature_dim=6,
        head=head,
        radius=radius if head == "prototype" else None,
        mean=(0.5,),
        std=(0.25,),
    )
    return build_model(config).to(dtype)


def batch(n: int = 8, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 8, 8, generator=generator, dtype=dtype)
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=dtype)).clamp(0, 1)
    return x, x_adv, torch.arange(n) % 4


def backbone_gradient(network) -> float:
    return sum(
        float(p.grad.abs().sum())
        for n, p in network.named_parameters()
        if n != "head.prototypes" and p.grad is not None
    )


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_gives_a_finite_loss_and_gradient(name):
    method = METHODS.make(name)
    network = tiny_network(method.head)
    x, x_adv, y = batch()
    loss, terms = method.loss(network, x, x_adv if method.adversarial else None, y)
    loss.backward()
    assert loss.isfinite()
    assert all(term.isfinite() for term in terms.values())
    assert backbone_gradient(network) > 0


@pytest.mark.parametrize("batchnorm", ["joint", "separate"])
@pytest.mark.parametrize("term", ["branch", "consistency"])
def test_adversarial_terms_leave_prototypes_alone_and_move_the_backbone(term, batchnorm, monkeypatch):
    """With the clean loss taken out, the prototypes' gradient must be exactly zero."""
    weights = {"branch": {"beta": 1.0, "lambda_cons": 0.0}, "consistency": {"beta": 0.0, "lambda_cons": 1.0}}[term]
    method = METHODS.make("adv-dpnp", batchnorm=batchnorm, lambda_pos=1.0, lambda_sample_neg=1.0, **weights)
    original = type(method).sample_terms
    monkeypatch.setattr(
        type(method),
        "sample_terms",
        lambda self, head, features, prototypes, y, suffix="", **options: (
            original(self, head, features, prototypes, y, suffix, **options)
            if suffix
            else (features.sum() * 0 + prototypes.sum() * 0, {})
        ),
    )
    monkeypatch.setattr(type(method), "class_term", lambda self, prototypes: (prototypes.sum() * 0, {}))
    network = tiny_network()
    x, x_adv, y = batch()
    loss, _ = method.loss(network, x, x_adv, y)
    loss.backward()
    assert network.head.prototypes.grad is not None
    assert torch.equal(network.head.prototypes.grad, torch.zeros_like(network.head.prototypes))
    assert backbone_gradient(network) > 0


@pytest.mark.parametrize("consistency", ["kl", "mse"])
def test_prototype_gradient_of_adv_dpnp_is_that_of_the_clean_branch_alone(consistency):
    """No matter how heavy the adversarial terms are, the prototypes feel the clean loss only."""
    x, x_adv, y = batch()
    gradients = []
    for lambda_cons in (0.0, 50.0):
        network = tiny_network().eval()
        method = METHODS.make("adv-dpnp", lambda_cons=lambda_cons, consistency=consistency, batchnorm="separate")
        method.loss(network, x, x_adv, y)[0].backward()
        gradients.append(network.head.prototypes.grad.clone())
    network = tiny_network().eval()
    METHODS.make("dpnp").loss(network, x, None, y)[0].backward()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.allclose(2 * gradients[0], network.head.prototypes.grad, rtol=1e-12)  # beta 1: the sum is halved


def test_both_branches_may_move_the_prototypes_and_leave_the_features_as_they_are():
    x, x_adv, y = batch()
    found = {}
    for which in ("clean", "both"):
        network = tiny_network().eval()
        method = METHODS.make("adv-dpnp", prototype_branches=which)
        method.loss(network, x, x_adv, y)[0].backward()
        found[which] = network.head.prototypes.grad, network.projection.weight.grad
    assert not torch.allclose(found["clean"][0], found["both"][0])
    torch.testing.assert_close(found["clean"][1], found["both"][1])


def test_dpnp_loss_is_the_sum_of_its_terms():
    method = METHODS.make("dpnp", lambda_pos=0.3, lambda_sample_neg=0.2, lambda_class_neg=0.7)
    network = tiny_network().eval()
    x, _, y = batch()
    loss, _ = method.loss(network, x, None, y)
    h, c = network.features(x), network.head.prototypes
    expected = (
        F.cross_entropy(h @ c.T, y)
        + 0.3 * losses.pull(h, c, y)
        - 0.2 * losses.sample_repulsion(h, c, y)
        - 0.7 * losses.class_repulsion(c)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_adv_dpnp_loss_is_the_sum_of_its_terms():
    values = {"lambda_pos": 0.3, "lambda_sample_neg": 0.2, "lambda_class_neg": 0.7, "beta": 2.0, "lambda_cons": 1.5}
    method = METHODS.make("adv-dpnp", **values)
    network = tiny_network().eval()
    x, x_adv, y = batch()
    loss, _ = method.loss(network, x, x_adv, y)
    c = network.head.prototypes

    def sample_part(images: torch.Tensor) -> torch.Tensor:
        h = network.features(images)
        repulsion = losses.sample_repulsion(h, c, y)
        return F.cross_entropy(h @ c.T, y) + 0.3 * losses.pull(h, c, y) - 0.2 * repulsion

    p, q = network(x).softmax(1), network(x_adv).softmax(1)
    kl = (p * (p / q).log()).sum(1).mean()
    expected = (sample_part(x) - 0.7 * losses.class_repulsion(c) + 2 * sample_part(x_adv)) / 3 + 1.5 * kl
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_joint_batchnorm_normalises_both_branches_by_the_statistics_of_both():
    x, x_adv, y = batch()
    both = tiny_network().train()
    METHODS.make("adv-dpnp", batchnorm="joint").loss(both, x, x_adv, y)
    reference = tiny_network().train()
    reference(torch.cat([x, x_adv]))
    for ours, theirs in zip(both.buffers(), reference.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["dpnp", "adv-dpnp"])
def test_no_nan_at_radius_40_over_200_steps(name):
    method = METHODS.make(name)
    network = tiny_network(radius=40.0, dtype=torch.float32)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    x, x_adv, y = batch(dtype=torch.float32)
    for step in range(200):
        if step % 20 == 0:
            method.start_epoch(network)
        optimiser.zero_grad()
        loss, _ = method.loss(network, x, x_adv, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters()), step
        optimiser.step()
    assert loss.isfinite()


def test_start_of_an_epoch_puts_the_prototypes_back_on_their_sphere():
    network = tiny_network(radius=3.0)
    with torch.no_grad():
        network.head.prototypes *= 1.7
    METHODS.make("adv-dpnp").start_epoch(network)
    assert torch.allclose(network.head.prototypes.norm(dim=1), torch.tensor(3.0, dtype=torch.float64))


@pytest.mark.parametrize("term", ["pos", "sample_neg"])
def test_a_term_may_be_kept_to_one_branch(term):
    """What both branches see is the sum of what each sees alone; the cross-entropies stay."""
    x, x_adv, y = batch()

    def gradient(**values: object) -> torch.Tensor:
        network = tiny_network().eval()
        METHODS.make("adv-dpnp", lambda_cons=0.0, **values).loss(network, x, x_adv, y)[0].backward()
        return network.projection.weight.grad

    both, clean, adversarial = (gradient(**{f"{term}_branches": which}) for which in ("both", "clean", "adversarial"))
    neither = gradient(**{f"lambda_{term}": 0.0})
    torch.testing.assert_close(both - neither, (clean - neither) + (adversarial - neither))
    assert not torch.allclose(clean, both)
    assert not torch.allclose(clean, adversarial)


@pytest.mark.parametrize("name", ["dpp", "dpnp", "adv-dpnp"])
@pytest.mark.parametrize(("when", "at_start", "after_step"), [("epoch", 1, 3), ("step", 3, 1), ("never", 3, 3)])
def test_prototypes_return_to_their_sphere_when_the_recipe_says_so(name, when, at_start, after_step):
    method = METHODS.make(name, renormalise=when)
    for hook, length in (("start_epoch", at_start), ("end_step", after_step)):
        network = tiny_network()
        with torch.no_grad():
            network.head.prototypes *= 3
        getattr(method, hook)(network)
        torch.testing.assert_close(network.head.prototypes.norm(dim=1), torch.full((4,), float(length)).double())


def test_the_temperature_reaches_the_loss():
    """At a temperature, cross-entropy and consistency see softer logits; the geometric terms see the same features."""
    x, x_adv, y = batch()
    network = tiny_network(radius=40.0).eval()
    plain = METHODS.make("adv-dpnp").loss(network, x, x_adv, y)[1]
    network.head.temperature = 160.0
    soft = METHODS.make("adv-dpnp").loss(network, x, x_adv, y)[1]
    expected = F.cross_entropy(network.features(x) @ network.head.prototypes.T / 160, y)
    torch.testing.assert_close(soft["ce"], expected)
    assert soft["consistency"] < plain["consistency"]
    assert soft["pos"] == plain["pos"]
