"""The registry of backbones, and the interface of a backbone."""

from collections.abc import Iterable, Mapping
from typing import cast

from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.registry import Registry

MODELS = Registry("model", "advdpnp.models")
"""Backbones. An entry builds ``(channels: int, image_size: (h, w)) -> Backbone``. If its defaults contain ``width`` or
``activation``, it takes these arguments too, and recipes may choose them."""

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
"""SiLU is x sigmoid(x), smooth where ReLU has a kink; Xie et al., "Smooth Adversarial Training", 2020
(arXiv 2006.14536), find that it makes adversarial training more robust."""


class Backbone(nn.Module):
    """Maps images (n, c, h, w) to features (n, width).

    Other backbones need not derive from this class: an ``nn.Module`` with an integer ``width`` is enough.
    """

    width: int

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, super().__call__(x))


def initialise(modules: Iterable[nn.Module]) -> None:
    """Initialise convolutions as in He et al., "Delving deep into rectifiers" (ICCV 2015), with ``mode="fan_out"``.

    Normalisation and linear layers keep PyTorch's defaults.
    """
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def require_size(architecture: str, image_size: tuple[int, int], smallest: int = 8) -> None:
    """Reject images that are too small for the strides of ``architecture``.

    Raises:
        AdvdpnpError: a side is shorter than ``smallest`` pixels.
    """
    if min(image_size) < smallest:
        height, width = image_size
        raise AdvdpnpError(
            f"images of {height}x{width} pixels are too small for '{architecture}', which needs at least "
            f"{smallest}x{smallest}; resize them first"
        )
