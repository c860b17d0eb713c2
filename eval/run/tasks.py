"""The kinds of evaluation: images without an adversary, our searches, attacks of packages, transferred images.

Each is a ``Task``: a key, and a method that finds results for samples. The caller stores the results.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.transfer import Transfer
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.precision import FLOAT32, SEARCH_VERSION, search_precision
from advdpnp.attacks.engine.replicas import ModelReplicas, replicate
from advdpnp.attacks.engine.status import SearchStatus
from advdpnp.attacks.engine.verification import judge, repeats
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.info import AttackInfo, describe, untold_info
from advdpnp.attacks.protocol import Attack, PackageAttack, RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import seed_of
from advdpnp.corruption import CorruptionSource
from advdpnp.datasets import to_float
from advdpnp.eval.run.device import on_device, user_code
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.store.key import CLEAN, CORRUPTION, EvaluationKey, sample_set_hash
from advdpnp.eval.store.writer import VerdictCollector

ENGINE = 2
"""Version of the search (steps, draws, order), part of every key. It grows when the same definition searches
differently. Rounding, which differs between processors and versions of torch, does not count: every result is
verified."""

PACKAGE_BATCH_SIZE = 250
"""Batch size of attacks of other packages unless the user gives one. What they find depends on it."""


@dataclass(frozen=True)
class Setting:
    """One model under one plan.

    Attributes:
        model: the model.
        plan: what is evaluated.
        static_batch_size: rows of every model call.
        randomised: whether its logits of the same images differ from call to call.
        precision: of our searches: "32", "tf32" or "bf16". Verdicts are always the model's own.
        unasked: a copy of the model from before its first call, which judges adversarial images too, if there is one.
    """

    model: nn.Module
    plan: Plan
    static_batch_size: int
    randomised: bool
    precision: str = FLOAT32
    unasked: nn.Module | None = None

    def key(self, label: str, threat: ThreatModel | None, definition: Mapping[str, Any]) -> EvaluationKey:
        """The key of an evaluation of this model."""
        execution = {
            "engine": ENGINE,
            "precision": "float32",
            "shape": self.static_batch_size,
            "randomised": self.randomised,
        }
        return EvaluationKey(label, self.plan.dataset.test.content_hash, threat, {**execution, **definition})

    def noise(self, *purpose: str) -> int | None:
        """Seed of the random numbers of a randomised model; None for other models."""
        return seed_of(self.plan.config.seed, "noise", *purpose) if self.randomised else None

    @contextmanager
    def replicas(self, label: str) -> Iterator[ModelReplicas]:
        """The model in evaluation mode, replicated over the processors."""
        noise = self.noise(label)
        with (
            evaluation_mode(self.model),
            replicate(
                self.model, self.static_batch_size, self.plan.device, seed=noise, unasked=self.unasked
            ) as replicas,
        ):
            yield replicas

    def batch(self, samples: np.ndarray) -> Batch:
        """Test images with labels, on the CPU."""
        return Batch(self.plan.images(samples), self.plan.labels(samples), torch.from_numpy(samples))


class Task(Protocol):
    """Work whose results are stored under one key."""

    @property
    def key(self) -> EvaluationKey:
        """What the results are stored under."""

    @property
    def seed(self) -> int | None:
        """Seed of the search; None where nothing is random."""

    @property
    def shared(self) -> bool:
        """Whether several processes can each do a share of the samples."""

    @property
    def cost(self) -> int | None:
        """Model evaluations of a sample that survives; None where the attack does not say."""

    @property
    def info(self) -> AttackInfo | None:
        """What the attack declares about itself; None where its definition says all."""

    def find(self, samples: np.ndarray, writer: VerdictCollector) -> Iterator[AttackResult]:
        """Results of all ``samples`` (int64), in parts of any size and order; ``writer`` keeps notes and progress."""


class JudgeTask:
    """No adversary: what the model predicts for clean or corrupted images."""

    seed, shared, info, cost = None, True, None, 1

    def __init__(
        self, setting: Setting, label: str, definition: Mapping[str, Any], images: Callable[[np.ndarray], Tensor]
    ) -> None:
        self.setting, self.images = setting, images
        self.key = setting.key(label, None, definition)

    def find(self, samples: np.ndarray, writer: VerdictCollector) -> Iterator[AttackResult]:
        with self.setting.replicas(self.key.label) as replicas:
            for block in np.array_split(samples, range(replicas.width, len(samples), replicas.width)):
                yield self._judged(replicas, block)

    def _judged(self, replicas: ModelReplicas, samples: np.ndarray) -> AttackResult:
        batch = Batch(self.images(samples), self.setting.plan.labels(samples), torch.from_numpy(samples))
        on_replicas = batch.to(replicas.device)
        judged = replicas.map(lambda executor, rows: judge(executor, rows.x, rows.y), on_replicas).to("cpu")
        result = AttackResult.of_clean(
            batch,
            prediction=judged.prediction,
            margin=judged.margin,
            borderline=judged.borderline,
            forwards=repeats(replicas.first),
        )
        return replace(result, norm=torch.zeros_like(result.norm))


def clean_task(setting: Setting) -> JudgeTask:
    """The test images as they are."""
    return JudgeTask(setting, CLEAN, {}, setting.plan.images)


def corruption_task(setting: Setting, source: CorruptionSource, name: str, severity: int) -> JudgeTask:
    """The test images under one corruption of one severity."""

    def images(samples: np.ndarray) -> Tensor:
        return to_float(source.images(name, severity, torch.from_numpy(samples)).cpu())

    definition = {"source": source.label, "corruption": source.definition(name, severity)}
    return JudgeTask(setting, f"{CORRUPTION}{name}/{severity}", definition, images)


class SearchTask:
    """One of our attacks, run by our engine."""

    shared, copy_differs = True, False

    def __init__(self, setting: Setting, label: str, attack: Attack | AttackEnsemble) -> None:
        self.setting, self.attack, self.seed = setting, attack, setting.plan.config.seed
        definition, self.precision = {"attack": attack.definition(), "seed": self.seed}, FLOAT32
        if search_precision(attack, setting.precision) != FLOAT32:
            self.precision, label = setting.precision, f"{label} ({setting.precision} search)"
            definition["precision"] = f"{setting.precision} search {SEARCH_VERSION}, float32 verdict"
        if (budget := setting.plan.config.budget) is not None:
            label, definition["budget"] = f"{label} (at most {budget} passes)", budget
        self.key, self.info = setting.key(label, attack.threat, definition), untold_info(attack)
        cost = describe(attack).evaluations
        self.cost = cost if budget is None else min(cost or budget, budget)

    def find(self, samples: np.ndarray, writer: VerdictCollector) -> Iterator[AttackResult]:
        def on_copy_differs() -> None:
            self.copy_differs = True
            writer.note(copy_differs=True)

        plan = self.setting.plan
        for block in plan.blocks(samples):
            batch = self.setting.batch(block)
            yield from plan.components.search(
                self.setting.model, self.attack, batch.x, batch.y, torch.from_numpy(block),
                seed=self.seed, static_batch_size=self.setting.static_batch_size, max_active=plan.config.batch_size,
                device=plan.device, randomised=self.setting.randomised, precision=self.precision,
                budget=plan.config.budget, unasked=self.setting.unasked, on_copy_differs=on_copy_differs,
                on_status=plan.progress.search,
            )  # fmt: skip


class PackageTask:
    """An attack of another package. It sees all samples at once: their set and the batch size are part of the key."""

    shared, copy_differs = False, False

    def __init__(self, setting: Setting, label: str, attack: PackageAttack) -> None:
        plan = setting.plan
        self.setting, self.attack, self.seed, self.info = setting, attack, plan.config.seed, untold_info(attack)
        self.cost = describe(attack).evaluations
        requested, first = plan.config.batch_size or PACKAGE_BATCH_SIZE, plan.components.first_batch_size(plan.device)
        self.batch_size = max(1, requested * setting.static_batch_size // first)  # smaller after an out-of-memory error
        definition = {"attack": attack.definition(), "seed": plan.config.seed, "batch_size": self.batch_size}
        samples = sample_set_hash(plan.samples.tolist())
        self.key = setting.key(label, attack.threat, {**definition, "samples": samples})

    def find(self, samples: np.ndarray, writer: VerdictCollector) -> Iterator[AttackResult]:
        plan = self.setting.plan
        done = [StageRecord(**{k: torch.from_numpy(v) for k, v in record.items()}) for record in writer.records()]
        options = RunOptions(plan.config.seed, self.batch_size, plan.device, done, self.setting.unasked)
        last: AttackResult | None = None
        for item in self.attack.run(self.setting.model, self.setting.batch(plan.samples), options):
            if isinstance(item, StageRecord):
                writer.checkpoint({f.name: getattr(item, f.name).cpu().numpy() for f in fields(item)})
                plan.progress.search(self._status(item))
                if last is not None:
                    yield last[:0]  # the caller may look at its clock
                continue
            last = item
            new = torch.from_numpy(np.isin(item.sample.numpy(), samples))
            if bool(new.any()):  # a continued search repeats what it found before
                yield item[new]

    def _status(self, record: StageRecord) -> SearchStatus:
        robust, spent = ~record.misclassified[0].bool(), record.forwards[0] + record.backwards[0]
        left = None if self.cost is None else int((self.cost - spent[robust]).clamp_min(0).sum())
        return SearchStatus({f"stage {int(record.stage) + 1}": int(robust.sum())}, int(spent.sum()), left)


class Nearest:
    """What a minimum-norm attack found in this run at the largest radius, for the tasks of all radii.

    Attributes:
        parts: results, each with the images of its successes alone: all others are the clean images.
        copy_differs: whether they come from the model itself because its search copy differs.
        planned: samples (int64) that the tasks so far are going to search.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[AttackResult, Tensor]] = []
        self.copy_differs = False
        self.planned = np.zeros(0, np.int64)

    def keep(self, part: AttackResult) -> None:
        """Add results."""
        self.parts.append((replace(part, x_adv=part.x_adv[:0].clone()), part.x_adv[part.success]))

    def read(self, samples: np.ndarray, images: Callable[[np.ndarray], Tensor]) -> Iterator[AttackResult]:
        """The results of some samples; ``images`` gives the clean ones."""
        for part, broken in self.parts:
            wanted = torch.from_numpy(np.isin(part.sample.numpy(), samples))
            if not bool(wanted.any()):
                continue
            x_adv = images(part.sample.numpy()).clone()
            x_adv[part.success] = broken
            yield replace(part, x_adv=x_adv)[wanted]


