"""One model under one plan: clean images, then the attacks from cheap to expensive, then corruptions."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from advdpnp.attacks.engine.precision import Choice
from advdpnp.attacks.engine.verification import unasked_copy
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.info import info_of
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, ModelError
from advdpnp.eval.run.components import choose_precision
from advdpnp.eval.run.device import device_name, on_device
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.results import ModelResults, Results, identity_of
from advdpnp.eval.run.subject import FirstLook, Subject, first_look, measurements_of
from advdpnp.eval.run.tasks import NearestTask, Task
from advdpnp.eval.run.work import ModelPlan, Work
from advdpnp.eval.store.index import EvaluationRecord
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.schema import FOUND
from advdpnp.eval.store.writer import Pack, VerdictCollector
from advdpnp.models.classifier import as_classifier
from advdpnp.models.loading import LoadedModel

_FEWEST_GRADIENTS = 4  # rounding can turn the gradient of one image
_OTHER_GRADIENTS = 0.5
"""Of two shares of gradients that are exactly zero, or of two directions of gradients, which have standard size, in
the median: independent ones differ by 1.1."""

_logger = logging.getLogger("advdpnp")


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
    with results.open(identity_of(loaded, plan.dataset)) as store, on_device(loaded.model, plan.device):
        static_batch_size = plan.components.first_batch_size(plan.device)
        while True:
            try:
                with naming(loaded.name):
                    return _run(loaded, plan, store, static_batch_size, warnings, models_left)
            except OUT_OF_MEMORY:
                static_batch_size = smaller(static_batch_size, loaded, plan)


def smaller(static_batch_size: int, loaded: LoadedModel, plan: Plan) -> int:
    """The batch size after one for which memory was short.

    It is part of every key, so verdicts of different sizes are never mixed.

    Raises:
        AdvdpnpError: it was one image.
    """
    if static_batch_size == 1:
        remedy = "close other programs, or use a larger machine" if plan.device.type == "cpu" else "use --device cpu"
        raise AdvdpnpError(
            f"{loaded.name} does not fit in the memory of {plan.device} even with one image; {remedy}"
        ) from None
    return static_batch_size // 2


@contextmanager
def naming(what: str, kind: type[ModelError] | None = None) -> Iterator[None]:
    """Put the name of the model, or of the evaluation, before the error of a model that stops answering."""
    try:
        yield
    except ModelError as error:
        stopped = isinstance(error, ModelStopped)
        raise (kind or (ModelStopped if stopped else ModelError))(f"{what}: {error}") from error


def _run(
    loaded: LoadedModel,
    plan: Plan,
    store: ModelResults,
    static_batch_size: int,
    warnings: list[str],
    models_left: int,
) -> set[str]:
    plan.progress.doing(loaded.name, "a first look")
    unasked = unasked_copy(as_classifier(loaded.model))
    look, model = first_look(loaded, plan, static_batch_size)
    subject = Subject(model, loaded.weights_hash, plan, look, unasked)
    if plan.config.precision == "auto":
        look = replace(look, choice=_choice(subject, store))
        subject = Subject(model, loaded.weights_hash, plan, look, unasked)
    tasks = subject.new_tasks()
    run = ModelRun(loaded, plan, store, look, tasks, warnings)
    plan.progress.plan(run.work(tasks, models_left))
    asked, first = {task.key.hash for task in tasks}, True
    while tasks:
        _complete(run, subject, tasks.pop(0))  # what only this task still holds is free for the next
        for record, threat in run.measurements_left() if first else ():
            of = "" if threat is None else f", {threat.label}"
            plan.progress.doing(loaded.name, f"measurements for flags{of}")
            store.write_diagnostics(subject.measure(record, threat))
        first = False
    return asked


def _choice(subject: Subject, store: ModelResults) -> Choice:
    """The precision that "auto" takes for a model."""
    setting = subject.setting
    plan = setting.plan

    def stored(precision: str) -> int:
        return sum(len(store.stored(task.key)) for task in subject.new_tasks(precision))

    images = plan.images(plan.samples[: setting.static_batch_size])
    shape = setting.static_batch_size, len(plan.samples)
    timed = plan.attacked and not setting.randomised
    return choose_precision("auto", setting.model, images if timed else None, shape, plan.device, stored)


def _complete(run: "ModelRun", subject: Subject, task: Task) -> None:
    """Find and store what is missing of a task's results."""
    if run.has(task.key):
        return
    with naming(task.key.text, ModelStopped), run.open(task, subject.packer) as unit:
        for findings in task.find(unit.missing, unit.writer) if len(unit.missing) else ():
            unit.take(findings)


