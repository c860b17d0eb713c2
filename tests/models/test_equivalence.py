"""The equivalence of inner-product and Euclidean winner-take-all layers: the same label at every point."""

import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.models.equivalence import (
    euclidean_to_inner_product,
    inner_product_layer,
    inner_product_to_euclidean_by_coordinate,
    inner_product_to_euclidean_by_shift,
    inner_product_to_plus_minus,
    plus_minus_to_inner_product,
)
from advdpnp.models.prototypes import CentreHead, PrototypeHead

POINTS = 10_000
FEW = [(2, 2), (3, 2), (10, 9), (10, 64), (1, 5)]  # neurons <= dim + 1
MANY = [(4, 2), (10, 3), (60, 20), (7, 1)]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def trained():
    """Linear layers on digits as logistic regressions find them: 10 neurons, 64 and 3 dimensions."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    for values in (x / 16, PCA(3).fit_transform(x / 16)):
        fit = LogisticRegression(C=100, max_iter=300).fit(values, y)
        yield torch.tensor(fit.coef_), torch.tensor(fit.intercept_)


def by_inner_product(x, weight, bias):
    return (x @ weight.T + bias).argmax(1)


def by_distance(x, centres):
    """The oracle subtracts before it squares: no identity that the conversions use."""
    return torch.stack([(x - centre).square().sum(1) for centre in centres], 1).argmin(1)


def by_plus_minus(x, positive, negative, beta):
    outputs = [(x - n).square().sum(1) - (x - p).square().sum(1) for p, n in zip(positive, negative, strict=True)]
    return (beta / 2 * torch.stack(outputs, 1)).argmax(1)


@pytest.mark.parametrize("shape", FEW + MANY)
def test_distances_become_inner_products(shape):
    centres, x = random(*shape), random(POINTS, shape[1], seed=1)
    assert by_inner_product(x, *euclidean_to_inner_product(centres)).equal(by_distance(x, centres))


@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("near", [None, 7.0])
def test_inner_products_become_distances_by_a_shift(shape, near):
    weight, bias, x = random(*shape), random(shape[0], seed=2), random(POINTS, shape[1], seed=1)
    point = None if near is None else torch.full((shape[1],), near)
    centres = inner_product_to_euclidean_by_shift(weight, bias, point)
    shifts = centres - weight
    torch.testing.assert_close(shifts, shifts[:1].expand_as(shifts))
    assert by_distance(x, centres).equal(by_inner_product(x, weight, bias))


def test_the_shift_goes_as_near_to_a_point_as_labels_allow():
    """Against every other solution: v plus what is orthogonal to the differences of the weights."""
    weight, bias, near = random(4, 6), random(4, seed=2), random(6, seed=3) + 5
    centres = inner_product_to_euclidean_by_shift(weight, bias, near)
    basis = torch.linalg.svd(weight - weight.mean(0))[2]
    free = basis[3:]  # four neurons differ in three dimensions
    best = (centres.mean(0) - near).norm()
    for step in free:
        for size in (-0.1, 0.1):
            assert by_distance(random(200, 6), centres + size * step).equal(by_distance(random(200, 6), centres))
            assert (centres.mean(0) + size * step - near).norm() > best


@pytest.mark.parametrize("shape", MANY)
def test_a_shift_that_does_not_exist_is_one_sentence(shape):
    with pytest.raises(AdvdpnpError, match=f"{shape[0]} neurons in {shape[1]} dimensions.*add a coordinate"):
        inner_product_to_euclidean_by_shift(random(*shape), random(shape[0], seed=2))


@pytest.mark.parametrize("shape", FEW + MANY)
def test_inner_products_become_distances_by_a_coordinate(shape):
    weight, bias, x = random(*shape), random(shape[0], seed=2), random(POINTS, shape[1], seed=1)
    centres = inner_product_to_euclidean_by_coordinate(weight, bias)
    assert centres.shape == (shape[0], shape[1] + 1)
    assert centres[:, -1].min() == 0
    assert by_distance(torch.nn.functional.pad(x, (0, 1)), centres).equal(by_inner_product(x, weight, bias))


@pytest.mark.parametrize("shape", FEW + MANY)
@pytest.mark.parametrize("beta", [0.01, 1.0, 300.0])
def test_inner_products_become_differences_of_distances(shape, beta):
    weight, bias, x = random(*shape), random(shape[0], seed=2), random(POINTS, shape[1], seed=1)
    for near in (None, random(shape[1], seed=4)):
        positive, negative = inner_product_to_plus_minus(weight, bias, beta, near)
        assert by_plus_minus(x, positive, negative, beta).equal(by_inner_product(x, weight, bias))
        back = plus_minus_to_inner_product(positive, negative, beta)
        torch.testing.assert_close(back, (weight, bias))


def test_trained_layers():
    wide, narrow = trained()
    x = random(POINTS, 64, seed=1).abs()
    centres = inner_product_to_euclidean_by_shift(*wide)
    assert by_distance(x, centres).equal(by_inner_product(x, *wide))
    with pytest.raises(AdvdpnpError, match="10 neurons in 3 dimensions"):
        inner_product_to_euclidean_by_shift(*narrow)
    for weight, bias in (wide, narrow):
        x = random(POINTS, weight.shape[1], seed=1)
        labels = by_inner_product(x, weight, bias)
        longer = torch.nn.functional.pad(x, (0, 1))
        assert by_distance(longer, inner_product_to_euclidean_by_coordinate(weight, bias)).equal(labels)
        assert by_plus_minus(x, *inner_product_to_plus_minus(weight, bias, 2.0), 2.0).equal(labels)


@pytest.mark.parametrize(
    "head", [torch.nn.Linear(6, 4), CentreHead(6, 4), PrototypeHead(6, 4, 3.0, temperature=50), EDWTAHead(6, 4, 5)]
)
def test_every_head_is_a_layer_of_neurons(head):
    x = random(POINTS, 6, seed=1)
    weight, bias = inner_product_layer(head)
    subclasses = len(weight) // 4
    assert (by_inner_product(x, weight, bias) // subclasses).equal(head.double()(x).argmax(1))


def test_zero_weights_keep_their_biases():
    weight, bias, x = random(5, 4), random(5, seed=2), random(POINTS, 4, seed=1)
    weight[1] = weight[3] = 0
    labels = by_inner_product(x, weight, bias)
    assert {1, 3} & set(labels.tolist())
    assert by_plus_minus(x, *inner_product_to_plus_minus(weight, bias), 1.0).equal(labels)
    longer = torch.nn.functional.pad(x, (0, 1))
    assert by_distance(longer, inner_product_to_euclidean_by_coordinate(weight, bias)).equal(labels)
    with pytest.raises(AdvdpnpError, match="linearly dependent"):  # equal weights, unequal biases
        inner_product_to_euclidean_by_shift(weight, bias)


def test_a_layer_of_zeros():
    weight, bias = torch.zeros(3, 2), torch.zeros(3)
    assert not inner_product_to_euclidean_by_shift(weight, bias).any()
    assert not inner_product_to_euclidean_by_coordinate(weight, bias).any()
    assert not torch.stack(inner_product_to_plus_minus(weight, bias)).any()


def test_duplicate_neurons():
    """Equal neurons tie everywhere: which of the two wins may hang on the last bit, so both count as the first."""
    weight, bias, x = random(4, 6), random(4, seed=2), random(POINTS, 6, seed=1)
    weight[2], bias[2] = weight[0], bias[0]
    labels, found = (
        torch.where(winners == 2, 0, winners)
        for winners in (
            by_inner_product(x, weight, bias),
            by_distance(x, inner_product_to_euclidean_by_shift(weight, bias)),
        )
    )
    assert found.equal(labels)
    weight[2], bias[2] = weight[0], bias[0] + 1
    with pytest.raises(AdvdpnpError, match="linearly dependent"):
        inner_product_to_euclidean_by_shift(weight, bias)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_must_be_positive(beta):
    with pytest.raises(AdvdpnpError, match="beta must be a positive number"):
        inner_product_to_plus_minus(random(3, 2), random(3), beta)


def test_beta_may_not_exceed_what_float64_can_hold():
    with pytest.raises(AdvdpnpError, match="choose a smaller beta"):
        inner_product_to_plus_minus(random(3, 2), random(3), 1e18)


def test_wrong_layers_are_one_sentence():
    with pytest.raises(AdvdpnpError, match=r"shape \(neurons, dim\)"):
        euclidean_to_inner_product(torch.zeros(3))
    with pytest.raises(AdvdpnpError, match="not all finite"):
        euclidean_to_inner_product(torch.full((2, 2), torch.nan))
    with pytest.raises(AdvdpnpError, match="3 neurons need 3 biases"):
        inner_product_to_euclidean_by_coordinate(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(AdvdpnpError, match="biases of the layer are not all finite"):
        inner_product_to_plus_minus(torch.zeros(3, 2), torch.full((3,), torch.inf))
    with pytest.raises(AdvdpnpError, match="each w\\+ needs one w-"):
        plus_minus_to_inner_product(torch.zeros(3, 2), torch.zeros(2, 2))
