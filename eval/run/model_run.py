"""One model under one plan: clean images, then the attacks from cheap to expensive, then corruptions."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from advdpnp.attacks.algorithms.transfer import Transfer
from advdpnp.attacks.engine.executor import Executor, check_inputs, evaluation_mode, is_batch_dependent, is_randomised
from advdpnp.attacks.info import AttackInfo, by_cost, describe
from advdpnp.attacks.losses import margin
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.errors import AdvdpnpError, ModelError
from advdpnp.eval.diagnostics import (
    SANITY_SAMPLES,
    DiagnosticRecord,
    ModelProbe,
    measure_gradients,
    measure_outputs,
    training_modules,
)
from advdpnp.eval.run.byte_images import misclassified_by, pack
from advdpnp.eval.run.device import device_name, on_device, require_answers, user_code
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.progress import ModelPlan, Work
from advdpnp.eval.run.results import OpenModel, Results, identity_of
from advdpnp.eval.run.tasks import NearestTask, Setting, Task, TransferTask, attack_task, clean_task, corruption_task
from advdpnp.eval.store.key import CLEAN, EvaluationKey
from advdpnp.eval.store.schema import FOUND
from advdpnp.eval.store.writer import Pack, VerdictCollector
from advdpnp.models.classifier import Classifier, as_classifier
from advdpnp.models.loading import LoadedModel


class ModelStopped(ModelError):
    """A model stopped answering during an evaluation; verdicts found before are stored."""


def run_model(loaded: LoadedModel, plan: Plan, results: Results, warnings: list[str], models_left: int = 0) -> set[str]:
    """Do what the plan asks of one model; what is in ``results`` already is not repeated.

    Args:
        models_left: how many models come after it, for the estimate of the time.

    Returns:
        Hashes of all evaluations that the plan asks for.

    Raises:
        ModelError: the model stops answering; the message begins with its name and the evaluation.
        AdvdpnpError: it cannot be evaluated, or its results cannot be written.
    """
    identity = identity_of(loaded, plan.dataset)
    with results.open(identity, plan.components.patience) as place, on_device(loaded.model, plan.device):
        static_batch_size = plan.components.first_batch_size(plan.device)
        while True:
            try:
                return set(_Run(loaded, plan, place, static_batch_size, warnings).everything(models_left))
            except ModelError as error:
                kind = ModelStopped if isinstance(error, ModelStopped) else ModelError
                raise kind(f"{loaded.name}: {error}") from error
            except torch.OutOfMemoryError:
                # The batch size is part of every key, so verdicts of different sizes are never mixed.
                if static_batch_size == 1:
                    raise AdvdpnpError(
                        f"{loaded.name} does not fit in the memory of {plan.device} even with one image; "
                        "use --device cpu"
                    ) from None
                static_batch_size //= 2


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Put the name of the evaluation before the error of a model that stops answering."""
    try:
        yield
    except ModelError as error:
        raise ModelStopped(f"{what}: {error}") from error