class NearestTask:
    """A minimum-norm attack at one of several radii. It searches once, at the widest; every radius reads what it found.

    Args:
        widest: the same attack at the largest radius.
        before: the task of another radius, whose findings it shares; None for the first.
        last: whether no other radius comes after it.
    """

    def __init__(
        self, setting: Setting, label: str, attack: Any, widest: Any, before: "NearestTask | None", *, last: bool
    ) -> None:
        self.setting, self.threat, self.last = setting, attack.threat, last
        task, self.widest = attack_task(setting, label, attack), attack_task(setting, label, widest)
        self.key, self.seed, self.shared, self.cost, self.info = task.key, task.seed, task.shared, task.cost, task.info
        self.found: Nearest = Nearest() if before is None else before.found

    def expect(self, missing: np.ndarray) -> int | None:
        """Mean cost of the ``missing`` samples, of which those that a task before this one searches cost nothing."""
        new = np.setdiff1d(missing, self.found.planned)
        self.found.planned = np.union1d(missing, self.found.planned)
        return self.cost and self.cost * len(new) // max(1, len(missing))

    def find(self, samples: np.ndarray, writer: VerdictCollector) -> Iterator[AttackResult]:
        left = samples
        for part in self.found.read(samples, self.setting.plan.images):
            left = np.setdiff1d(left, part.sample.numpy())
            if self.found.copy_differs:
                writer.note(copy_differs=True)
            yield self._read(part)
        for part in self.widest.find(left, writer) if len(left) else ():
            self.found.copy_differs |= self.widest.copy_differs
            if not self.last:
                self.found.keep(part)
            yield self._read(part)

    def _read(self, part: AttackResult) -> AttackResult:
        return part.within(self.threat, self.setting.plan.images(part.sample.numpy()))


