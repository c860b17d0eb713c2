"""Evaluation of one model on arrays in memory: what notebooks call."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from advdpnp.attacks.execution import check_inputs
from advdpnp.checkpoint import weights_hash
from advdpnp.datasets import Dataset, Split
from advdpnp.errors import AdvdpnpError
from advdpnp.eval.adversarials import SUFFIX, StoredImages, read_adversarials
from advdpnp.eval.evaluate import evaluate_models
from advdpnp.eval.progress import Progress
from advdpnp.eval.results import StoredUnit, find_results
from advdpnp.zoo import LoadedModel


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        row: the leaderboard's row, a data frame of one line.
        verdicts: one line per attack and sample, with the columns of the verdict files.
        adversarials: by attack, the images of the samples that it broke; empty unless they were asked for.
    """

    row: pd.DataFrame
    verdicts: pd.DataFrame
    adversarials: dict[str, StoredImages] = field(default_factory=dict)


def evaluate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | Sequence[int],
    *,
    eps: str | float = "8/255",
    norm: str = "linf",
    attacks: str = "all",
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    corruptions: str = "none",
    corruption_types: str | Sequence[str] = "benchmark",
    name: str = "model",
    save_adversarials: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model; nothing is left on disk, and model and random generators are left as they were.

    Args:
        model: maps float32 images (n, c, h, w) in [0, 1] to logits (n, classes).
        x: images (n, c, h, w): uint8, or floats in [0, 1].
        y: labels, integers (n,).
        eps: radius, a number or "8/255".
        norm: "linf" or "l2".
        attacks: "all" (fgsm, pgd-20, cw, autoattack), "none", or names with commas.
        seed: of everything random in the attacks.
        batch_size: most images in work at once.
        device: where to run; None is where the model is.
        corruptions: "none" or "auto".
        corruption_types: "benchmark" (15), "all" (19), or names: ["fog", "snow"], or one text with commas.
        name: what the row calls the model.
        save_adversarials: return the adversarial image of every sample that an attack breaks. They are rounded to bytes
            where that breaks the model still and the images ``x`` are bytes.
        progress: is told what happens.

    Raises:
        AdvdpnpError: unusable images, labels or logits; unknown attacks.

    Example:
        >>> advdpnp.evaluate(net, x, y, eps="8/255").row[["clean", "autoattack"]]  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise AdvdpnpError(f"the model must be a torch.nn.Module, not {type(model).__name__}; load_model loads files")
    wrong = {str(weight.dtype) for weight in model.parameters() if weight.is_floating_point()} - {"torch.float32"}
    if wrong:
        raise AdvdpnpError(f"the model's weights are {', '.join(sorted(wrong))}; evaluate model.float()")
    images, labels = _images(x), _labels(y)
    # Bytes are images whatever they are: their labels are all there is to check.
    check_inputs(images if images.is_floating_point() else torch.zeros(len(labels), 1, 1, 1), labels)
    if len(labels) != len(images):
        raise AdvdpnpError(f"there are {len(images)} images but {len(labels)} labels; give one label per image")
    classes = int(labels.max()) + 1 if len(labels) else 0
    empty = Split(images[:0], labels[:0])
    dataset = Dataset("arrays", tuple(map(str, range(classes))), empty, empty, Split(images, labels), "none")
    if device is None:
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), images.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    loaded = LoadedModel(model, name, weights_hash(model), type(model).__name__, "", parameters, {})
    with tempfile.TemporaryDirectory(prefix="advdpnp-") as folder:
        row = evaluate_models(
            [loaded], dataset, out=Path(folder), attacks=attacks, norm=norm, eps=[eps], seed=seed,
            batch_size=batch_size, device=device, corruptions=corruptions, corruption_types=corruption_types,
            save_adversarials=save_adversarials, progress=progress, command="advdpnp.evaluate",
        )  # fmt: skip
        units = find_results([Path(folder)])
        verdicts = pd.concat([_plain(unit.verdicts.frame) for unit in units], ignore_index=True)
        found = {unit.label: _stored_images(unit, dataset.test) for unit in units if save_adversarials and unit.threat}
    return Evaluation(row, verdicts, found)


def _stored_images(unit: StoredUnit, split: Split) -> StoredImages:
    """All adversarial images of a unit, sorted by sample."""

    path = unit.verdicts.path.with_suffix(SUFFIX)
    parts = list(read_adversarials(path, split.some_images, len(split))) if path.exists() else []
    if not parts:
        return StoredImages(np.zeros(0, np.int64), split.images[:0].cpu().float(), np.zeros(0, bool))
    sample = np.concatenate([part.sample for part in parts])
    order = np.argsort(sample)
    x_adv = torch.cat([part.x_adv for part in parts])[torch.from_numpy(order)]
    return StoredImages(sample[order], x_adv, np.concatenate([part.intact for part in parts])[order])


def _images(x: Tensor | np.ndarray) -> Tensor:
    images = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    if not isinstance(images, Tensor):
        raise AdvdpnpError(f"images must be a tensor or an array (n, c, h, w), not {type(x).__name__}")
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise AdvdpnpError(
            f"images must be (n, c, h, w), uint8 or floats in [0, 1]; "
            f"these are {images.dtype} of shape {tuple(images.shape)}"
        )
    images = images.detach()
    return images if images.dtype == torch.uint8 else images.float()


def _labels(y: Tensor | np.ndarray | Sequence[int]) -> Tensor:
    labels = torch.as_tensor(y).detach()
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.dim() != 1:
        raise AdvdpnpError(
            f"labels must be integers, one per image; these are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return labels.long()


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories as text, so that frames of different units can be joined."""
    words = frame.select_dtypes("category").columns
    return frame.assign(**{name: frame[name].astype(object) for name in words})
