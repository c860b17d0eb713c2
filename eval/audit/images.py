"""Re-verify stored adversarial images: the model must misclassify each one within the threat model.

What images show is that an accuracy is no higher than stated. That nothing stronger would find more, no file can show.
An image that somebody replaced by another one that fools the model within eps supports the claim as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.criteria import MISCLASSIFIED, Criterion, Targeted
from advdpnp.attacks.engine.executor import Executor, evaluation_mode, is_batch_dependent, is_randomised
from advdpnp.attacks.engine.replicas import replicate
from advdpnp.attacks.engine.verification import judge_twice, unasked_copy
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.datasets import Dataset, to_float
from advdpnp.eval.store.adversarial_images import StoredImages
from advdpnp.eval.store.key import is_targeted
from advdpnp.eval.store.reader import StoredEvaluation

NEAR = 1e-4
"""Margins within this share of the largest logit may have another sign on another machine: ten times what verdicts call
borderline, for devices differ more among each other than roundings on one."""

NOT_STORED = "images of misclassified samples were not stored; run eval with --save-adversarials"

_TRIES = 3  # of models whose logits are random or depend on the batch
_LARGEST_BATCH = 1024  # rows of a model call, whatever a file says
_ALIKE = 0.9  # of the margins of clean images are the same bits: the machine is one like that of the verdicts
_SLACK = 1e-3  # of the largest margin: on another machine, margins may differ by less
_UNKNOWN = -2  # a class that no model answers
_SANITY = 64  # images by which a model is tried for such answers


@dataclass(frozen=True)
class Discrepancy:
    """Something that does not hold.

    Attributes:
        sample: of which sample; None for all of them.
        why: in words.
    """

    sample: int | None
    why: str


@dataclass(frozen=True)
class UnitAudit:
    """What holds of one verdict file.

    Attributes:
        unit: the file.
        images: how many are stored; None if none are, though some samples are said to be broken.
        holding: how many of them fool the model within the threat model.
        broken: samples (int64) that are shown to be broken, misclassified clean images too.
        faults: what does not hold.
        unsettled: what this machine or this model decides otherwise and is no proof of a fault.
        judged: whether anything was judged; not where verdicts contradict the data or themselves.
    """

    unit: StoredEvaluation
    images: int | None
    holding: int
    broken: np.ndarray
    faults: list[Discrepancy] = field(default_factory=list)
    unsettled: list[Discrepancy] = field(default_factory=list)
    judged: bool = True

    @property
    def attacked(self) -> int:
        """How many of ``broken`` are right as long as they are unchanged; the others are misclassified anyway."""
        return int(np.isin(self.broken, self.unit.needs_image).sum())

    @property
    def shown(self) -> bool:
        """Whether there are images to show what is claimed."""
        return self.images is not None

    @property
    def holds(self) -> bool:
        """Whether the claim is shown by its images, and nothing contradicts it."""
        return self.shown and not self.faults


class Auditor:
    """Judges what is stored of one model.

    Args:
        model: on ``device``; as it was evaluated.
        dataset: whose test images it was evaluated on.
        data_root: where official corrupted images are looked for.

    Attributes:
        classes: number of logits.
        unasked: a copy of the model from before its first call, which judges too, if there is one.
        caution: why the model's answers cannot be repeated ("random", "dependent on the batch"), or "".
    """

    def __init__(self, model: nn.Module, dataset: Dataset, device: torch.device, data_root: Path | None = None) -> None:
        self.model, self.split, self.device, self.unasked = model, dataset.test, device, unasked_copy(model)
        self.dataset, self.data_root = dataset, data_root
        self._clean: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        x = self.images(np.arange(min(_SANITY, len(self.split))))
        self._randomised = is_randomised(model, x.to(device))
        with evaluation_mode(model):
            executor = Executor(model, len(x), device)
            self.classes = executor.logits(x.to(device)).shape[1]
            dependent = not self._randomised and is_batch_dependent(executor, x)
        self._dependent = dependent
        self.caution = "random" if self._randomised else "dependent on the batch" if dependent else ""

    def audit(self, unit: StoredEvaluation) -> UnitAudit:
        """Check one verdict file and its images.

        Raises:
            AdvdpnpError: it is of other images than the data set's.
        """
        faults = list(self._contradictions(unit))
        unsettled: list[Discrepancy] = []
        if faults:
            return UnitAudit(unit, 0, 0, np.zeros(0, np.int64), faults, judged=False)
        static_batch_size = static_batch_size_of(unit)
        wrong = self._clean_mistakes(unit, static_batch_size, faults, unsettled)
        if unit.threat is None:
            return UnitAudit(unit, 0, 0, unit.samples[wrong], faults, unsettled)
        needed = unit.needs_image
        if len(needed) and not unit.record.saved:
            return UnitAudit(unit, None, 0, unit.samples[wrong], faults, unsettled)
        seen: set[int] = set()
        shown = []
        try:
            for stored in unit.adversarials(self.split.some_images, len(self.split)):
                if len(stored.sample):
                    shown += self._judge(stored, unit, static_batch_size, faults, unsettled)
                for sample in stored.sample.tolist():
                    faults += [Discrepancy(sample, "it has two images")] if sample in seen else []
                    seen.add(sample)
        except AdvdpnpError as error:
            faults.append(Discrepancy(None, str(error)))
        wanted = set(needed.tolist())
        faults += [
            Discrepancy(n, "it has no image, though the verdict says that it was broken") for n in sorted(wanted - seen)
        ]
        faults += [
            Discrepancy(n, "it has an image, though the verdict says that none broke it") for n in sorted(seen - wanted)
        ]
        open_ones = [each.sample for each in unsettled if each.sample in wanted & seen]
        broken = np.union1d(unit.samples[wrong], np.array([*shown, *open_ones], dtype=np.int64))
        return UnitAudit(unit, len(seen), len(shown), broken, faults, unsettled)

    def _contradictions(self, unit: StoredEvaluation) -> Iterator[Discrepancy]:
        """What is wrong with the verdicts before anything is judged."""
        frame, samples = unit.verdicts.frame, unit.samples
        if unit.data != self.split.content_hash:
            raise AdvdpnpError(
                f"{unit.verdicts.path} is about other images ({unit.data[:8]}) than those of the data set "
                f"({self.split.content_hash[:8]}); choose the right one with --dataset"
            )
        if samples.max(initial=0) >= len(self.split):
            yield Discrepancy(None, "it names samples that the data set has not")
            return
        if unit.info.get("test_images", len(self.split)) != len(self.split):
            yield Discrepancy(None, f"it says that the data set has {unit.info['test_images']} test images")
        for name, found in (("randomised", self._randomised), ("batch_dependent", self._dependent)):
            if unit.info.get(name, found) != found:
                yield Discrepancy(None, f"it says that the model is {'' if unit.info[name] else 'not '}{name}")
        label = self.split.some_labels(samples).numpy()
        for sample in samples[label != frame["label"].to_numpy()]:
            yield Discrepancy(int(sample), "it has another label in the data set")

    def _clean_mistakes(
        self, unit: StoredEvaluation, static_batch_size: int, faults: list[Discrepancy], unsettled: list[Discrepancy]
    ) -> np.ndarray:
        """Which clean images are misclassified, bool (n,); what cannot be settled here counts as it is stored."""
        frame, samples = unit.verdicts.frame, unit.samples
        stored = frame["clean_prediction"].to_numpy()
        found, near, margin = self._clean_predictions(samples, static_batch_size)
        if unit.is_clean and not self.caution:
            faults += self._margins(unit, margin)
        counted = stored.copy()
        for place in np.flatnonzero(found != stored):
            sample = int(samples[place])
            why = f"its clean image is taken for class {found[place]}, not {stored[place]} as stored"
            if self.caution:
                unsettled.append(Discrepancy(sample, f"{why}: answers are {self.caution}"))
            elif near[place]:
                unsettled.append(Discrepancy(sample, f"{why}: borderline, not reproduced on this machine"))
            else:
                faults.append(Discrepancy(sample, why))
                counted[place] = found[place]
        return np.asarray(counted != frame["label"].to_numpy())

    def alike(self, clean: StoredEvaluation) -> bool:
        """Whether this machine gives the bits that are stored of the clean images, but for a few."""
        margin = self._clean_predictions(clean.samples, static_batch_size_of(clean))[2]
        return bool(np.mean(margin == clean.column("margin")) > _ALIKE)

    def _margins(self, unit: StoredEvaluation, found: np.ndarray) -> Iterator[Discrepancy]:
        """Margins of clean images that are not as stored."""
        stored, slack = unit.column("margin"), _SLACK * np.nanmax(np.abs(found), initial=1.0)
        slack = 0.0 if self.alike(unit) else slack
        for place in np.flatnonzero(~(np.abs(stored - found) <= slack) & (np.isfinite(stored) | np.isfinite(found))):
            why = f"the margin of its clean image is {found[place]:.6g}, not {stored[place]:.6g} as stored"
            yield Discrepancy(int(unit.samples[place]), why)

    def _clean_predictions(
        self, samples: np.ndarray, static_batch_size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of clean images: predicted classes, which are nearly tied (bool), and margins, (n,); each is judged once."""
        n = len(self.split)
        classes, near, margins = self._clean.setdefault(
            static_batch_size, (np.full(n, _UNKNOWN), np.zeros(n, bool), np.zeros(n, np.float32))
        )
        todo = samples[classes[samples] == _UNKNOWN]
        for block in np.array_split(todo, range(static_batch_size, len(todo), static_batch_size)) if len(todo) else ():
            predicted, tied, margin = self.ask(self.images(block), self.split.some_labels(block), static_batch_size, 0)
            classes[block], near[block], margins[block] = predicted.numpy(), tied.numpy(), margin.numpy()
        return classes[samples], near[samples], margins[samples]

    def _judge(
        self,
        stored: StoredImages,
        unit: StoredEvaluation,
        static_batch_size: int,
        faults: list[Discrepancy],
        unsettled: list[Discrepancy],
    ) -> list[int]:
        """Samples that images show to be broken; what is wrong with the others goes into the lists."""
        assert unit.threat is not None
        threat = ThreatModel(unit.threat.norm, unit.threat.eps, unit.threat.eps_text)
        x, x_adv = self.images(stored.sample), stored.x_adv
        y = self.split.some_labels(stored.sample)
        finite = torch.isfinite(x_adv).flatten(1).all(1)
        x_adv = torch.where(finite[:, None, None, None], x_adv, x)
        in_box = (x_adv.flatten(1).amin(1) >= threat.low) & (x_adv.flatten(1).amax(1) <= threat.high)
        distance = threat.distance(x, x_adv)
        inside = threat.contains(x, x_adv, distance)
        target, goal = None, y
        criterion: Criterion = MISCLASSIFIED
        if is_targeted(unit.record.identity):  # of a success, the stored prediction is the target
            target = torch.from_numpy(unit.frame["adversarial_prediction"].loc[stored.sample].to_numpy(copy=True))
            goal, criterion = target.clamp(min=0), Targeted.of(())
        tries = range(_TRIES if self.caution else 1)
        answers = [self.ask(x_adv, goal, static_batch_size, number, criterion) for number in tries]
        predicted, near, _ = answers[0]
        fooled = torch.stack([each != y if target is None else each == target for each, *_ in answers])
        shown = []
        for place, sample in enumerate(stored.sample.tolist()):
            wrong = doubt = ""
            if not finite[place]:
                wrong = "its image holds NaN or infinite values"
            elif not in_box[place]:
                wrong = "its image leaves [0, 1]"
            elif not inside[place]:
                wrong = f"its image is {float(distance[place]):.6g} from the clean one, eps is {threat.eps:.6g}"
            elif fooled[0, place]:
                pass
            elif fooled[:, place].any():
                doubt = f"its image fools the model only at times: answers are {self.caution}"
            elif near[place]:
                doubt = "its image is borderline: not reproduced on this machine"
            else:
                missed = "the label" if target is None else f"not {int(target[place])}, the target"
                wrong = f"its image does not fool the model, which says {int(predicted[place])}, {missed}"
            if not stored.intact[place]:
                wrong = f"its image was changed since it was stored{f': {wrong}' if wrong else ''}"
            if wrong:
                faults.append(Discrepancy(sample, wrong))
            elif doubt:
                unsettled.append(Discrepancy(sample, doubt))
            else:
                shown.append(sample)
        return shown

    def ask(
        self, x: Tensor, goal: Tensor, static_batch_size: int, number: int, criterion: Criterion = MISCLASSIFIED
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted classes, which are nearly tied, and margins, (n,); another number draws other noise and order."""
        order = torch.arange(len(x))
        if number:
            order = torch.argsort(Draw.of(seed_of("verify", number), order).bits(()), stable=True)
        noise = seed_of("verify", "noise", number) if self._randomised else None
        batch = Batch(x[order], goal[order], order).to(self.device)
        opened = replicate(self.model, static_batch_size, self.device, seed=noise, unasked=self.unasked)
        with evaluation_mode(self.model), opened as replicas:
            found = replicas.map(lambda executor, rows: judge_twice(executor, rows.x, rows.y, criterion), batch)
        judged = found.to("cpu")
        tied = judged.margin.abs() <= NEAR * judged.logits.abs().amax(1)
        back = torch.argsort(order)
        return judged.prediction[back], tied[back], judged.margin[back]

    def images(self, samples: np.ndarray) -> Tensor:
        """Images of some samples, float32 (n, c, h, w) in [0, 1], on the CPU."""
        images = self.split.some_images(samples)
        return to_float(images) if images.dtype == torch.uint8 else images.float()


def static_batch_size_of(unit: StoredEvaluation) -> int:
    """Rows of the model calls that the verdicts came from: the same give the same bits."""
    identity: dict[str, Any] = unit.info["identity"]
    static_batch_size = identity.get("batch_size", identity.get("shape"))
    return min(max(1, static_batch_size), _LARGEST_BATCH) if isinstance(static_batch_size, int) else 1
