"""Objectives against plain computations, for logits of any sign and scale."""

import pytest
import torch

from advdpnp.attacks.losses import LOSSES

LOGITS = torch.tensor([[-3.0, -1.0, -2.0, -7.0], [5.0, 1.0, 4.0, -2.0], [0.0, 0.0, -1.0, -9.0]])
Y = torch.tensor([2, 0, 1])


def test_margin_is_best_other_minus_own():
    assert LOSSES["margin"](LOGITS, Y).tolist() == [1.0, -1.0, 0.0]


def test_dlr_divides_by_first_minus_third():
    assert LOSSES["dlr"](LOGITS, Y).tolist() == pytest.approx([1 / 2, -1 / 4, 0.0])


def test_cross_entropy_per_sample():
    expected = [-torch.log_softmax(row, 0)[y].item() for row, y in zip(LOGITS, Y, strict=True)]
    assert LOSSES["ce"](LOGITS, Y).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["dlr", "rescaled-ce"])
def test_scale_and_shift_change_nothing(name):
    expected = LOSSES[name](LOGITS, Y)
    torch.testing.assert_close(LOSSES[name](LOGITS * 1024 - 2048, Y), expected)


@pytest.mark.parametrize("name", ["margin", "ce", "rescaled-ce"])
def test_two_classes_and_finite_gradients(name):
    logits = torch.tensor([[-1000.0, 1000.0], [3.0, 3.0]], requires_grad=True)
    values = LOSSES[name](logits, torch.tensor([1, 0]))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert values.shape == (2,)
    assert bool(torch.isfinite(gradient).all())
