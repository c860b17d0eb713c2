"""Small nets that are exact by construction, and readers of their outputs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.eval.detection.outputs import OutputReader
from advdpnp.models.network import ModelConfig, Network, build_model

SIZE = 16  # rows of every model call


@pytest.fixture
def network() -> Callable[..., Network]:
    """A small CNN on 8x8 images of four classes with the head that is named, random weights."""

    def build(head: str, channels: int = 1, **options: object) -> Network:
        torch.manual_seed(0)
        values = {"architecture": "small-cnn", "classes": 4, "image_size": (8, 8), "feature_dim": 5}
        return build_model(
            ModelConfig(
                **values,
                channels=channels,
                head=head,
                radius=2.0 if head == "prototype" else None,
                mean=(0.5,) * channels,
                std=(0.25,) * channels,
                **options,
            )
        ).eval()

    return build


@pytest.fixture
def reader() -> Iterator[Callable[[nn.Module, int], OutputReader]]:
    with ExitStack() as stack:

        def of(model: nn.Module, classes: int) -> OutputReader:
            stack.enter_context(evaluation_mode(model))
            return OutputReader(model, classes, SIZE, torch.device("cpu"))

        yield of


@pytest.fixture
def two_pixels() -> Network:
    """Images of two pixels are their own features; the class is which pixel is brighter. Nothing is learned."""
    values = {"architecture": "pixels", "classes": 2, "channels": 1, "image_size": (1, 2), "feature_dim": None}
    net = build_model(ModelConfig(**values, head="linear", radius=None, mean=(0.0,), std=(1.0,)))
    with torch.no_grad():
        net.head.weight.copy_(10 * torch.eye(2))
        net.head.bias.zero_()
    return net
