"""Bookkeeping of a package's run: clean predictions, costs, and verification of its successes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import Executor, check_inputs, is_randomised
from advdpnp.attacks.engine.verification import Judgement, judge, judge_twice, repeats
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import seed_of

_ROUNDING = 1e-5
"""Values this far outside the bounds are rounded ones of images that the package meant to be inside."""


class VerifiedRun:
    """One run on one set of samples. All tensors are on the CPU; ``index`` holds int64 positions in the caller's order.

    Args:
        model: in ``evaluation_mode`` and on ``options.device``.
        threat: norm, eps and bounds.
        samples: images in [0, 1] with labels.
        options: its batch size is also that of verification.

    Attributes:
        x: images, contiguous float32 (n, c, h, w).
        right: clean images that are classified correctly, bool (n,).

    Raises:
        AdvdpnpError: the images, labels or logits are invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        threat: ThreatModel,
        samples: Batch,
        options: RunOptions,
    ) -> None:
        check_inputs(samples.x, samples.y)
        size, device = options.batch_size, options.device
        self.threat = threat
        self.x, self.y = samples.x.detach().float().cpu().contiguous(), samples.y.long().cpu()
        self.sample = samples.sample.long().cpu()
        randomised = len(samples) > 0 and is_randomised(model, self.x[:size].to(device))
        noise = seed_of(options.seed, "noise") if randomised else None
        self.executor = Executor(model, size, device, noise, unasked=options.unasked)
        parts = torch.arange(len(samples)).split(size)
        together = Judgement.concatenate([self._judged(judge, part, self.x[part]) for part in parts])
        self.clean_prediction, self.clean_margin, self.clean_borderline = (
            together.prediction, together.margin, together.borderline
        )  # fmt: skip
        self.right = self.clean_prediction == self.y
        self.forwards = torch.zeros_like(self.y) + repeats(self.executor)
        self.backwards = torch.zeros_like(self.y)
        self.zero_gradient = torch.zeros_like(self.right)

    def _judged(self, judging: Callable[..., Judgement], index: Tensor, x: Tensor) -> Judgement:
        there = self.executor.device
        return judging(self.executor, x.to(there), self.y[index].to(there)).to("cpu")

    def resume(self, record: StageRecord) -> None:
        """Restore the costs of an interrupted run."""
        self.forwards, self.backwards = record.forwards[0].clone(), record.backwards[0].clone()
        self.zero_gradient = record.zero_gradient[0].bool()

    def record(self, stage: int, batch: int, misclassified: Tensor) -> StageRecord:
        """A record from which the run can resume after this batch."""
        state = (misclassified, self.forwards, self.backwards, self.zero_gradient)
        return StageRecord(torch.tensor([stage]), torch.tensor([batch]), *(values[None].clone() for values in state))

    def charge(self, index: Tensor, counted: QueryCounter) -> None:
        """Divide the cost of a batch evenly among its samples, because packages report no cost per sample."""
        for total, spent in ((self.forwards, counted.forwards), (self.backwards, counted.backwards)):
            share = torch.full((len(index),), spent // len(index))
            share[: spent % len(index)] += 1
            total[index] += share
        if counted.first_zero is not None and len(counted.first_zero) == len(index):
            self.zero_gradient[index] |= counted.first_zero.cpu()
        counted.reset()

    def clean(self, index: Tensor) -> AttackResult:
        """Results for samples without an adversarial image. A success is a misclassified clean image."""
        result = AttackResult.of_clean(
            self.batch(index),
            prediction=self.clean_prediction[index],
            margin=self.clean_margin[index],
            borderline=self.clean_borderline[index],
            forwards=self.forwards[index],
        )
        return replace(
            result,
            backwards=self.backwards[index],
            zero_gradient=self.zero_gradient[index],
            stage=torch.full_like(index, -1),
        )

    def batch(self, index: Tensor) -> Batch:
        """Images, labels and sample indices at ``index``."""
        return Batch(self.x[index], self.y[index], self.sample[index])

    def verify(
        self, index: Tensor, x_adv: Tensor, claimed: Tensor | None = None, *, minimum_norm: bool = False
    ) -> AttackResult:
        """Verify a package's images, (m, c, h, w).

        Values that leave the bounds by rounding are clipped first. A success is misclassified by the model in eval
        mode, within eps and the bounds. A claim is refused if its image is not misclassified, or is outside the
        bounds, or outside eps unless the attack is a minimum-norm attack.

        Args:
            claimed: which images the package claims to be adversarial, bool (m,). None: it says nothing. Then every
                misclassified image is a claim.
            minimum_norm: whether the attack ignores eps.
        """
        x_adv = x_adv.detach().float().cpu().contiguous()
        clipped = x_adv.clamp(self.threat.low, self.threat.high)
        x_adv = torch.where((x_adv - clipped).abs() <= _ROUNDING, clipped, x_adv)
        self.forwards[index] += repeats(self.executor)
        judged = self._judged(judge_twice, index, x_adv.nan_to_num())
        clean = self.clean(index)
        misclassified = judged.prediction != self.y[index]
        distance = self.threat.distance(clean.x_adv, x_adv)
        success = misclassified & self.threat.contains(clean.x_adv, x_adv, distance)
        flat = x_adv.flatten(1)
        valid = misclassified & (flat.amin(1) >= self.threat.low) & (flat.amax(1) <= self.threat.high)  # false for NaN
        claimed = misclassified if claimed is None else claimed.cpu()
        return replace(
            clean,
            adversarial_prediction=torch.where(success, judged.prediction, clean.clean_prediction),
            success=success,
            norm=distance.masked_fill(~valid, torch.inf),
            margin=judged.margin,
            borderline=judged.borderline,
            refused=(claimed & ~(valid if minimum_norm else success)).long(),
            x_adv=torch.where(success[:, None, None, None], x_adv, clean.x_adv),
            parted=judged.parted,
        )
