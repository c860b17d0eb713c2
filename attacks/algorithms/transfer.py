"""Transfer: images made against one model, tried on another (Papernot et al. 2016, arXiv 1605.07277).

They need no gradient of the model that is judged. So where they break it and its own white-box attacks do not, its
gradients are masked.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.replicas import ModelReplicas, replicate
from advdpnp.attacks.engine.verification import Judgement, judge, repeats
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw, seed_of

PREFIX = "transfer:"


@dataclass(frozen=True)
class Transfer:
    """PGD on the cross-entropy of ``source``, all steps, whether or not it is misclassified.

    Attributes:
        source: in evaluation mode it takes images (n, c, h, w) in [0, 1]; on the device of the evaluation.
        source_name, source_hash: of its weights.
        steps: of eps/4 each, after a random start.
    """

    threat: ThreatModel
    source: nn.Module = field(compare=False)
    source_name: str
    source_hash: str
    steps: int = 20

    @property
    def name(self) -> str:
        """As tables call it: ``transfer:NAME``."""
        return PREFIX + self.source_name

    def definition(self) -> dict[str, Any]:
        """What determines the images, as JSON."""
        return {"attack": "transfer", "source": self.source_hash, "pgd": self._pgd.definition(), "version": 1}

    @property
    def _pgd(self) -> PGD:
        return PGD(self.threat, steps=self.steps, name=f"pgd-{self.steps}")

    def images(self, samples: Batch, *, seed: int, static_batch_size: int, device: torch.device | str) -> Tensor:
        """Adversarial images (n, c, h, w) for some samples; each depends on nothing but its sample."""
        with evaluation_mode(self.source), replicate(self.source, static_batch_size, device) as replicas:
            stream = seed_of(seed, self.name, self.source_hash)

            def make(executor: Any, rows: Batch) -> Batch:
                draw = Draw.of(stream, rows.sample)
                return Batch(perturb(executor.model, rows.x, rows.y, self._pgd, draw), rows.y, rows.sample)

            return replicas.map(make, samples).x

    def try_on(self, replicas: ModelReplicas, samples: Batch, x_adv: Tensor) -> AttackResult:
        """What images made for some samples do to the model of ``replicas``."""
        clean = _judged(replicas, samples)
        judged = _judged(replicas, Batch(x_adv, samples.y, samples.sample))
        result = AttackResult.of_clean(
            samples,
            prediction=clean.prediction,
            margin=clean.margin,
            borderline=clean.borderline,
            forwards=2 * repeats(replicas.first),
        )
        wrong = result.success
        misclassified = ~wrong & (judged.prediction != samples.y) & self.threat.contains(samples.x, x_adv)
        return replace(
            result,
            adversarial_prediction=torch.where(misclassified, judged.prediction, clean.prediction),
            success=wrong | misclassified,
            norm=torch.where(misclassified, self.threat.distance(samples.x, x_adv), result.norm),
            margin=torch.where(wrong, clean.margin, judged.margin),
            borderline=torch.where(wrong, clean.borderline, judged.borderline),
            x_adv=torch.where(misclassified[:, None, None, None], x_adv, samples.x),
        ).to("cpu")


def _judged(replicas: ModelReplicas, samples: Batch) -> Judgement:
    return replicas.map(lambda executor, rows: judge(executor, rows.x, rows.y), samples)
