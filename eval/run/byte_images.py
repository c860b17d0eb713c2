"""Adversarial images rounded to bytes where they are still misclassified: a tenth of the size of float32 images."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.replicas import replicate
from advdpnp.attacks.engine.verification import judge
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.datasets import to_float
from advdpnp.eval.store.adversarial_images import Clean, to_table

Judge = Callable[[Tensor, Tensor], Tensor]
"""Images float32 (n, c, h, w) and labels (n,) to whether they are misclassified beyond doubt, bool (n,)."""

_SHRUNK = 0.98  # of an L1 or L2 perturbation: one on the surface of the ball can leave it when it is rounded


def misclassified_by(model: nn.Module, static_batch_size: int, device: torch.device, noise: int | None) -> Judge:
    """Whether images are misclassified; borderline cases count as not.

    Args:
        static_batch_size: rows of every model call.
        noise: seed of a randomised model; None for other models.
    """

    def misclassified(x: Tensor, y: Tensor) -> Tensor:
        asked = Batch(x, y, torch.zeros_like(y)).to(device)
        with evaluation_mode(model), replicate(model, static_batch_size, device, seed=noise, count=1) as replicas:
            judged = replicas.map(lambda executor, rows: judge(executor, rows.x, rows.y), asked)
        return ((judged.prediction != asked.y) & ~judged.borderline).cpu()

    return misclassified


def pack(
    sample: np.ndarray,
    label: np.ndarray,
    x_adv: np.ndarray,
    *,
    clean: Clean,
    threat: ThreatModel,
    misclassified: Judge,
    targeted: bool = False,
) -> pa.Table:
    """Rows of ``adversarials``: images rounded to bytes where the result stays adversarial and in the threat model.

    Args:
        sample, label: int64 (n,).
        x_adv: float32 (n, c, h, w), the adversarial images.
        clean: gives the clean images; where these are float32, nothing is rounded.
        threat: the threat model.
        misclassified: whether rounded images are still misclassified.
        targeted: whether they must be taken for a target; then nothing is rounded, because rounding can miss it.
    """
    original, y, images = clean(sample), torch.from_numpy(label), torch.from_numpy(x_adv)
    rounded = original.dtype == torch.uint8 and not targeted
    return to_table(
        sample, _differences(original, y, images, threat, misclassified) if rounded else [None] * len(y), images
    )


def _differences(
    clean: Tensor, y: Tensor, x_adv: Tensor, threat: ThreatModel, misclassified: Judge
) -> list[bytes | None]:
    """Rounded less clean images, bytes modulo 256; None where no rounded image is adversarial."""
    found: list[bytes | None] = [None] * len(clean)
    x = to_float(clean)
    for candidate in _candidates(clean, x_adv, threat):
        index = torch.tensor([place for place, each in enumerate(found) if each is None], dtype=torch.int64)
        if not len(index):
            break
        images = to_float(candidate[index])
        holds = threat.contains(x[index], images) & misclassified(images, y[index])
        for place in index[holds].tolist():
            found[place] = (candidate[place] - clean[place]).numpy().tobytes()  # uint8: modulo 256
    return found


def _candidates(clean: Tensor, x_adv: Tensor, threat: ThreatModel) -> Iterator[Tensor]:
    """Images near the adversarial ones, uint8 (n, c, h, w), the nearest first.

    For Linf the second candidate is rounded away from the clean image, as far as eps allows: a slightly larger
    perturbation mostly stays adversarial. In other norms rounding can make a perturbation longer, so it is
    shrunk first. Rounding changes no pixel that the attack left as it was.
    """
    before = clean.float()
    change = 255 * x_adv - before
    if threat.norm == "linf":
        largest = int(255 * threat.eps * (1 + 1e-6) + 1e-5)
        changes = [each.clamp(-largest, largest) for each in (change.round(), change.sign() * change.abs().ceil())]
    else:
        changes = [change.round(), (_SHRUNK * change).round()]
    for each in changes:
        yield (before + each).clamp(0, 255).to(torch.uint8)
