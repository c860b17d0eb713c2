"""A model where it is evaluated: a first look at it, its tasks, and the measurements that flags rest on. No store."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.transfer import Transfer
from advdpnp.attacks.engine.executor import (
    Executor,
    check_inputs,
    evaluation_mode,
    finite,
    is_batch_dependent,
)
from advdpnp.attacks.engine.precision import FLOAT32, Choice
from advdpnp.attacks.info import by_cost, describe
from advdpnp.attacks.losses import cross_entropy, margin
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.devices import single_threaded
from advdpnp.base.randomness import isolated_rng
from advdpnp.eval.diagnostics import (
    SANITY_SAMPLES,
    DiagnosticRecord,
    measure,
)
from advdpnp.eval.run.byte_images import misclassified_by, pack
from advdpnp.eval.run.device import require_answers, require_labels, user_code
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.tasks import NearestTask, Setting, Task, TransferTask, attack_task, clean_task, corruption_task
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.writer import Pack
from advdpnp.models.classifier import as_classifier
from advdpnp.models.loading import LoadedModel

_DIRECTIONS = 16  # images whose gradients are remembered
_CERTAIN = 8.0  # margins above leave gradients of rounding errors, which another processor has otherwise
_LONG = 1.0  # seconds of a model call, beside which what only the first call does is nothing


@dataclass(frozen=True)
class FirstLook:
    """What a few images show of a model.

    Attributes:
        static_batch_size: rows of every model call.
        classes: how many logits it has.
        randomised: whether its logits of the same images differ from call to call.
        batch_dependent: whether they depend on the other images of the batch.
        right: share of the images that it classifies correctly.
        seconds: per forward or backward of one image; 0 where nothing is attacked.
        margins: label's logit minus the largest other, float32 (n,).
        zero_gradient: whether the gradient of the cross-entropy is exactly zero, bool (n,); empty without attacks.
        directions: of this gradient, by sample, see ``direction_of``; empty without attacks.
        choice: precision of our searches; float32 where it is "auto" and nothing else has been chosen.
    """

    static_batch_size: int
    classes: int
    randomised: bool
    batch_dependent: bool
    right: float
    seconds: float
    margins: np.ndarray
    zero_gradient: np.ndarray
    directions: Mapping[str, float]
    choice: Choice


def first_look(loaded: LoadedModel, plan: Plan, static_batch_size: int) -> tuple[FirstLook, nn.Module]:
    """Look at a model that is on the plan's device; one that cannot be evaluated is refused, before hours of work.

    Returns:
        What was seen, and the model for ``Subject``.

    Raises:
        AdvdpnpError: it fails on the images or when it is differentiated, or has too few classes.
        ModelError: its logits are not finite.
    """
    model = as_classifier(loaded.model)
    samples = plan.samples[:static_batch_size]
    x, y = plan.images(samples), plan.labels(samples)
    check_inputs(x, y)
    executor, seconds = Executor(model, static_batch_size, plan.device), 0.0
    source = f"images of shape {tuple(x.shape[1:])} from {plan.dataset.label}"
    remedy = "choose the data set it was made for, or fix its forward"
    with user_code(f"{loaded.name} fails on {source}", remedy), evaluation_mode(model), isolated_rng():
        logits, *again = (executor.logits(x).cpu() for _ in range(3))
        randomised = any(not torch.equal(finite(logits), finite(each)) for each in again)
        batch_dependent = not randomised and is_batch_dependent(executor, x, logits)
    require_answers(logits)
    require_labels(plan.labels(plan.samples), logits.shape[1], loaded.name)
    margins, zero_gradient, directions = -margin(logits, y).numpy(), np.zeros(0, bool), dict[str, float]()
    if plan.attacked:
        place = torch.arange(static_batch_size).clamp(max=len(x) - 1)
        full, labels = x[place], y[place].to(plan.device)
        remedy = "fix its backward pass, or use --attacks none"
        with user_code(f"{loaded.name} fails when it is differentiated", remedy), evaluation_mode(model):
            # On a CPU what else runs on the machine does not count: pieces of work are cut by this number.
            cores, clock = 1, time.perf_counter
            if plan.device.type == "cpu":
                cores, clock = torch.get_num_threads(), time.process_time
            for _ in range(2):  # the first call takes up to ten times as long
                began = clock()
                gradient = executor.logits_and_gradient(full, partial(cross_entropy, y=labels))[1]
                float(gradient.sum())  # waits for a GPU
                took = clock() - began
                if took > _LONG:
                    break
            seconds = took / (2 * len(full) * cores)
        gradient = gradient[: len(x)].cpu()
        zero_gradient = (gradient == 0).flatten(1).all(1).numpy()
        told = np.flatnonzero(margins[:_DIRECTIONS] < _CERTAIN)
        directions = dict(zip(map(str, samples[told].tolist()), direction_of(gradient[told]), strict=True))
    look = FirstLook(
        static_batch_size=static_batch_size,
        classes=logits.shape[1],
        randomised=randomised,
        batch_dependent=batch_dependent,
        right=float((logits.argmax(1) == y).double().mean()),
        seconds=seconds,
        margins=margins,
        zero_gradient=zero_gradient,
        directions=directions,
        choice=Choice(FLOAT32 if plan.config.precision == "auto" else plan.config.precision),
    )
    return look, model.simplest


def direction_of(gradient: Tensor) -> list[float]:
    """One number that says where each gradient (n, c, h, w) points: of standard size, whatever its length; 0 if it has
    none. Gradients that point elsewhere have another one; those of other processors nearly the same.
    """
    flat = gradient.flatten(1).double()
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], flat.shape[1]))
    return [round(float(each), 3) for each in (flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)) @ signs]


class Subject:
    """A model that has been looked at, on the plan's device.

    Args:
        unasked: a copy of the model from before its first call, if there is one.

    Attributes:
        setting: the model under the plan.
    """

    def __init__(
        self, model: nn.Module, weights_hash: str, plan: Plan, look: FirstLook, unasked: nn.Module | None = None
    ) -> None:
        self._plan, self._hash, self._classes = plan, weights_hash, look.classes
        precision = look.choice.precision
        self.setting = Setting(model, plan, look.static_batch_size, look.randomised, precision, unasked)

    def new_tasks(self, precision: str | None = None) -> list[Task]:
        """What the plan asks of it, in order; ``precision`` replaces that of the setting."""
        setting = replace(self.setting, precision=precision or self.setting.precision)
        return tasks_of(setting, self._classes, self._hash)

    def measure(self, wanted: DiagnosticRecord, threat: ThreatModel | None) -> DiagnosticRecord:
        """Make a measurement of ``measurements_of``."""
        plan, model = self._plan, self.setting.model
        samples = plan.samples[: wanted.samples]
        with single_threaded(plan.device.type == "cpu"):
            x, y = plan.images(samples).to(plan.device), plan.labels(samples).to(plan.device)
            size = self.setting.static_batch_size
            if size == plan.components.first_batch_size(plan.device):  # memory was not short
                size = max(size, len(samples))  # small calls take longer
            numbers = measure(model, x, y, static_batch_size=size, seed=wanted.seed, threat=threat)
        return replace(wanted, numbers=numbers)

    def packer(self, unit: EvaluationKey) -> Pack:
        """The function that makes the adversarial images of an evaluation compact."""
        assert unit.threat is not None
        noise, plan = self.setting.noise("rounded", unit.label), self._plan
        misclassified = misclassified_by(self.setting.model, self.setting.static_batch_size, plan.device, noise)
        return partial(
            pack, clean=plan.dataset.test.some_images, threat=unit.threat, misclassified=misclassified,
            targeted=unit.targeted,
        )  # fmt: skip


def tasks_of(setting: Setting, classes: int, weights_hash: str) -> list[Task]:
    """What the plan asks of a model with so many classes: clean images, then everything else in order."""
    return list(_tasks(setting, classes, weights_hash))


def _tasks(setting: Setting, classes: int, weights_hash: str) -> Iterator[Task]:
    plan = setting.plan
    yield clean_task(setting)
    nearest: dict[str, NearestTask] = {}  # the last one of each attack
    widest = plan.attacks(max(plan.threats, key=lambda threat: threat.eps), classes)
    for threat in plan.threats:
        attacks = plan.attacks(threat, classes)
        infos = {label: describe(attack) for label, attack in attacks.items()}
        for label in by_cost(infos):  # cheap results first
            attack, last = attacks[label], threat is plan.threats[-1]
            if len(plan.threats) == 1 or not infos[label].minimum_norm:
                yield attack_task(setting, label, attack)
                continue
            before = nearest.get(label)
            nearest[label] = NearestTask(setting, label, attack, widest[label], before, last=last)
            yield nearest[label]
        for other in plan.transfer_from:
            if other.weights_hash != weights_hash:
                transfer = Transfer(threat, other.model, other.name, other.weights_hash)
                yield TransferTask(setting, transfer)
    if (source := plan.corruptions) is not None:
        for name, severity in source.cells:
            yield corruption_task(setting, source, name, severity)


def measurements_of(plan: Plan, weights_hash: str) -> list[tuple[DiagnosticRecord, ThreatModel | None]]:
    """What flags rest on, without its numbers: of the outputs, and of the gradients under each threat model."""
    if not plan.config.sanity:
        return []
    count, data = len(plan.samples[:SANITY_SAMPLES]), plan.dataset.test.content_hash
    found = []
    for threat in (None, *(plan.threats if plan.attacked else ())):
        norm, eps, text = ("", None, "") if threat is None else (threat.norm, threat.eps, threat.text)
        if norm not in ("l1", "l0"):
            record = DiagnosticRecord(weights_hash, data, count, plan.config.seed, norm, eps, text, {})
            found.append((record, threat))
    return found
