"""Adversarial images rounded to bytes, where they hold all the same: a tenth of the size of what attacks make."""

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

Fooled = Callable[[Tensor, Tensor], Tensor]
"""Images float32 (n, c, h, w) and labels (n,) to whether they are misclassified beyond doubt, bool (n,)."""

_SHRUNK = 0.98  # of a perturbation that reaches the surface of an L1 or L2 ball: rounded to bytes it would stick out


def misclassified_by(model: nn.Module, static_batch_size: int, device: torch.device, noise: int | None) -> Fooled:
    """Whether images are misclassified, in float32; borderline cases count as not.

    Args:
        static_batch_size: rows of every model call.
        noise: seed of a randomised model; None: it is not.
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
    misclassified: Fooled,
) -> pa.Table:
    """Rows of ``adversarials``: each image rounded to bytes where that is within the threat model and fools the model.

    Args:
        sample, label: int64 (n,).
        x_adv: float32 (n, c, h, w), what an attack has found for these samples.
        clean: where it gives float32, nothing is rounded: clean images need not be bytes themselves.
        misclassified: decides.
    """
    original, y, images = clean(sample), torch.from_numpy(label), torch.from_numpy(x_adv)
    rounded = original.dtype == torch.uint8
    return to_table(
        sample, _differences(original, y, images, threat, misclassified) if rounded else [None] * len(y), images
    )


def _differences(
    clean: Tensor, y: Tensor, x_adv: Tensor, threat: ThreatModel, misclassified: Fooled
) -> list[bytes | None]:
    """From clean images to images of bytes that hold, modulo 256; None where there is none."""
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
    """Images of bytes near those that an attack made, uint8, the nearest first.

    For Linf the second is rounded away from the clean image, as far as eps allows: what is lost by rounding is mostly
    found again a little further on. In other norms rounding makes a perturbation longer, so it is shrunk before.
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