@dataclass
class OpenUnit:
    """An evaluation that results can be added to.

    Attributes:
        task: what is evaluated.
        missing: samples (int64) that had no result when it was opened.
        writer: where results go.
    """

    task: Task
    missing: np.ndarray
    writer: VerdictCollector
    plan: Plan
    keeping: bool

    def take(self, findings: AttackResult) -> None:
        """Add results with their images."""
        if not len(findings):
            return
        columns = columns_of(findings)
        self.writer.count_parted(int(findings.parted.sum()))
        if self.keeping:
            self.writer.keep(columns, findings.x_adv.numpy())
        if self.task.key.threat is None:
            self.writer.add(columns)
        else:
            wanted = self.writer.wants_images(columns["sample"])
            x = self.plan.images(columns["sample"][wanted]).numpy()
            self.writer.add(columns, wanted, x, findings.x_adv[torch.from_numpy(wanted)].numpy())
        self.plan.progress.advance(len(findings), int((~findings.success).sum()))
        attack = getattr(self.task, "attack", None)
        if isinstance(attack, AttackEnsemble):
            stages = attack.stages
            searched = findings.stage[findings.success & (findings.norm > 0)]  # at 0 it was wrong unchanged
            counts = searched[searched >= 0].bincount(minlength=len(stages)).tolist()
            self.plan.progress.stages({stage.name: count for stage, count in zip(stages, counts, strict=True)})


