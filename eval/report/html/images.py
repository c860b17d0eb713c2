"""Pictures inside the page, as data URIs."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

_SMALL = 64  # pixels: up to this size every pixel is kept
_FIGURE = 900
_HEAD = "data:image/png;base64,"


def picture(image: np.ndarray) -> str:
    """A data URI of an image, float (c, h, w) in [0, 1]; one channel as gray, three as RGB, of others the mean.

    Larger ones than 64 pixels are made smaller: they are shown as thumbnails.
    """
    planes = image if image.shape[0] in (1, 3) else image.mean(0, keepdims=True)
    pixels = np.round(255 * np.clip(planes, 0, 1)).astype(np.uint8)
    drawn = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if max(drawn.size) > _SMALL:
        drawn.thumbnail((_SMALL, _SMALL))
    return _png(drawn)


def figure(path: Path) -> str:
    """A data URI of a figure on disk, in 64 colours and at most 900 pixels wide; "" if it cannot be read."""
    try:
        with Image.open(path) as stored:
            drawn = stored.convert("RGB")
    except (OSError, ValueError):
        return ""  # a damaged picture is no reason to withhold the page
    if drawn.width > _FIGURE:
        drawn = drawn.resize((_FIGURE, round(drawn.height * _FIGURE / drawn.width)), Image.Resampling.BOX)
    return _png(drawn.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))


def _png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return _HEAD + base64.b64encode(stream.getvalue()).decode()
