"""Draws one image under every type and severity, for visual inspection."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption.apply import corrupt
from advdpnp.corruption.registry import SEVERITIES
from advdpnp.corruption.types import BENCHMARK, EXTRA

_GAP = 1 / 16  # white gap between images, as a share of their side


def draw_sheet(
    image: Tensor, path: Path | str, *, names: Sequence[str] = BENCHMARK + EXTRA, seed: int = 0, sample: int = 0
) -> None:
    """Draw the image clean and corrupted, with a row per type and a column per severity.

    Args:
        image: uint8 (c, h, w), 1 or 3 channels.
        path: the PNG file to write.
        names: the types, in this order.
        seed, sample: see ``corrupt``; with the same values, the sheet shows the images of an evaluation.

    Raises:
        AdvdpnpError: a type is unknown or there is none, the image cannot be corrupted, or the file cannot be written.
    """
    if not names:
        raise AdvdpnpError("there is nothing to draw; name at least one corruption")
    from advdpnp.base.plotting import bare, drawing  # imported here, because matplotlib takes a second to import

    lines = [_line(image, name, seed, sample) for name in names]
    half = math.ceil(len(lines) / (2 if len(lines) > 6 else 1))
    blocks = [(lines[i : i + half], names[i : i + half]) for i in range(0, len(lines), half)]
    height, width = lines[0].shape[:2]
    tall = 4.6 * half * height / width + 0.4
    with drawing(Path(path), 6.0 * len(blocks), tall) as figure:
        grid = {"wspace": 0.32}
        for axes, (block, shown) in zip(
            np.atleast_1d(figure.subplots(1, len(blocks), gridspec_kw=grid)), blocks, strict=True
        ):
            axes.imshow(np.concatenate(block), interpolation="nearest", cmap="gray", vmin=0, vmax=255)
            axes.set_ylim(half * height - 0.5, -0.5)
            bare(axes)
            axes.set_yticks([(i + 0.5) * height for i in range(len(shown))], [name.replace("_", " ") for name in shown])
            columns = len(SEVERITIES) + 1
            axes.set_xticks([(i + 0.5) * width / columns for i in range(columns)], ["clean", *map(str, SEVERITIES)])
            axes.xaxis.tick_top()
            axes.tick_params(length=0)


def _line(image: Tensor, name: str, seed: int, sample: int) -> np.ndarray:
    """The clean image and its five severities side by side, (h, w) or (h, w, 3), with a white gap around each."""
    index = torch.tensor([sample])
    cells = [image, *(corrupt(image[None], name, severity, seed=seed, sample=index)[0] for severity in SEVERITIES)]
    gap = max(1, round(_GAP * min(image.shape[1:])))
    padded = [torch.nn.functional.pad(cell, (0, gap, 0, gap), value=255) for cell in cells]
    line = torch.cat(padded, dim=2).cpu()
    return line[0].numpy() if len(line) == 1 else line.permute(1, 2, 0).numpy()
