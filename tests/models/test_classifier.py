"""The door in front of any net: outputs of every kind, precisions, ranges, functions; and the hash of the net."""

import functools
import logging
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import classifier
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.classifier import Classifier, as_classifier, dtype_name, to_dtype

X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def linear(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs)).eval()


class Answer(NamedTuple):
    logits: Tensor
    features: Tensor


class Wrapped(nn.Module):
    """Returns the logits of a net inside something else."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.inner, self.wrap = linear(), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x), x)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(classifier, "_said", set())
    caplog.set_level(logging.WARNING, "advdpnp")
    return caplog


@pytest.mark.parametrize(
    ("wrap", "sentence"),
    [
        (lambda z, x: Answer(z, x), "its .logits are evaluated"),
        (lambda z, x: {"loss": x.sum(), "logits": z}, 'its "logits" are evaluated'),
        (lambda z, x: (z, x), "a tuple of 2: its first member is evaluated as logits"),
        (lambda z, x: [z], "a list of 1: its first member is evaluated as logits"),
    ],
)
def test_logits_are_taken_out_of_what_a_net_returns_and_this_is_said_once(
    wrap: Any, sentence: str, said: pytest.LogCaptureFixture
) -> None:
    door = as_classifier(Wrapped(wrap))
    for _ in range(3):
        assert torch.equal(door(X), linear()(X))
    assert sentence in said.text
    assert len(said.records) == 1
    assert door.simplest is door


@pytest.mark.parametrize("output", [3, {"scores": X}, (), None])
def test_what_holds_no_logits_is_passed_on(output: Any) -> None:
    net = Wrapped(lambda z, x: output)
    assert as_classifier(net)(X) is output


def test_a_net_that_needs_nothing_is_itself(said: pytest.LogCaptureFixture) -> None:
    net = linear()
    door = as_classifier(net)
    assert torch.equal(door(X), net(X))
    assert door.simplest is net
    assert as_classifier(door) is door
    assert not said.records


def test_one_logit_becomes_two(said: pytest.LogCaptureFixture) -> None:
    net = linear(1)
    logits = as_classifier(net)(X)
    assert torch.equal(logits, torch.cat([torch.zeros(5, 1), net(X)], 1))
    assert torch.equal(logits.argmax(1) == 1, net(X)[:, 0] > 0)
    assert "class 1 where z > 0" in said.text
    assert torch.equal(as_classifier(lambda x: net(x).squeeze(1))(X), logits)
    torch.testing.assert_close(as_classifier(lambda x: net(x)[:, 0])(X[:1]), logits[:1])


def test_a_range_may_be_the_text_of_the_command_line() -> None:
    assert as_classifier(linear(), "-1,1").input_range == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("dtype", "answer"),
    [(torch.float64, torch.float64), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)],
)
def test_images_are_cast_at_the_door_and_logits_keep_what_the_net_computed(
    dtype: torch.dtype, answer: torch.dtype
) -> None:
    net = linear().to(dtype)
    x = X.clone().requires_grad_()
    logits = as_classifier(net)(x)
    assert logits.dtype == answer
    assert torch.equal(logits, net(X.to(dtype)).to(answer))
    logits.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert weights_hash(as_classifier(net)) == weights_hash(net) != weights_hash(linear())


def test_the_input_range_is_that_of_the_net_and_makes_another_model() -> None:
    net = linear()
    torch.testing.assert_close(as_classifier(net, (-1, 1))(X), net(2 * X - 1))
    torch.testing.assert_close(as_classifier(net, (0, 255))(X), net(255 * X))
    hashes = {weights_hash(as_classifier(net, span)) for span in (None, (0, 255), (-1, 1))}
    assert len(hashes) == 3
    assert weights_hash(net) in hashes


def test_the_last_input_range_counts_and_that_of_zero_to_one_is_none() -> None:
    net, once = linear(), as_classifier(linear(), (0, 255))
    for span in ((0, 255), (-1, 1)):
        again = as_classifier(once, span)
        assert torch.equal(again(X), as_classifier(net, span)(X))
        assert weights_hash(again) == weights_hash(as_classifier(net, span))
    for door in (as_classifier(net, (0, 1)), as_classifier(once, (0, 1))):
        assert torch.equal(door(X), net(X))
        assert weights_hash(door) == weights_hash(net)
        assert isinstance(door.simplest, nn.Sequential)


def test_a_function_keeps_its_precision_under_another_range() -> None:
    def double(x: Tensor) -> Tensor:
        return x.flatten(1)

    double.image_dtype = torch.float64  # type: ignore[attr-defined]
    assert as_classifier(as_classifier(double, (0, 255)), (-1, 1))(X).dtype == torch.float64


@pytest.mark.parametrize("span", [(1, 0), (0, 0), (0,), (0, 1, 2), ("a", "b"), (0, float("nan")), (0, float("inf")), 3])
def test_what_is_no_range_is_refused(span: Any) -> None:
    with pytest.raises(AdvdpnpError, match="not two numbers, the smaller first; write 0,255 or -1,1"):
        as_classifier(linear(), span)


class Scorer:
    def __init__(self) -> None:
        self.net = linear()

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


GLOBAL = linear()


def test_the_nets_that_a_function_uses_are_found() -> None:
    net = linear().train()
    functions = {
        "closure": lambda x: net(x),
        "global": lambda x: GLOBAL(x),
        "method": Wrapped(lambda z, x: z).forward,
        "partial": functools.partial(lambda model, x: model(x), net),
        "object": Scorer(),
    }
    for name, function in functions.items():
        door = as_classifier(function)
        assert sum(p.numel() for p in door.parameters()) == 51, name
        assert torch.equal(door(X), linear()(X)), name
        assert not any(module.training for module in door.eval().modules()), name
    assert as_classifier(lambda x: x.flatten(1)[:, :3])(X).shape == (5, 3)


def test_what_cannot_be_called_is_no_model() -> None:
    with pytest.raises(AdvdpnpError, match="not str; load_model loads files"):
        as_classifier("runs/x")  # type: ignore[arg-type]


def test_precisions_have_their_usual_names() -> None:
    mixed = nn.Sequential(linear(), nn.Linear(3, 3).bfloat16())
    assert [dtype_name(net) for net in (linear(), nn.Flatten(), mixed)] == ["float32", "float32", "bfloat16+float32"]
    assert dtype_name(to_dtype(linear(), "float16")) == "float16"
    with pytest.raises(AdvdpnpError, match="no dtype called 'fp8'; choose one of float32, float64, float16, bfloat16"):
        to_dtype(linear(), "fp8")
    assert isinstance(as_classifier(linear(), (0, 255)).simplest, Classifier)
