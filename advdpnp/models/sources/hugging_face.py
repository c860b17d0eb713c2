"""Image classifiers of Hugging Face (the extra ``hf``), with what their processor does to images inside."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from advdpnp.base.errors import AdvdpnpError, describe
from advdpnp.models.sources.request import Found, Request, quiet

PREFIX = "hf:"
_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # of PIL's numbers for resampling
_USUAL = 224  # pixels, where a processor takes images as they are
_PATIENCE = 10.0  # seconds for the Hub to answer
_LEVELS = 3  # of 255 by which our images may differ from the processor's, which rounds to bytes


def is_hugging_face(spec: str) -> bool:
    """Whether a spec reads ``hf:NAME_OR_FOLDER``."""
    return spec.startswith(PREFIX)


def load_hugging_face(request: Request) -> Found:
    """``hf:NAME`` from the Hub or its cache, or ``hf:FOLDER`` that ``save_pretrained`` wrote, with its processor.

    What we do to images is compared with the processor, at the size of the data set; without one, at its own size.
    """
    request.refuse_weights()
    request.refuse_normalisation()
    name = request.spec.removeprefix(PREFIX)
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise AdvdpnpError(
            f"'{request.spec}' needs the package transformers ({describe(error)}); pip install 'advdpnp[hf]'"
        ) from error
    with quiet("transformers", "huggingface_hub"):
        model, processor = _downloaded(AutoModelForImageClassification, AutoImageProcessor, name)
        return _with_processor(request, model, processor, Path(name).name)


def _downloaded(nets: Any, processors: Any, name: str) -> tuple[Any, Any]:
    """A net and its processor.

    Args:
        nets, processors: the classes of transformers that load them.
        name: on the Hub, in its cache, or of a folder.

    Raises:
        AdvdpnpError: one of them cannot be loaded.
    """
    try:
        model = _local_first(nets.from_pretrained, name, torch_dtype="auto")
    except Exception as error:  # any error of the network, the name or the files
        raise AdvdpnpError(
            f"the Hugging Face model '{name}' cannot be loaded ({describe(error)}); check the name and the network "
            "connection, or give a folder that save_pretrained wrote"
        ) from error
    try:
        return model, _local_first(processors.from_pretrained, name)
    except Exception as error:
        raise AdvdpnpError(
            f"the Hugging Face model '{name}' has no image processor that says how images are normalised "
            f"({describe(error)}); save its processor beside it, or give package.module:factory"
        ) from error


def _local_first(load: Callable[..., Any], name: str, **options: Any) -> Any:
    """What a folder or the cache holds needs no network, whose absence takes many seconds to be noticed."""
    try:
        return load(name, local_files_only=True, **options)
    except Exception:  # of many types; what may use the network says what is wrong
        from huggingface_hub import HfApi

        HfApi().model_info(name, timeout=_PATIENCE)  # once; the download tries again and again
        return load(name, **options)


def _with_processor(request: Request, model: nn.Module, processor: Any, name: str) -> Found:
    net = HuggingFaceClassifier(model, Preprocessing(processor))
    wanted = getattr(model.config, "num_channels", 3)
    size = net.preprocessing.own_size
    if request.dataset is not None:
        channels, size = request.dataset.channels, request.dataset.image_size
        if channels != wanted:
            raise AdvdpnpError(
                f"{request.spec} takes images of {wanted} channels, {request.dataset.name} has {channels}; choose "
                f"images of {wanted} channels"
            )
    net.preprocessing.check(processor, wanted, *size, request.spec)
    return Found(net, name, type(model).__name__)


class Preprocessing(nn.Module):
    """What an image processor does to images, for images (n, c, h, w) in [0, 1], and with a gradient.

    Args:
        processor: of transformers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, processor: Any) -> None:
        super().__init__()
        said = {name: getattr(processor, name, None) for name in ("size", "crop_size", "crop_pct", "resample")}
        self.size = dict(said["size"] or {}) if getattr(processor, "do_resize", False) else {}
        self.crop = dict(said["crop_size"] or {}) if getattr(processor, "do_center_crop", False) else {}
        self.crop_share = said["crop_pct"]  # of ConvNeXt, which crops only small images
        self.mode = _MODES.get(int(said["resample"] if said["resample"] is not None else 2), "bilinear")
        rescales, normalises = getattr(processor, "do_rescale", True), getattr(processor, "do_normalize", False)
        self.scale = 255 * float(getattr(processor, "rescale_factor", 1 / 255)) if rescales else 255.0
        mean, std = (processor.image_mean, processor.image_std) if normalises else (0.0, 1.0)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images as the model takes them, resized, cropped and normalised."""
        height, width = self._resized(*x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            antialias = self.mode != "nearest-exact"
            x = functional.interpolate(x, (height, width), mode=self.mode, antialias=antialias).clamp(0, 1)
        crop = self._crop()
        if crop:
            top, left = max(0, height - crop[0]) // 2, max(0, width - crop[1]) // 2
            x = x[:, :, top : top + crop[0], left : left + crop[1]]
        return (x * self.scale - self.mean) / self.std

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width of an image that stands for those of an unknown data set."""
        return self._crop() or self._resized(_USUAL, _USUAL)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which images are scaled."""
        edge = self.size.get("shortest_edge")
        if edge is None:
            return self.size.get("height", height), self.size.get("width", width)
        if self.crop_share is not None:
            if edge >= 384:
                return edge, edge
            edge = int(edge / self.crop_share)
        short, long = sorted((height, width))
        other = math.floor(edge * long / short)
        return (edge, other) if height <= width else (other, edge)

    def _crop(self) -> tuple[int, int] | None:
        edge = self.size.get("shortest_edge")
        if self.crop_share is not None and edge is not None and edge < 384:
            return edge, edge
        return (self.crop["height"], self.crop["width"]) if self.crop else None

    def check(self, processor: Any, channels: int, height: int, width: int, spec: str) -> None:
        """Compare with the processor on an image of this size.

        Raises:
            AdvdpnpError: the processor does something else.
        """
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
        wanted = processor(images=[pixels], input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            ours = self(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
        slack = _LEVELS / 255 * self.scale / float(self.std.min())
        if ours.shape != wanted.shape or float((ours - wanted).abs().max()) > slack:
            raise AdvdpnpError(
                f"the image processor of {spec} ({type(processor).__name__}) does more than to resize, crop and "
                "normalise, and has no gradient; give package.module:factory, whose model does it in torch"
            )


class HuggingFaceClassifier(nn.Module):
    """A model of transformers that takes images in [0, 1] of the data set's size and returns logits."""

    image_dtype = torch.float32  # as the processor computes, whatever the model's precision

    def __init__(self, model: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.model(pixel_values=self.preprocessing(x).to(self.model.dtype)).logits
        return logits
