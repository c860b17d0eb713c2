"""Stored adversarial images as files that other programs read: one NPZ, or a folder of PNGs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.datasets import Dataset
from advdpnp.eval.analysis.rows import Row


def broken_images(row: Row, attack: str, data: Dataset) -> dict[str, np.ndarray]:
    """The images by which an attack broke a model.

    Args:
        row: whose attack it was.
        attack: its label.
        data: the data set of the evaluation; it holds the clean images that stored differences are added to.

    Returns:
        sample, label, prediction (int64, (n,), by sample) and x_adv (float32, (n, c, h, w), in [0, 1]); samples that
        are wrong unchanged and those that survived have no image.

    Raises:
        AdvdpnpError: images were not stored, or the data set is another one.
    """
    unit = row.attacks[attack]
    if data.test.content_hash != unit.data:
        raise AdvdpnpError(
            f"the images of {row.model.name} were made from other test images ({unit.data[:8]}) than those of "
            f"{data.label} ({data.test.content_hash[:8]})"
        )
    if not unit.record.saved:
        raise AdvdpnpError(
            f"the images of {attack} on {row.model.name} were not stored; repeat the evaluation with "
            "--save-adversarials, which searches the broken samples again"
        )
    stored = list(unit.adversarials(data.test.some_images, len(data.test)))
    if not stored:
        raise AdvdpnpError(f"{attack} broke no image of {row.model.name}, so there is none to export")
    sample = np.concatenate([each.sample for each in stored])
    x_adv = np.concatenate([each.x_adv.numpy() for each in stored])
    order = np.argsort(sample)
    said = unit.frame.loc[sample[order]]
    names = {"label": "label", "prediction": "adversarial_prediction"}
    return {
        "sample": sample[order],
        **{name: said[column].to_numpy() for name, column in names.items()},
        "x_adv": x_adv[order],
    }


def write_npz(images: dict[str, np.ndarray], path: Path) -> None:
    """All arrays in one compressed file, for ``numpy.load``."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **images)  # type: ignore[arg-type]


def write_pngs(images: dict[str, np.ndarray], folder: Path) -> int:
    """One file per image, ``SAMPLE-label-L-prediction-P.png``; values are rounded to bytes.

    Returns:
        How many images rounding changed: these may no longer fool the model, or lie outside eps.
    """
    if images["x_adv"].shape[1] not in (1, 3):
        raise AdvdpnpError(f"PNG holds 1 or 3 channels, these images have {images['x_adv'].shape[1]}; choose npz")
    changed = 0
    for name, image in _named(images):
        scaled = image * np.float32(255)
        rounded = np.rint(scaled)
        changed += bool(np.abs(scaled - rounded).max() > 1e-3)
        shown = rounded.astype(np.uint8)
        picture = Image.fromarray(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0))
        with atomic_path(folder / name) as temporary:
            picture.save(temporary, "PNG")
    return changed


def _named(images: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    digits = len(str(images["sample"].max()))
    columns = (images[name] for name in ("sample", "label", "prediction", "x_adv"))
    for sample, label, prediction, image in zip(*columns, strict=True):
        yield f"{sample:0{digits}d}-label-{label}-prediction-{prediction}.png", image
