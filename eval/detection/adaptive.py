"""An attack on the model and a score at once, by an adversary who knows both.

Carlini and Wagner (2017), "Adversarial examples are not easily detected", and Tramer et al. (2020), "On adaptive
attacks to adversarial example defenses", show why a detector must be judged by such an attack. Each step takes the
gradient of what is not satisfied yet: the margin while the image is classified correctly, the score from then on
(selective; Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient
descent", 2022). Every second restart also removes from the step its part along the other gradient (orthogonal). Step
sizes, restarts and the choice of the best iterate are this project's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advdpnp.attacks.losses import margin
from advdpnp.attacks.norms import GEOMETRIES, ascent_step, project, random_start
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.eval.detection.outputs import OutputReader, Outputs
from advdpnp.eval.detection.scores import Detector


@dataclass(frozen=True)
class AdaptiveAttack:
    """Its budget.

    Attributes:
        threat: Linf or L2; the same ball as that of the attack it is compared with.
        steps: gradient steps of each restart; the step size falls from eps / 2 to 0 as a cosine.
        restarts: the first starts at the images of the plain attack, the others at random images of the ball.
        seed: seed of the random starts.
    """

    threat: ThreatModel
    steps: int = 40
    restarts: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threat.norm not in GEOMETRIES:
            raise AdvdpnpError(
                f"the adaptive attack does not support {self.threat.norm}, only {', '.join(GEOMETRIES)}; "
                "use --adaptive-steps 0"
            )


@dataclass(frozen=True)
class Chosen:
    """For each image the least suspicious misclassified one that is known, or the clean image if there is none.

    Attributes:
        images: (n, c, h, w).
        scores: as the detector reports them, (n,).
        misclassified: bool (n,).
    """

    images: Tensor
    scores: Tensor
    misclassified: Tensor


def attack_both(
    reader: OutputReader, detector: Detector, batch: Batch, known: Sequence[Tensor], attack: AdaptiveAttack
) -> Chosen:
    """Search for images that the model misclassifies and the detector finds least suspicious.

    Args:
        reader: the model.
        detector: the score.
        batch: clean images with labels; random starts depend on the sample index.
        known: what other attacks made of the same images, each (n, c, h, w). They compete with what is found here, so
            the result is never weaker than any of them; the first is where the search starts.
        attack: threat model and budget.
    """
    found = torch.cat([
        _search(reader, detector, batch[part], (known[0] if known else batch.x)[part], attack)
        for part in _parts(len(batch), reader.size)
    ])  # fmt: skip
    return least_suspicious(reader, detector, batch, [*known, found], attack.threat)


def least_suspicious(
    reader: OutputReader, detector: Detector, batch: Batch, candidates: Sequence[Tensor], threat: ThreatModel
) -> Chosen:
    """Choose among the clean images and ``candidates``, each (n, c, h, w), by the reported score."""
    clean = reader.read(batch.x)
    images, scores, wrong = batch.x, detector.score(clean), clean.prediction != batch.y
    for candidate in candidates:
        outputs = reader.read(candidate)
        other = detector.score(outputs)
        allowed = (outputs.prediction != batch.y) & threat.contains(batch.x, candidate)
        better = allowed & (~wrong | (other < scores))
        images = torch.where(better[:, None, None, None], candidate, images)
        scores, wrong = torch.where(better, other, scores), wrong | better
    return Chosen(images, scores, wrong)


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _search(reader: OutputReader, detector: Detector, rows: Batch, start: Tensor, attack: AdaptiveAttack) -> Tensor:
    """The least suspicious misclassified iterate of at most ``size`` rows; the clean image without any."""
    n, rows = len(rows), rows.padded(reader.size)
    start = torch.cat([start, start[-1:].expand(reader.size - n, *start.shape[1:])])
    draw = Draw.of(seed_of("adaptive", attack.seed), rows.sample)
    best, best_score = rows.x, torch.full((reader.size,), torch.inf, dtype=torch.float64, device=rows.x.device)
    for restart in range(attack.restarts):
        x_adv = random_start(rows.x, attack.threat, draw, restart) if restart else start
        for step in range(attack.steps + 1):
            outputs, direction = _direction(reader, detector, x_adv, rows.y, orthogonal=restart % 2 == 1)
            with torch.no_grad():
                score = detector.differentiable(outputs)
            better = (outputs.prediction != rows.y) & (score < best_score)
            best = torch.where(better[:, None, None, None], x_adv, best)
            best_score = torch.where(better, score, best_score)
            size = attack.threat.eps / 4 * (1 + math.cos(math.pi * step / attack.steps))
            moved = ascent_step(x_adv, direction, size, attack.threat.norm)
            x_adv = project(moved, rows.x, attack.threat)
    return best[:n]


def _direction(
    reader: OutputReader, detector: Detector, x_adv: Tensor, y: Tensor, *, orthogonal: bool
) -> tuple[Outputs, Tensor]:
    """Outputs, and the gradient (n, c, h, w) to ascend: of the margin, or where that is positive of minus the score."""

    def unmet(outputs: Outputs) -> Tensor:
        gap = margin(outputs.logits, y)
        return torch.where(gap > 0, -detector.differentiable(outputs), gap)

    def met(outputs: Outputs) -> Tensor:
        gap = margin(outputs.logits, y)
        return torch.where(gap > 0, gap, -detector.differentiable(outputs))

    outputs, gradient = reader.gradient(x_adv, unmet)
    if not orthogonal:
        return outputs, gradient
    _, other = reader.gradient(x_adv, met)
    a, b = gradient.flatten(1).double(), other.flatten(1).double()
    share = (a * b).sum(1, keepdim=True) / b.square().sum(1, keepdim=True).clamp(min=1e-300)
    return outputs, (a - share * b).to(gradient.dtype).reshape(gradient.shape)
