"""Wide residual networks: few layers, many channels.

Zagoruyko and Komodakis, "Wide residual networks" (BMVC 2016); without dropout, as the robustness literature uses them.
"""

from advdpnp.models.architectures.preact_resnet import PreActResNet
from advdpnp.models.base import MODELS, require_size

_REFERENCE = "Zagoruyko and Komodakis, Wide residual networks, BMVC 2016"


def wide_resnet(channels: int, depth: int, factor: int, activation: str) -> PreActResNet:
    """WRN-depth-factor: stages of (depth - 4) / 6 pre-activation blocks with 16, 32, 64 times ``factor`` channels."""
    return PreActResNet(channels, 16, (16 * factor, 32 * factor, 64 * factor), (depth - 4) // 6, activation)


@MODELS.register(
    "wrn-28-10",
    description="wide ResNet, 640 features, 36.5 M parameters",
    reference=_REFERENCE,
    defaults={"activation": "relu"},
)
def wrn_28_10(channels: int, image_size: tuple[int, int], activation: str) -> PreActResNet:
    """Build WRN-28-10."""
    require_size("wrn-28-10", image_size)
    return wide_resnet(channels, 28, 10, activation)


@MODELS.register(
    "wrn-34-10",
    description="wide ResNet, 640 features, 46.2 M parameters",
    reference=_REFERENCE,
    defaults={"activation": "relu"},
)
def wrn_34_10(channels: int, image_size: tuple[int, int], activation: str) -> PreActResNet:
    """Build WRN-34-10."""
    require_size("wrn-34-10", image_size)
    return wide_resnet(channels, 34, 10, activation)