class _Run:
    """One model, one plan, one execution shape."""

    def __init__(
        self, loaded: LoadedModel, plan: Plan, place: OpenModel, static_batch_size: int, warnings: list[str]
    ) -> None:
        self.warnings = warnings
        self.name, self.weights_hash = loaded.name, loaded.weights_hash
        classifier = as_classifier(loaded.model)
        self.model: torch.nn.Module = classifier
        self.plan, self.static_batch_size = plan, static_batch_size
        self.own, self.collected, self.peers = place.own, place.collected, place.peers
        self.seconds_each = 0.0
        self._preflight(classifier)

    def everything(self, models_left: int) -> Iterator[str]:
        """Run all evaluations; yields the hash of each when it is complete."""
        tasks = list(self._tasks())
        if self.plan.shard.first:
            work, world = [self._work(task) for task in tasks], self.plan.shard.world
            self.plan.progress.plan(ModelPlan(self.name, work, self.right, self.seconds_each, models_left, world))
        yield self._complete(tasks.pop(0))
        self._run_diagnostics()
        while tasks:
            yield self._complete(tasks.pop(0))  # what only this task still holds is free for the next

    def _tasks(self) -> Iterator[Task]:
        """Clean images, then everything else in order."""
        yield clean_task(self.setting)
        nearest: dict[str, NearestTask] = {}  # the last one of each attack
        widest = self.plan.attacks(max(self.plan.threats, key=lambda threat: threat.eps), self.classes)
        for threat in self.plan.threats:
            attacks = self.plan.attacks(threat, self.classes)
            infos = {label: describe(attack) for label, attack in attacks.items()}
            for label in by_cost(infos):  # cheap results first
                attack, last = attacks[label], threat is self.plan.threats[-1]
                if len(self.plan.threats) == 1 or not infos[label].minimum_norm:
                    yield attack_task(self.setting, label, attack)
                    continue
                before = nearest.get(label)
                nearest[label] = NearestTask(self.setting, label, attack, widest[label], before, last=last)
                yield nearest[label]
            for other in self.plan.transfer_from:
                if other.weights_hash != self.weights_hash:
                    transfer = Transfer(threat, other.model, other.name, other.weights_hash)
                    yield TransferTask(self.setting, transfer)
        if (source := self.plan.corruptions) is not None:
            for name, severity in source.cells:
                yield corruption_task(self.setting, source, name, severity)

    def _work(self, task: Task) -> Work:
        """What is missing of a task."""
        missing = np.setdiff1d(self.plan.samples, self._known(task.key))
        cost = task.expect(missing) if isinstance(task, NearestTask) else task.cost
        return Work(task.key.text, task.key.threat_label, len(missing), cost)

    def _preflight(self, classifier: Classifier) -> None:
        """Find the number of classes, whether the model is randomised and whether its answers depend on the batch.

        A model that cannot be evaluated is refused here, before hours of work.
        """
        self.plan.progress.doing(self.name, "a first look")
        samples = self.plan.samples[: self.static_batch_size]
        x, y = self.plan.images(samples), self.plan.labels(samples)
        check_inputs(x, y)
        executor = Executor(self.model, self.static_batch_size, self.plan.device)
        source = f"images of shape {tuple(x.shape[1:])} from {self.plan.dataset.label}"
        remedy = "choose the data set it was made for, or fix its forward"
        with user_code(f"{self.name} fails on {source}", remedy), evaluation_mode(self.model):
            logits = executor.logits(x).cpu()
            randomised = is_randomised(self.model, x.to(self.plan.device))
            batch_dependent = not randomised and is_batch_dependent(executor, x)
        require_answers(logits)
        if self.plan.attacked:
            full = x[torch.arange(self.static_batch_size).clamp(max=len(x) - 1)]
            remedy = "fix its backward pass, or use --attacks none"
            with user_code(f"{self.name} fails when it is differentiated", remedy), evaluation_mode(self.model):
                began = time.perf_counter()
                gradient = executor.logits_and_gradient(full, lambda z: z.sum(1))[1]
                float(gradient.sum())  # waits for a GPU
                self.seconds_each = (time.perf_counter() - began) / (2 * len(full))
        largest = int(self.plan.labels(self.plan.samples).max())
        if largest >= logits.shape[1]:
            raise AdvdpnpError(
                f"the labels go up to {largest}, but {self.name} has {logits.shape[1]} classes; evaluate it on images "
                "of its own classes"
            )
        self.classes, self.batch_dependent = logits.shape[1], batch_dependent
        self.model = classifier.simplest
        self.right = float((logits.argmax(1) == y).double().mean())
        self.setting = Setting(self.model, self.plan, self.static_batch_size, randomised)
        if not randomised:
            self._compare_with_stored(samples, -margin(logits, y).numpy())

    def _compare_with_stored(self, samples: np.ndarray, margins: np.ndarray) -> None:
        """Refuse to mix verdicts of models that have equal weights but compute different things: their code changed."""
        unit = self.setting.key(CLEAN, None, {})
        if not self.collected.has(unit):
            return
        verdicts = self.collected.read(unit)
        stored = verdicts.frame.set_index("sample")["margin"]
        both = np.isin(samples, stored.index)
        before, now = stored.loc[samples[both]].to_numpy(), margins[both]
        finite = np.isfinite(before)
        slack = 0.01 * np.abs(before[finite]).max(initial=1.0)
        if (finite != np.isfinite(now)).any() or (np.abs(before - now)[finite] > slack).any():
            raise AdvdpnpError(
                f"{self.name} answers otherwise than when the verdicts in {verdicts.path.parent} were made, though its "
                "weights are the same: its code has changed; evaluate it under another name or into another folder"
            )

    def _run_diagnostics(self) -> None:
        """Make the measurements that flags rest on, unless they are stored already."""
        if not self.plan.shard.first or not self.plan.config.sanity:
            return
        samples, seed = self.plan.samples[:SANITY_SAMPLES], self.plan.config.seed
        for threat in (None, *(self.plan.threats if self.plan.attacked else ())):
            norm, eps, text = ("", None, "") if threat is None else (threat.norm, threat.eps, threat.text)
            about = DiagnosticRecord(self.weights_hash, self._data, len(samples), seed, norm, eps, text, {})
            if norm in ("l1", "l0") or self.own.has_diagnostics(about):
                continue
            self.plan.progress.doing(
                self.name, f"measurements for flags{'' if threat is None else f', {threat.label}'}"
            )
            modules = training_modules(self.model) if threat is None else []
            with evaluation_mode(self.model):
                device = self.plan.device
                x, y = self.plan.images(samples).to(device), self.plan.labels(samples).to(device)
                subject = ModelProbe(self.model, x, y, self.static_batch_size, seed)
                numbers: dict[str, Any]
                try:
                    if threat is None:
                        numbers = {**measure_outputs(subject), "training_modules": modules}
                    else:
                        numbers = measure_gradients(subject, threat)
                except ModelError as error:
                    numbers = {"failed": str(error)}
            self.own.write_diagnostics(replace(about, numbers=numbers))

    @property
    def _data(self) -> str:
        return self.plan.dataset.test.content_hash

    def _complete(self, task: Task) -> str:
        """Find and store what is missing of a task's results; returns the hash of its key."""
        unit = task.key
        samples, progress, shard = self.plan.samples, self.plan.progress, self.plan.shard
        keeping = self._keeping(unit)
        if self.collected.is_complete(unit, samples, images=keeping) or not (shard.first or task.shared):
            return unit.hash
        if keeping and not task.shared and len(self.own.stored(unit)) > len(self.own.stored(unit, images=True)):
            self.own.forget_records(unit)  # a continued search does not repeat what it has reported
        known = np.intersect1d(self._known(unit), samples)
        own = np.intersect1d(self.own.stored(unit, images=keeping), samples)
        progress.start(self.name, unit.text, len(samples), len(own))
        facts, pack_images = self._facts(task.seed, task.info), self._packer(unit) if keeping else None
        with (
            _naming(unit.text),
            self.own.writer(unit, samples, facts, complete=shard.first, pack=pack_images) as writer,
        ):
            if shard.first:
                self._gather(unit, writer)
            mine = np.setdiff1d(shard.share(samples) if task.shared else samples, known)
            while len(mine) or shard.first:
                for findings in task.find(mine, writer) if len(mine) else ():
                    if keeping:
                        writer.keep(_columns(findings), findings.x_adv.numpy())
                    self._record(writer, findings, with_images=unit.threat is not None)
                    progress.advance(len(findings), int((~findings.success).sum()))
                if not shard.first:
                    break
                writer.flush()
                mine = self._left_by_others(unit, writer)
                if not len(mine):
                    break
        for folder in self.peers.folders() if shard.first else ():
            folder.clear(unit)
        progress.finish()
        if keeping and shard.first:
            self._warn_if_search_changed(unit, writer.differing)
        return unit.hash

    def _keeping(self, unit: EvaluationKey) -> bool:
        """Whether the adversarial images of an evaluation are to be stored."""
        return self.plan.config.save_adversarials and unit.threat is not None

    def _packer(self, unit: EvaluationKey) -> Pack:
        """The function that makes the images of an evaluation compact."""
        assert unit.threat is not None
        noise = self.setting.noise("rounded", unit.label)
        misclassified = misclassified_by(self.model, self.static_batch_size, self.plan.device, noise)
        return partial(
            pack, clean=self.plan.dataset.test.some_images, threat=unit.threat, misclassified=misclassified,
            targeted=unit.targeted,
        )  # fmt: skip

    def _warn_if_search_changed(self, unit: EvaluationKey, differing: np.ndarray) -> None:
        """Warn where a search that was repeated for its images found other verdicts than the stored ones."""
        lacking = np.setdiff1d(self.plan.samples, self.own.stored(unit, images=True))
        if not len(differing) and not len(lacking):
            return
        shown = ", ".join(map(str, (lacking if len(lacking) else differing)[:5]))
        self.warnings.append(
            f"{self.name}: {unit.text} was searched again for its adversarial images, and {len(differing)} "
            f"samples come out otherwise than they are stored, of which {len(lacking)} are left without an image "
            f"(sample {shown}); the stored verdicts were kept"
        )

    def _known(self, unit: EvaluationKey) -> np.ndarray:
        """Samples of an evaluation that any process, of this run or an earlier one, has judged."""
        for attempt in range(50):
            try:
                folders = [self.collected, *self.peers.folders()]
                images = self._keeping(unit)
                return np.unique(np.concatenate([folder.stored(unit, images=images) for folder in folders]))
            except (AdvdpnpError, FileNotFoundError):
                if self.plan.shard.world == 1 or attempt == 49:
                    raise
                time.sleep(0.1)  # the first process is putting parts together
        raise AssertionError("unreachable")

    def _gather(self, unit: EvaluationKey, writer: VerdictCollector) -> np.ndarray:
        """Take over the verdicts of other processes so far; returns the samples without a verdict."""
        missing = np.setdiff1d(self.plan.samples, self.own.stored(unit, images=self._keeping(unit)))
        for folder in self.peers.folders():
            taken = writer.gather(folder.parts_folder(unit), missing)
            missing = np.setdiff1d(missing, list(taken))
            self.plan.progress.advance(len(taken), sum(not broken for broken in taken.values()))
        return missing

    def _left_by_others(self, unit: EvaluationKey, writer: VerdictCollector) -> np.ndarray:
        """Wait for the verdicts of other processes; returns the samples that are left because a process died."""
        while True:
            alive = self.peers.any_alive()  # asked first: what a process wrote before it died is seen below
            missing = self._gather(unit, writer)
            if not len(missing) or not alive:
                return missing
            time.sleep(0.2)

    def _record(self, writer: VerdictCollector, findings: AttackResult, *, with_images: bool) -> None:
        columns = _columns(findings)
        if not with_images:
            return writer.add(columns)
        wanted = writer.wants_images(columns["sample"])
        x = self.plan.images(columns["sample"][wanted]).numpy()
        return writer.add(columns, wanted, x, findings.x_adv[torch.from_numpy(wanted)].numpy())

    def _facts(self, seed: int | None, declared: AttackInfo | None) -> dict[str, Any]:
        return {
            **({} if declared is None else {"attack_info": declared.to_json()}),
            "dataset": self.plan.dataset.label,
            "seed": seed,
            "randomised": self.setting.randomised,
            "batch_dependent": self.batch_dependent,
            **({} if self.plan.config.sanity else {"sanity": False}),
            "versions": dict(self.plan.versions),
            "device": device_name(self.plan.device),
            "command": self.plan.command,
            "date": self.plan.date,
        }


def _columns(findings: AttackResult) -> dict[str, np.ndarray]:
    """The columns of verdicts."""
    return {name: getattr(findings, name).numpy() for name in FOUND.names}
