"""Backbones of the timm package, such as ``timm:resnet50`` and ``timm:vit_tiny_patch16_224``."""

from typing import Any

import torch
from torch import nn

from advdpnp.base.errors import AdvdpnpError, did_you_mean, first_line
from advdpnp.models.base import MODELS


@MODELS.register(
    "timm:{name}",
    description="any image model of the timm package, by its name there",
    reference="Wightman, PyTorch image models, github.com/huggingface/pytorch-image-models",
    defaults={"pretrained": False},
)
def timm_backbone(name: str, channels: int, image_size: tuple[int, int], pretrained: bool) -> nn.Module:
    """Build a timm model without its classifier; the layers keep timm's names.

    Args:
        name: its name in timm.
        channels: channels of the images.
        image_size: (h, w); transformers are built for this size.
        pretrained: start from published weights, downloaded if they are not in the cache.

    Raises:
        AdvdpnpError: timm has no such model, its weights cannot be loaded, or it does not accept images of this size.
    """
    import timm

    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), otherwise="timm.list_models() lists them")
        raise AdvdpnpError(f"timm has no model called '{name}'; {hint}")
    try:
        backbone = _create(name, image_size, pretrained=pretrained, num_classes=0, in_chans=channels)
    except Exception as error:  # downloads and timm's builders raise errors of many types
        what = "the pretrained weights of" if pretrained else "the timm model"
        hint = "check the network connection, or train from scratch" if pretrained else "choose another model"
        raise AdvdpnpError(f"{what} '{name}' cannot be loaded ({first_line(error)}); {hint}") from error
    backbone.width = _width(backbone, name, (1, channels, *image_size))  # type: ignore[assignment]
    return backbone


def _create(name: str, image_size: tuple[int, int], **options: Any) -> nn.Module:
    import timm

    try:  # transformers need the image size; convolutional networks reject the argument
        model: nn.Module = timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, **options)
    return model


def _width(model: nn.Module, name: str, shape: tuple[int, ...]) -> int:
    """The number of features, measured on one image: some timm models do not return ``num_features`` of them."""
    training = model.training
    try:
        with torch.no_grad():
            features = model.eval()(next(model.parameters()).new_zeros(shape))
    except Exception as error:
        size = f"{shape[2]}x{shape[3]}"
        raise AdvdpnpError(
            f"the timm model '{name}' does not accept images of {size} ({first_line(error)}); resize them or choose "
            "another model"
        ) from error
    finally:
        model.train(training)
    if features.ndim != 2:
        raise AdvdpnpError(
            f"the timm model '{name}' returns features of shape {tuple(features.shape[1:])}, not a vector; choose "
            "another model"
        )
    return int(features.shape[1])