class ModelRun:
    """What is stored of one model under one plan, and what is missing of it.

    Args:
        store: its results, locked.
        look: what is known of it.
        tasks: of ``tasks_of``.
        warnings: receives sentences about searches that were repeated and found something else.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        plan: Plan,
        store: ModelResults,
        look: FirstLook,
        tasks: list[Task],
        warnings: list[str],
    ) -> None:
        self.name, self.plan, self.store, self.look = loaded.name, plan, store, look
        self._hash, self._parameters, self._warnings = loaded.weights_hash, loaded.parameters, warnings
        self.asked = list(dict.fromkeys(task.key.label for task in tasks if task.key.threat is not None))
        if not look.randomised:
            self._compare_with_stored(tasks[0].key)
            searched = store.searches(plan.dataset.test.content_hash)
            if any(map(self._points_elsewhere, searched)) or any(self._vanishes_elsewhere(task.key) for task in tasks):
                self._search_again(len(searched))
            elif not loaded.header:  # its code is the user's
                self._name_untold(searched, {task.key.hash for task in tasks})

    def work(self, tasks: list[Task], models_left: int = 0) -> ModelPlan:
        """What is going to be done."""
        work = [self._work(task) for task in tasks]
        device = device_name(self.plan.device)
        return ModelPlan(
            self.name, work, self.look.right, self.look.seconds, models_left, device, self._parameters
        )  # fmt: skip

    def _work(self, task: Task) -> Work:
        """What is missing of a task."""
        missing = np.setdiff1d(self.plan.samples, self.store.stored(task.key, images=self.keeping(task.key)))
        cost = task.expect(missing) if isinstance(task, NearestTask) else task.cost
        return Work(task.key.text, task.key.threat_label, len(missing), cost)

    def measurements_left(self) -> Iterator[tuple[Any, Any]]:
        """Those of ``measurements_of`` that are not stored."""
        for record, threat in measurements_of(self.plan, self._hash):
            if not self.store.has_diagnostics(record):
                yield record, threat

    def has(self, unit: EvaluationKey) -> bool:
        """Whether nothing is missing of an evaluation."""
        return self.store.is_complete(unit, self.plan.samples, images=self.keeping(unit))

    def keeping(self, unit: EvaluationKey) -> bool:
        """Whether the adversarial images of an evaluation are to be stored."""
        return self.plan.config.save_adversarials and unit.threat is not None

    @contextmanager
    def open(self, task: Task, packer: Any) -> Iterator[OpenUnit]:
        """Add results to an evaluation; it is complete when the block ends without an error.

        Args:
            packer: makes the ``Pack`` of an evaluation's images.
        """
        unit, samples, keeping = task.key, self.plan.samples, self.keeping(task.key)
        if keeping and not task.shared and len(self.store.stored(unit)) > len(self.store.stored(unit, images=True)):
            self.store.forget_records(unit)  # a continued search does not repeat what it has reported
        known = np.intersect1d(self.store.stored(unit, images=keeping), samples)
        self.plan.progress.start(self.name, unit.text, len(samples), len(known))
        pack: Pack | None = packer(unit) if keeping else None
        with self.store.writer(unit, samples, self._facts(task), pack=pack) as writer:
            yield OpenUnit(task, np.setdiff1d(samples, known), writer, self.plan, keeping)
        self.plan.progress.finish()
        if keeping:
            self._warn_if_search_changed(unit, writer.differing)

    def _compare_with_stored(self, unit: EvaluationKey) -> None:
        """Refuse to mix verdicts of models that have equal weights but compute different things: their code changed."""
        if not self.store.has(unit):
            return
        margins, verdicts = self.look.margins, self.store.read(unit)
        samples = self.plan.samples[: len(margins)]
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

    def _search_again(self, count: int) -> None:
        """Forget what was found with other gradients, as before a detached layer was mended."""
        self.store.forget_searches(self.plan.dataset.test.content_hash)
        _logger.warning(
            "%s has other gradients than when its stored verdicts were found, though its weights and answers are the "
            "same: its code has changed. Its %d evaluations under attack are deleted; what is asked for is searched "
            "again", self.name, count,
        )  # fmt: skip

    def _name_untold(self, searched: Sequence[EvaluationRecord], asked: set[str]) -> None:
        """Name stored verdicts that do not say where gradients pointed, as those of an earlier release."""
        untold = [each for each in searched if each.hash in asked and "gradients" not in each.runs[-1]]
        if labels := ", ".join(each.identity["label"] for each in untold):
            said = "%s: verdicts of %s are of an earlier release, which did not note where gradients pointed: if its "
            _logger.warning(f"{said}code has changed since, evaluate it into a new folder (--out)", self.name, labels)

    def _points_elsewhere(self, searched: EvaluationRecord) -> bool:
        """Whether the gradients of images that a search has seen point elsewhere now."""
        before, now = searched.runs[-1].get("gradients", {}), self.look.directions
        both = before.keys() & now.keys()
        if len(both) < _FEWEST_GRADIENTS:
            return False
        return float(np.median([abs(before[each] - now[each]) for each in both])) > _OTHER_GRADIENTS

    def _vanishes_elsewhere(self, unit: EvaluationKey) -> bool:
        """Whether a search of an earlier release met many more or fewer gradients that are exactly zero."""
        info, zero = info_of(unit.identity), self.look.zero_gradient
        known = info.family in ("fgsm", "pgd") and info.loss == "ce" and not info.targets
        if not len(zero) or not known or not self.store.has(unit):
            return False
        verdicts = self.store.read(unit)
        samples = self.plan.samples[: len(zero)]
        stored = verdicts.frame[verdicts.frame["backwards"] > 0].set_index("sample")["zero_gradient"]
        both = np.isin(samples, stored.index)
        return bool(both.any()) and abs(stored.loc[samples[both]].mean() - zero[both].mean()) > _OTHER_GRADIENTS

    def _warn_if_search_changed(self, unit: EvaluationKey, differing: np.ndarray) -> None:
        """Warn where a search that was repeated for its images found other verdicts than the stored ones."""
        lacking = np.setdiff1d(self.plan.samples, self.store.stored(unit, images=True))
        if not len(differing) and not len(lacking):
            return
        shown = ", ".join(map(str, (lacking if len(lacking) else differing)[:5]))
        self._warnings.append(
            f"{self.name}: {unit.text} was searched again for its adversarial images, and {len(differing)} "
            f"samples come out otherwise than they are stored, of which {len(lacking)} are left without an image "
            f"(sample {shown}); the stored verdicts were kept"
        )

    def _facts(self, task: Task) -> dict[str, Any]:
        return {
            **({} if task.info is None else {"attack_info": task.info.to_json()}),
            "dataset": self.plan.dataset.label,
            "test_images": len(self.plan.dataset.test),
            "attacks": self.asked,
            **({"gradients": self.look.directions} if task.key.threat is not None else {}),
            "seed": task.seed,
            "randomised": self.look.randomised,
            "batch_dependent": self.look.batch_dependent,
            **({} if self.plan.config.sanity else {"sanity": False}),
            "versions": dict(self.plan.versions),
            "device": device_name(self.plan.device),
            **self.look.choice.facts,
            "command": self.plan.command,
            "date": self.plan.date,
        }


def columns_of(findings: AttackResult) -> dict[str, np.ndarray]:
    """The columns of verdicts."""
    return {name: getattr(findings, name).numpy() for name in FOUND.names}
