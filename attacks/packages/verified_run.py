"""What a whole-batch run knows of its samples: clean predictions, costs, and the verdicts of our own verifier."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import Executor, check_inputs, is_randomised
from advdpnp.attacks.engine.verification import judge, repeats
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import seed_of


class VerifiedRun:
    """All tensors live on the CPU; ``index`` arguments are int64 positions in the caller's order.

    Args:
        model: in ``evaluation_mode``, on ``device``.
        samples: as ``search`` takes x, y and sample.
        options: its batch size is also the number of rows of every verifying model call.

    Attributes:
        x: the images, contiguous float32.
        right: which clean images are classified right, bool (n,).
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
        self.executor = Executor(model, size, device, seed_of(options.seed, "noise") if randomised else None)
        clean = [self._judge(part) for part in torch.arange(len(samples)).split(size)]
        self.clean_prediction, self.clean_margin, self.clean_borderline = map(torch.cat, zip(*clean, strict=True))
        self.right = self.clean_prediction == self.y
        self.forwards = torch.zeros_like(self.y) + repeats(self.executor)
        self.backwards = torch.zeros_like(self.y)
        self.zero_gradient = torch.zeros_like(self.right)

    def _judge(self, index: Tensor, x_adv: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        device = self.executor.device
        judged = judge(self.executor, (self.x[index] if x_adv is None else x_adv).to(device), self.y[index].to(device))
        return judged.prediction.cpu(), judged.margin.cpu(), judged.borderline.cpu()

    def resume(self, record: StageRecord) -> None:
        """Take over the costs of an interrupted run."""
        self.forwards, self.backwards = record.forwards[0].clone(), record.backwards[0].clone()
        self.zero_gradient = record.zero_gradient[0].bool()

    def record(self, stage: int, batch: int, misclassified: Tensor) -> StageRecord:
        """Everything needed to continue behind this batch."""
        state = (misclassified, self.forwards, self.backwards, self.zero_gradient)
        return StageRecord(torch.tensor([stage]), torch.tensor([batch]), *(values[None].clone() for values in state))

    def charge(self, index: Tensor, counted: QueryCounter) -> None:
        """Share what a batch has cost evenly among its samples, whom packages don't tell apart; totals are exact."""
        for account, spent in ((self.forwards, counted.forwards), (self.backwards, counted.backwards)):
            share = torch.full((len(index),), spent // len(index))
            share[: spent % len(index)] += 1
            account[index] += share
        if counted.first_zero is not None and len(counted.first_zero) == len(index):
            self.zero_gradient[index] |= counted.first_zero.cpu()
        counted.reset()

    def clean(self, index: Tensor) -> AttackResult:
        """Results for samples of which there is no image but the clean one; success means misclassified."""
        batch = Batch(self.x[index], self.y[index], self.sample[index])
        result = AttackResult.of_clean(
            batch,
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

    def verify(self, index: Tensor, x_adv: Tensor) -> AttackResult:
        """Judge images (m, c, h, w) that a package says fool the model: float32, eval mode, box and eps per sample."""
        x_adv = x_adv.detach().float().cpu().contiguous()
        self.forwards[index] += repeats(self.executor)
        prediction, margin, borderline = self._judge(index, x_adv.nan_to_num())
        clean, misclassified = self.clean(index), prediction != self.y[index]
        success = misclassified & self.threat.contains(clean.x_adv, x_adv)
        return replace(
            clean,
            adversarial_prediction=torch.where(success, prediction, clean.clean_prediction),
            success=success,
            norm=self.threat.distance(clean.x_adv, x_adv).masked_fill(~misclassified, torch.inf),
            margin=margin,
            borderline=borderline,
            x_adv=torch.where(success[:, None, None, None], x_adv, clean.x_adv),
        )
