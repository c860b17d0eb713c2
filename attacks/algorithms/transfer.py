"""Transfer attacks: images crafted on a source model and evaluated on another (Papernot et al. 2016, arXiv 1605.07277).

They need no gradients of the evaluated model. If they succeed where its white-box attacks fail, its gradients are
masked.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.replicas import ModelReplicas, replicate
from advdpnp.attacks.engine.verification import judge, judge_twice, repeats
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw, seed_of

PREFIX = "transfer:"


@dataclass(frozen=True)
class Transfer:
    """PGD on the cross-entropy of the source model, always with all steps.

    Attributes:
        threat: norm, eps and bounds.
        source: maps images in [0, 1], (n, c, h, w), to logits; on the device of the evaluation.
        source_name: name of the source model in tables.
        source_hash: hash of its weights.
        steps: PGD steps of size eps / 4, after a random start.
    """

    threat: ThreatModel
    source: nn.Module = field(compare=False)
    source_name: str
    source_hash: str
    steps: int = 20

    @property
    def name(self) -> str:
        """Name in tables: ``transfer:NAME``."""
        return PREFIX + self.source_name

    def definition(self) -> dict[str, Any]:
        """Everything that determines the images except the threat model and the seed, as JSON."""
        return {"attack": "transfer", "source": self.source_hash, "pgd": self._pgd.definition(), "version": 1}

    @property
    def _pgd(self) -> PGD:
        return PGD(self.threat, steps=self.steps, name=f"pgd-{self.steps}")

    def images(self, samples: Batch, *, seed: int, static_batch_size: int, device: torch.device | str) -> Tensor:
        """Craft adversarial images on the source model, (n, c, h, w). Each depends only on its own sample.

        Args:
            samples: images and labels to attack.
            seed: seed of the evaluation.
            static_batch_size: rows of every model call.
            device: device of the source model.
        """
        with evaluation_mode(self.source), replicate(self.source, static_batch_size, device) as replicas:
            stream = seed_of(seed, self.name, self.source_hash)

            def make(executor: Any, rows: Batch) -> Batch:
                draw = Draw.of(stream, rows.sample)
                return Batch(perturb(executor.model, rows.x, rows.y, self._pgd, draw), rows.y, rows.sample)

            return replicas.map(make, samples).x

    def try_on(self, replicas: ModelReplicas, samples: Batch, x_adv: Tensor) -> AttackResult:
        """Evaluate the model of ``replicas`` on the crafted images ``x_adv``, (n, c, h, w), of ``samples``."""
        clean = replicas.map(lambda executor, rows: judge(executor, rows.x, rows.y), samples)
        crafted = Batch(x_adv, samples.y, samples.sample)
        judged = replicas.map(lambda executor, rows: judge_twice(executor, rows.x, rows.y), crafted)
        result = AttackResult.of_clean(
            samples,
            prediction=clean.prediction,
            margin=clean.margin,
            borderline=clean.borderline,
            forwards=2 * repeats(replicas.first),
        )
        clean_mistake = result.success
        misclassified = ~clean_mistake & (judged.prediction != samples.y) & self.threat.contains(samples.x, x_adv)
        return replace(
            result,
            adversarial_prediction=torch.where(misclassified, judged.prediction, clean.prediction),
            success=clean_mistake | misclassified,
            norm=torch.where(misclassified, self.threat.distance(samples.x, x_adv), result.norm),
            margin=torch.where(clean_mistake, clean.margin, judged.margin),
            borderline=torch.where(clean_mistake, clean.borderline, judged.borderline),
            x_adv=torch.where(misclassified[:, None, None, None], x_adv, samples.x),
            parted=judged.parted,
        ).to("cpu")