class TransferTask:
    """Adversarial images of another model."""

    shared, info = True, None

    def __init__(self, setting: Setting, attack: Transfer) -> None:
        self.setting, self.attack, self.seed = setting, attack, setting.plan.config.seed
        definition = {"attack": attack.definition(), "seed": self.seed}
        self.key, self.cost = setting.key(attack.name, attack.threat, definition), describe(attack).evaluations

    def find(self, samples: np.ndarray, writer: VerdictCollector) -> Iterator[AttackResult]:
        plan, attack, size = self.setting.plan, self.attack, self.setting.plan.components.transfer_block
        failure = f"{attack.source_name} fails on the images of {plan.dataset.label}"
        remedy = "both models must take the same images; leave it out of --transfer-from"
        for block in np.array_split(samples, range(size, len(samples), size)):
            batch = self.setting.batch(block).to(plan.device)
            with user_code(failure, remedy), on_device(attack.source, plan.device):
                x_adv = attack.images(
                    batch, seed=plan.config.seed, static_batch_size=self.setting.static_batch_size, device=plan.device
                )
            with self.setting.replicas(attack.name) as replicas:
                yield attack.try_on(replicas, batch, x_adv)


def attack_task(
    setting: Setting, label: str, attack: Attack | AttackEnsemble | PackageAttack
) -> SearchTask | PackageTask:
    """The task that runs an attack."""
    if isinstance(attack, Attack | AttackEnsemble):
        return SearchTask(setting, label, attack)
    return PackageTask(setting, label, attack)
