"""Adversarial images of one batch, and the sheets on which they are looked at."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path

_COLUMNS, _LINES, _SIDE = 16, 8, 64  # of a sheet: images side by side, lines of them, pixels of the least side


@dataclass(frozen=True, repr=False)
class AdversarialImages:
    """What ``attack`` found, in the order of ``x``. ``x_adv, success = result`` unpacks it.

    Attributes:
        x_adv: adversarial images, float32 or float64 (n, c, h, w); the clean image where none was found.
        success: whether ``x_adv`` is a verified success: misclassified, or taken for its target; bool (n,). So a clean
            image that is misclassified is one.
        distance: of the nearest verified adversarial image to the clean one, float64 (n,), on mps float32; inf if there
            is none. A minimum-norm attack may find one outside eps, which is no success.
        prediction: the model's prediction for ``x_adv``, int64 (n,).
        forwards, backwards: model evaluations spent on each image, int64 (n,), verification included.
        x: clean images, of the same kind.
        attack: its label ("pgd-20 (targeted: next)").
        threat: norm, eps and bounds.
    """

    x_adv: Tensor
    success: Tensor
    distance: Tensor
    prediction: Tensor
    forwards: Tensor
    backwards: Tensor
    x: Tensor
    attack: str
    threat: ThreatModel

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.x_adv, self.success))

    def __len__(self) -> int:
        return len(self.x_adv)

    def __repr__(self) -> str:
        found, shape = int(self.success.sum()), tuple(self.x_adv.shape)
        return f"AdversarialImages({self.attack}, {self.threat.label}: {found} of {len(self)} successes, x_adv {shape})"

    def save(self, folder: Path | str) -> list[Path]:
        """Write PNG sheets of up to 128 images: each clean, adversarial, and the difference (mean of the channels).

        A difference is red where the image got lighter, blue where it got darker, each scaled by its largest value. PNG
        has 8 bits: images on the sheets are for looking at.

        Returns:
            the files, named by their first image: ``images-000000.png``.
        """
        folder, paths = to_folder(folder), []
        for start in range(0, len(self), _COLUMNS * _LINES):
            part = slice(start, start + _COLUMNS * _LINES)
            paths.append(folder / f"images-{start:06}.png")
            with atomic_path(paths[-1]) as temporary:
                Image.fromarray(_sheet(self.x[part].cpu(), self.x_adv[part].cpu())).save(temporary, "PNG")
        return paths


def to_folder(folder: object) -> Path:
    """A path that a caller gives.

    Raises:
        AdvdpnpError: it is none.
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise AdvdpnpError(f"save needs the name of a folder, not {folder!r}")
    return Path(folder)


def _sheet(x: Tensor, x_adv: Tensor) -> np.ndarray:
    """Pixels of a sheet, uint8 (h, w, 3), white between the images."""
    from advdpnp.base.plotting import signed_colours  # imported here, because matplotlib takes a second to import

    changes = (x_adv - x).mean(1).numpy()
    difference = torch.from_numpy(np.stack([signed_colours(each, np.abs(each).max()) for each in changes]))
    lines = []
    for part in range(0, len(x), _COLUMNS):
        for images in (x, x_adv, difference.permute(0, 3, 1, 2)):
            lines.append(_line(images[part : part + _COLUMNS]))
        lines.append(np.full((4, *lines[0].shape[1:]), 255, np.uint8))
    return np.concatenate(lines)


def _line(images: Tensor) -> np.ndarray:
    """Images (k, c, h, w) side by side, k up to 16, uint8 (h, w, 3); unless they have 3 channels, the mean in gray."""
    colours = images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    scale = max(1, _SIDE // max(images.shape[2:]))
    pixels = (colours * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    padded = np.pad(pixels, ((0, _COLUMNS - len(pixels)), (0, 2), (0, 2), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)
