"""What an evaluation asks of every model, on which images and which device, and what is recorded of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.names import attack_names
from advdpnp.attacks.protocol import Attack, aim
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.versions import software_versions
from advdpnp.corruption import CorruptionSource
from advdpnp.datasets import Dataset, to_float
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.progress import Progress
from advdpnp.models.loading import LoadedModel

BLOCK_BYTES = 2**30
"""Images are turned into float32 in blocks of at most this size."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _require_own(attacks: Mapping[str, Any]) -> None:
    for label, attack in attacks.items():
        if not isinstance(attack, Attack | AttackEnsemble):
            raise AdvdpnpError(
                f"'{label}' runs the code of a package, which cannot be stopped early; leave it out, or the budget and "
                "the width of the interval"
            )


@dataclass(frozen=True)
class Plan:
    """The options of an evaluation, and what they mean here.

    Attributes:
        config: the options.
        dataset: whose test images are used; uint8, or float32 in [0, 1].
        threats: the threat models.
        samples: indices of the test images, int64, sorted.
        device: where models run.
        progress: receives the course of the evaluation.
        corruptions: where corrupted images come from; None for none.
        transfer_from: models whose adversarial images are tested on every other one.
        components: what the runner calls.
        command: the command line, for the record.
        versions: of the software, for the record.
        date: when it began, ISO 8601.
    """

    config: EvaluationConfig
    dataset: Dataset
    threats: tuple[ThreatModel, ...]
    samples: np.ndarray
    device: torch.device
    progress: Progress
    corruptions: CorruptionSource | None
    transfer_from: tuple[LoadedModel, ...]
    components: Components
    command: str
    versions: Mapping[str, str] = field(default_factory=software_versions)
    date: str = field(default_factory=_now)

    @property
    def attacked(self) -> bool:
        """Whether any attack is asked for; transferred images are none."""
        return bool(attack_names(self.config.attacks, self.dataset.classes, self.config.engine))

    def attacks(self, threat: ThreatModel, classes: int) -> dict[str, Any]:
        """The attacks by label.

        Raises:
            AdvdpnpError: one is unknown, does not support the norm or the number of classes, or cannot be targeted or
            stopped early.
        """
        config = self.config
        found = dict(self.components.resolve_attacks(config.attacks, threat, classes, config.engine))
        if config.budget is not None or config.until_half_width is not None:
            _require_own(found)
        if config.targets is None:
            return found
        aimed = [aim(attack, Targeted(config.targets)) for attack in found.values()]
        return {attack.name: attack for attack in aimed}

    def labels(self, samples: np.ndarray) -> Tensor:
        """Labels of some samples, int64, on the CPU."""
        return self.dataset.test.some_labels(samples)

    def images(self, samples: np.ndarray) -> Tensor:
        """Images of some samples, float32 (n, c, h, w), on the CPU."""
        chosen = self.dataset.test.some_images(samples)
        return to_float(chosen) if chosen.dtype == torch.uint8 else chosen.float()

    def blocks(self, samples: np.ndarray) -> list[np.ndarray]:
        """Samples in pieces whose float32 images fit in ``BLOCK_BYTES``."""
        size = max(1, BLOCK_BYTES // (4 * max(1, self.dataset.test.images[0].numel())))
        return [samples[i : i + size] for i in range(0, len(samples), size)]
