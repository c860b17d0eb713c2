"""Scores against the naive formula and the package; which model has which; differentiable twins."""

import sys

import pytest
import torch
from torch import nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.detection import library
from advdpnp.eval.detection.outputs import Outputs
from advdpnp.eval.detection.scores import SCORES, Fitting, NotAvailable, build_detector, choose_scores

OF_PACKAGE = ("mahalanobis", "relative-mahalanobis", "knn")


def fitting(head: nn.Module | None = None, dim: int = 5) -> tuple[Fitting, Outputs]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 4
    features = torch.randn(240, dim, generator=generator).double() + labels[:, None]
    logits = torch.randn(240, 4, generator=generator).double() * 3
    test = Outputs(
        torch.randn(30, 4, generator=generator).double() * 3, torch.randn(30, dim, generator=generator).double() * 2
    )
    return Fitting(head, Outputs(logits, features), labels), test


def test_scores_of_logits_are_their_formulas():
    pytest.importorskip("pytorch_ood")
    from pytorch_ood.detector import EnergyBased, MaxSoftmax

    made, test = fitting()
    top = test.logits.sort(1, descending=True).values
    torch.testing.assert_close(build_detector("logit-gap", made).score(test), top[:, 1] - top[:, 0])
    torch.testing.assert_close(build_detector("energy", made).score(test), EnergyBased.score(test.logits))
    log_odds = build_detector("max-softmax", made).score(test)
    torch.testing.assert_close(-torch.sigmoid(-log_odds), MaxSoftmax.score(test.logits))


def test_a_saturated_softmax_still_has_an_order():
    made, _ = fitting()
    confident = Outputs(torch.tensor([[800.0, 0, 0, 0], [900.0, 0, 0, 0]]).double(), torch.zeros(2, 0).double())
    score = build_detector("max-softmax", made).score(confident)
    assert score[1] < score[0]


@pytest.mark.parametrize("head", ["prototype", "ed-wta"])
def test_prototype_scores_are_distances_to_prototypes(head, network):
    net = network(head)
    x = torch.rand(9, 1, 8, 8)
    with torch.no_grad():
        features = net.features(x)
        outputs = Outputs(net(x).double(), features.double())
        distances = net.head.class_distances(features).double()
    made, _ = fitting(net.head)
    own = distances[torch.arange(9), outputs.prediction]
    torch.testing.assert_close(build_detector("prototype-own", made).score(outputs), own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        build_detector("prototype-any", made).score(outputs), distances.amin(1), rtol=1e-4, atol=1e-5
    )


def test_a_head_without_prototypes_has_no_distance_to_them(network):
    for head in (network("linear").head, None):
        made, _ = fitting(head)
        with pytest.raises(NotAvailable, match="has no prototypes"):
            build_detector("prototype-own", made)


@pytest.mark.parametrize("name", OF_PACKAGE)
def test_the_twin_equals_the_package_and_has_its_gradient(name):
    pytest.importorskip("pytorch_ood")
    made, test = fitting()
    detector = build_detector(name, made)
    features = test.features.clone().requires_grad_()
    twin = detector.differentiable(Outputs(test.logits, features))
    torch.testing.assert_close(detector.score(test), twin.detach(), rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(twin.sum(), features)
    moved = Outputs(test.logits, test.features + 1e-4 * gradient)
    assert bool((detector.differentiable(moved) > twin).all())


def test_mahalanobis_is_its_formula():
    pytest.importorskip("pytorch_ood")
    made, test = fitting()
    z, y = made.outputs.features, made.labels
    means = torch.stack([z[y == label].mean(0) for label in range(4)])
    scatter = sum((z[y == label] - means[label]).T @ (z[y == label] - means[label]) for label in range(4))
    naive = torch.stack([
        torch.stack([(f - m) @ torch.linalg.inv(scatter) @ (f - m) / 2 for m in means]).min() for f in test.features
    ])  # fmt: skip
    torch.testing.assert_close(build_detector("mahalanobis", made).score(test), naive, rtol=1e-3, atol=1e-5)


def test_knn_is_its_formula_with_fewer_neighbours_for_small_classes():
    pytest.importorskip("pytorch_ood")
    made, test = fitting()
    few = Fitting(None, made.outputs[:28], made.labels[:28])  # seven of each class
    known = torch.nn.functional.normalize(few.outputs.features, dim=1)
    far = (torch.nn.functional.normalize(test.features, dim=1)[:, None] - known).norm(dim=2).sort(1).values
    torch.testing.assert_close(build_detector("knn", few).score(test), far[:, 6], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_PACKAGE)
def test_scores_of_features_need_features_and_the_package(name, monkeypatch):
    made, _ = fitting()
    bare = Fitting(None, Outputs(made.outputs.logits, made.outputs.features[:, :0]), made.labels)
    with pytest.raises(NotAvailable, match="only logits"):
        build_detector(name, bare)
    monkeypatch.setitem(sys.modules, "pytorch_ood.detector", None)
    with pytest.raises(NotAvailable, match=r"pip install 'advdpnp\[detect\]'"):
        build_detector(name, made)


def test_a_covariance_that_float32_cannot_invert_is_a_sentence():
    with pytest.raises(NotAvailable, match="ill-conditioned"):
        library._quadratic(torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(NotAvailable, match="ill-conditioned"):
        library._quadratic(torch.full((2, 2), torch.nan))


def test_names():
    assert choose_scores("all") == SCORES.names()
    assert choose_scores("energy, all,energy")[0] == "energy"
    assert len(choose_scores("energy,all")) == len(SCORES.names())
    with pytest.raises(AdvdpnpError, match="did you mean energy"):
        choose_scores("enrgy")
    with pytest.raises(AdvdpnpError, match="no score is named"):
        choose_scores(" , ")
