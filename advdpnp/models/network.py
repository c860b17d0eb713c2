"""The classifier that this project trains: normalisation, backbone, projection and head."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import STRICT, Name, validated
from advdpnp.models.base import ACTIVATIONS, MODELS
from advdpnp.models.ed_wta import WINNERS, EDWTAHead
from advdpnp.models.prototypes import CentreHead, PrototypeHead

Channels = float | Sequence[float]
"""One number for all channels of an image, or one for each."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, for images in [0, 1]."""


def to_normalisation(mean: Channels | None, std: Channels | None, channels: int) -> Normalisation | None:
    """Mean and standard deviation of each channel; None of both is None.

    Raises:
        AdvdpnpError: one of them is missing, or they are not finite numbers, std above 0, one or one for each channel.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise AdvdpnpError("mean and std belong together; give both")
    try:
        values = [torch.as_tensor(each, dtype=torch.float32).flatten().tolist() for each in (mean, std)]
    except (TypeError, ValueError, RuntimeError):
        raise AdvdpnpError(
            f"mean and std are numbers, not {mean!r} and {std!r}; give one, or one for each channel"
        ) from None
    for name, numbers in zip(("mean", "std"), values, strict=True):
        if len(numbers) not in (1, channels):
            raise AdvdpnpError(
                f"{name} has {len(numbers)} numbers, and the images have {_channels(channels)}; give one number, or "
                "one for each channel"
            )
    if not all(map(math.isfinite, values[0])) or not all(math.isfinite(each) and each > 0 for each in values[1]):
        said = [",".join(f"{each:g}" for each in numbers) for numbers in values]
        raise AdvdpnpError(f"mean {said[0]} and std {said[1]} are no normalisation; give finite numbers, std above 0")
    first, second = (tuple(each * channels) if len(each) == 1 else tuple(each) for each in values)
    return first, second


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


class Normalise(nn.Module):
    """(x - mean) / std per channel, as a layer, so that the model and its attacks take images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images (n, c, h, w); the shape stays the same.

        Raises:
            AdvdpnpError: another number of channels, which broadcasting would silently accept.
        """
        if x.shape[1] != len(self.mean):
            raise AdvdpnpError(f"the model takes images of {_channels(len(self.mean))}, not {x.shape[1]}; convert them")
        # Expand to a whole image first: with channels_last, broadcasting would process three numbers at a time.
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        mean, std = (v.expand(1, *x.shape[1:]).contiguous(memory_format=layout) for v in (self.mean, self.std))
        return (x - mean) / std


_LARGEST_IMAGE = 2**23  # numbers in an image; architectures that look at one allocate it

_Side = Annotated[int, Field(ge=1, le=2**20)]
Finite = Annotated[float, Field(ge=-3e38, le=3e38)]  # in float32


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to rebuild a network.

    Attributes:
        architecture: a registered backbone ("resnet18", "timm:resnet50").
        classes: number of classes, at least 2.
        channels: channels of the images.
        image_size: (h, w) in pixels.
        feature_dim: dimension of the features; None keeps the backbone's width.
        head: a key of ``HEADS``.
        radius: initial length of the prototypes; None for heads without prototypes.
        mean, std: normalisation, one number per channel, for images in [0, 1].
        temperature: divisor of a prototype head's inner products; 1 for other heads.
        width: channels of the backbone's first stage; None for its own choice.
        activation: a key of ``ACTIVATIONS``; backbones without the choice have "relu" here, whatever they use.
        subclasses: neurons per class of a +-ED-WTA head; 1 for other heads.
        winner: a key of ``WINNERS``, how a +-ED-WTA head makes one logit of the scores of a class.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    architecture: Name
    classes: Annotated[int, Field(ge=2, le=1_000_000)]
    channels: Annotated[int, Field(ge=1, le=4096)]
    image_size: tuple[_Side, _Side]
    feature_dim: Annotated[int, Field(ge=1, le=1_000_000)] | None
    head: Name
    radius: Finite | None
    mean: tuple[Finite, ...]
    std: tuple[Finite, ...]
    temperature: Finite = 1.0
    width: Annotated[int, Field(ge=1, le=4096)] | None = None
    activation: Name = "relu"
    subclasses: Annotated[int, Field(ge=1, le=10_000)] = 1
    winner: Name = "max"

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that JSON can store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "ModelConfig":
        """The configuration that ``to_dict`` converted, directly or by way of JSON.

        Raises:
            AdvdpnpError: a field is missing, unknown, of the wrong type or out of range.
        """
        try:
            return validated(_CONFIG, values)
        except ValueError as error:
            raise AdvdpnpError(f"the description of the model is damaged: {error}") from None


_CONFIG = TypeAdapter(ModelConfig)


def _linear_head(dim: int, config: ModelConfig) -> nn.Module:
    _refuse_radius(config)
    return nn.Linear(dim, config.classes)


def _prototype_head(dim: int, config: ModelConfig) -> nn.Module:
    if config.radius is None or not (math.isfinite(config.radius) and config.radius > 0):
        raise AdvdpnpError(f"a prototype head needs a positive radius, not {config.radius}; set the radius")
    return PrototypeHead(dim, config.classes, config.radius, config.temperature)


def _centre_head(dim: int, config: ModelConfig) -> nn.Module:
    return CentreHead(dim, config.classes)


def _ed_wta_head(dim: int, config: ModelConfig) -> nn.Module:
    _refuse_radius(config)
    return EDWTAHead(dim, config.classes, config.subclasses, config.winner)


def _refuse_radius(config: ModelConfig) -> None:
    if config.radius is not None:
        raise AdvdpnpError(f"the head {config.head} has no radius; leave out the radius or choose the prototype head")


HEADS = {"linear": _linear_head, "prototype": _prototype_head, "centre": _centre_head, "ed-wta": _ed_wta_head}


class Network(nn.Module):
    """normalise -> backbone -> projection -> head.

    Args:
        config: the configuration, which checkpoints store.
        backbone: maps (n, c, h, w) to (n, width) and has an integer ``width``.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module) -> None:
        super().__init__()
        width = cast(int, backbone.width)
        dim = config.feature_dim or width
        self.config = config
        self.normalise = Normalise(config.mean, config.std)
        self.backbone = backbone
        self.projection = nn.Identity() if config.feature_dim is None else nn.Linear(width, dim)
        self.head = HEADS[config.head](dim, config)
        self.frozen = False

    def freeze(self) -> None:
        """Train the head alone from now on: what makes the features gets no gradients and stays in eval mode."""
        self.frozen = True
        for part in (self.backbone, self.projection):
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Network":
        """Set the mode; what is frozen stays in eval mode, so that BatchNorm keeps its statistics."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features of images (n, c, h, w) in [0, 1], shape (n, dim)."""
        return cast(Tensor, self.projection(self.backbone(self.normalise(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (n, c, h, w) in [0, 1], shape (n, classes)."""
        return cast(Tensor, self.head(self.features(x)))


def build_model(config: ModelConfig, *, pretrained: bool = False) -> Network:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        config: what to build.
        pretrained: start the backbone from published weights, downloaded if necessary; only some backbones have them.

    Raises:
        AdvdpnpError: no such architecture or head, a number out of range, images too small, no pretrained weights.
    """
    _check(config)
    entry, _ = MODELS.find(config.architecture)
    options: dict[str, Any] = {}
    if config.width is not None:
        if "width" not in entry.defaults:
            raise AdvdpnpError(f"the width of '{config.architecture}' is fixed; leave out model.width")
        options["width"] = config.width
    if config.activation != "relu":
        if "activation" not in entry.defaults:
            raise AdvdpnpError(f"the activation of '{config.architecture}' is fixed; leave out model.activation")
        options["activation"] = config.activation
    if pretrained:
        if "pretrained" not in entry.defaults:
            raise AdvdpnpError(
                f"there are no pretrained weights for '{config.architecture}'; train it from scratch or use timm:NAME"
            )
        options["pretrained"] = True
    backbone = MODELS.make(config.architecture, channels=config.channels, image_size=config.image_size, **options)
    return Network(config, backbone)


def _check(config: ModelConfig) -> None:
    if config.head not in HEADS:
        raise AdvdpnpError(f"there is no head called '{config.head}'; choose {' or '.join(HEADS)}")
    if config.classes < 2:
        raise AdvdpnpError(f"a classifier needs at least 2 classes, not {config.classes}")
    if config.channels < 1:
        raise AdvdpnpError(f"images need at least 1 channel, not {config.channels}")
    if config.channels * math.prod(config.image_size) > _LARGEST_IMAGE:
        height, width = config.image_size
        raise AdvdpnpError(f"images of {height}x{width} pixels are larger than any that a model here takes")
    if config.width is not None and not (isinstance(config.width, int) and config.width > 0):
        raise AdvdpnpError(f"the width must be a whole number from 1 on, not {config.width}; leave it out to keep it")
    if config.activation not in ACTIVATIONS:
        raise AdvdpnpError(f"there is no activation called '{config.activation}'; choose {' or '.join(ACTIVATIONS)}")
    if config.feature_dim is not None and config.feature_dim < 1:
        raise AdvdpnpError(f"feature_dim must be at least 1, not {config.feature_dim}; leave it out to keep the width")
    if not (isinstance(config.temperature, int | float) and 0 < config.temperature < math.inf):
        raise AdvdpnpError(f"the temperature must be a positive number, not {config.temperature}")
    if config.temperature != 1 and config.head != "prototype":
        raise AdvdpnpError("only a prototype head has a temperature; leave out the temperature")
    if config.subclasses < 1 or (config.subclasses > 1 and config.head != "ed-wta"):
        raise AdvdpnpError(
            f"the head {config.head} cannot have {config.subclasses} sub-classes per class; only ed-wta has more than 1"
        )
    if config.winner not in WINNERS:
        raise AdvdpnpError(f"there is no winner called '{config.winner}'; choose {' or '.join(WINNERS)}")
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) != config.channels:
            raise AdvdpnpError(
                f"the normalisation's {name} has {len(values)} values for {_channels(config.channels)}; give one per "
                "channel"
            )
        if not all(map(math.isfinite, values)):
            raise AdvdpnpError(f"the normalisation's {name} must be finite, not {values}")
    if min(config.std) <= 0:
        raise AdvdpnpError(f"the normalisation's std must be positive in every channel, not {config.std}")
