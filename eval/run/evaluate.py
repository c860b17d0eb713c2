"""Any number of models under one plan; their verdicts go to the store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from advdpnp.attacks.engine.precision import check_precision
from advdpnp.attacks.names import FEW_CLASSES
from advdpnp.base.errors import AdvdpnpError, ModelError
from advdpnp.base.randomness import isolated_rng
from advdpnp.base.versions import command_line
from advdpnp.corruption import as_bytes
from advdpnp.datasets import Dataset
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.cluster.connection import Cluster, cluster_device, connected
from advdpnp.eval.run.cluster.driver import Driver
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.device import choose_device
from advdpnp.eval.run.model_run import run_model
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import Results
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.models.loading import LoadedModel


@dataclass(frozen=True)
class RunResult:
    """What came of a run, besides the stored verdicts.

    Attributes:
        plan: what was asked of every model.
        asked: hashes of all evaluations that the plan asked for.
        failures: of the models that stopped answering; the others were evaluated.
        warnings: sentences about searches that were repeated for their images and found something else.
    """

    plan: Plan
    asked: frozenset[str]
    failures: tuple[ModelError, ...]
    warnings: tuple[str, ...]

    def raise_problems(self) -> None:
        """Raise the first failure, or else the warnings.

        Raises:
            AdvdpnpError: there was a failure or a warning.
        """
        if self.failures:
            raise self.failures[0]
        if self.warnings:
            raise AdvdpnpError(
                f"{'; '.join(self.warnings)}; they were made by other versions or on another machine: to have verdicts "
                "and images of one search, evaluate into a new folder (--out) with --save-adversarials"
            )


def run_models(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    config: EvaluationConfig,
    results: Results,
    *,
    transfer_from: Sequence[LoadedModel] = (),
    progress: Progress | None = None,
    command: str | None = None,
    components: Components | None = None,
    cluster: Cluster | None = None,
) -> RunResult:
    """Evaluate models; what is in ``results`` already is not repeated.

    Args:
        models: what to evaluate. Their modes, weights and devices are restored afterwards.
        dataset: whose test images are used.
        config: the options.
        results: where verdicts go.
        transfer_from: models whose adversarial images are tested on every other one (columns ``transfer:NAME``).
        progress: receives the course of the evaluation; nothing is printed.
        command: the command line, for the record; None finds out.
        components: what the runner calls; None takes the real ones.
        cluster: where it runs; None is this process and its forks.

    Raises:
        AdvdpnpError: nothing to evaluate, unknown attacks, unusable images or models, a folder that another process
            writes to.
        ModelError: every model stopped answering.
    """
    if not models:
        raise AdvdpnpError("there is no model to evaluate; give a checkpoint or --model")
    options = (transfer_from, progress, command, components or Components())
    warnings: list[str] = []
    with isolated_rng():
        if cluster is None:
            plan = _make_plan(dataset, config, choose_device(config.device), *options)
            asked, failures = _one_after_the_other(models, plan, results, warnings)
        else:
            with connected(cluster, [*models, *transfer_from], results.log) as ray:
                device = cluster_device(ray, config.device)
                plan = _make_plan(_without_training_images(dataset), config, device, *options)
                asked, failures = Driver(ray, cluster, models, plan, results, warnings).run()
    if len(failures) == len(models):
        raise failures[0]
    return RunResult(plan, frozenset(asked), tuple(failures), tuple(warnings))


def _one_after_the_other(
    models: Sequence[LoadedModel], plan: Plan, results: Results, warnings: list[str]
) -> tuple[set[str], list[ModelError]]:
    """Evaluate models in this process; returns hashes of all evaluations, and errors of models that stopped."""
    asked: set[str] = set()
    failures: list[ModelError] = []
    for number, model in enumerate(models):
        try:
            asked |= run_model(model, plan, results, warnings, len(models) - 1 - number)
        except ModelError as error:
            failures.append(error)
    return asked, failures


def _without_training_images(dataset: Dataset) -> Dataset:
    return replace(dataset, train=dataset.train.head(0), validation=dataset.validation.head(0))


def _make_plan(
    dataset: Dataset,
    config: EvaluationConfig,
    device: torch.device,
    transfer_from: Sequence[LoadedModel],
    progress: Progress | None,
    command: str | None,
    components: Components,
) -> Plan:
    """Resolve the options; a misspelt name is found here, before hours of work."""
    threats = config.threats
    check_precision(config.precision, device)
    if not len(dataset.test):
        raise AdvdpnpError(f"the data set {dataset.label} has no test images; there is nothing to evaluate on")
    n = len(dataset.test) if config.limit is None else min(config.limit, len(dataset.test))
    cells = components.corruption_cells(
        config.corruptions, as_bytes(dataset), config.data_root, config.seed, types=config.corruption_types
    )
    plan = Plan(
        config=config,
        dataset=dataset,
        threats=threats,
        samples=np.arange(n),
        device=device,
        progress=progress or Progress(),
        corruptions=cells,
        transfer_from=tuple(transfer_from),
        components=components,
        command=command_line() if command is None else command,
    )
    for threat in threats:
        plan.attacks(threat, max(FEW_CLASSES, dataset.classes))  # each model says later how many it has
    if config.save_adversarials and not (plan.attacked or transfer_from):
        raise AdvdpnpError("without an attack there are no adversarial images; name attacks, or store none of them")
    return plan


def requested_rows(models: Sequence[LoadedModel], result: RunResult, results: Results) -> list[Row]:
    """One row per model and threat model, of the plan's samples; clean images alone if no attack was asked for."""
    plan = result.plan
    names = {(model.name, model.weights_hash) for model in models}
    attacked = plan.attacked or plan.transfer_from
    radii = {(threat.norm, threat.eps) for threat in plan.threats} if attacked else set()

    def concerns(unit: StoredEvaluation) -> bool:
        if (unit.model.name, unit.model.weights_hash) not in names or unit.data != plan.dataset.test.content_hash:
            return False
        return unit.threat is None or (unit.threat[:2] in radii and unit.seed == plan.config.seed)

    return make_rows([unit for unit in results.evaluations() if concerns(unit)], plan.samples, preferred=result.asked)
