"""Evaluation of any number of models: plan, run each, tabulate."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from advdpnp.attacks.engine.precision import FLOAT32, choose_precision
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError, ModelError, one_speaks
from advdpnp.base.randomness import isolated_rng
from advdpnp.corruption import as_bytes
from advdpnp.datasets import Dataset
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.report.leaderboard import tabulate_rows, writing_tables
from advdpnp.eval.report.write import write_report
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.model_run import run_model
from advdpnp.eval.run.plan import Plan, choose_device, command_line
from advdpnp.eval.run.progress import Progress, Silent
from advdpnp.eval.run.ranks import ALONE, Shard, at_work
from advdpnp.eval.store.reader import StoredEvaluation, find_results
from advdpnp.models.loading import LoadedModel


def evaluate_models(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    *,
    out: Path,
    attacks: str = "all",
    norm: str = "linf",
    eps: Sequence[str | float] = ("8/255",),
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    corruptions: str = "none",
    corruption_types: str | Sequence[str] = "benchmark",
    data_root: Path | None = None,
    engine: str = "own",
    precision: str = FLOAT32,
    shard: Shard = ALONE,
    transfer_from: Sequence[LoadedModel] = (),
    save_adversarials: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
    components: Components | None = None,
) -> pd.DataFrame:
    """Evaluate models and write ``out/leaderboard.csv`` and ``.md``; what ``out`` holds already is not repeated.

    Verdicts are on disk as they are found: after an interruption the same call continues. The rows have exactly the
    samples asked for; attacks that an earlier evaluation has stored for all of these are shown too. The written table
    adds the rows of whatever else is complete in ``out``. A model that stops answering (its logits become NaN under
    attack, say) stops the others only where several processes share the work; what it left unanswered is raised last.

    Args:
        models: what to evaluate. Their modes, weights and devices are afterwards as before.
        dataset: whose test images are used.
        out: folder of the results.
        attacks: "all" (fgsm, pgd-20, cw, autoattack), "none", or names with commas.
        norm: "linf" or "l2".
        eps: one or several radii.
        limit: use the first so many test images; None uses all.
        seed: of everything random in the attacks.
        batch_size: most images in work at once.
        device: None or "auto" takes a GPU if there is one.
        corruptions: "none", "auto" or "cifar10-c".
        corruption_types: "benchmark" (15, whose mean is reported), "all" (4 extra ones too), or names
            (a sequence of them, or one text with commas).
        data_root: where official corrupted images are looked for.
        engine: "own", or "reference" for the same attacks of torchattacks and pyautoattack.
        precision: of our searches: "32", "tf32", "bf16" or "auto". Successes count in float32 only; the columns of a
            search of less are called so, "autoattack (bf16 search)".
        shard: which of several processes this is; the first returns and writes the table, the others an empty one.
        transfer_from: models whose adversarial images are tried on every other one (columns ``transfer:NAME``).
        save_adversarials: store the adversarial image of every sample that an attack breaks, which ``verify`` checks.
            Where verdicts are there already, only the images are made, by the same search again.
        progress: is told what happens; nothing is printed.
        command: the command line, for the record; None finds out.
        components: what the runner calls; None takes the real ones.

    Returns:
        The rows that were asked for, as ``build_leaderboard`` makes them.

    Raises:
        AdvdpnpError: nothing to evaluate, unknown attacks, unusable images or models, a folder that another
            process writes to; or, after all else is done, a search that was repeated for its images came out otherwise.
    """
    components = components or Components()
    with one_speaks(shard.first):
        if not models:
            raise AdvdpnpError("there is no model to evaluate; give a checkpoint or --model")
        if not 0 <= seed < 2**63:
            raise AdvdpnpError(f"the seed {seed} is out of range; choose one from 0 to {2**63 - 1}")
        if corruptions == "none" and corruption_types != "benchmark":
            raise AdvdpnpError("corruption types are chosen, but no corruptions; add --corruptions auto")
        if batch_size is not None and batch_size < 1:
            raise AdvdpnpError(f"a batch size of {batch_size} leaves no image; give 1 or more")
        threats = tuple({threat.eps: threat for threat in (ThreatModel.parse(norm, radius) for radius in eps)}.values())
        if not threats:
            raise AdvdpnpError("there is no eps; give one, for example 8/255")
        for threat in threats:  # a misspelt attack shows before hours of work, not after
            components.resolve_attacks(attacks, threat, max(2, dataset.classes), engine)
        chosen = choose_device(device, shard.local)
        plan = Plan(
            dataset=dataset,
            attacks=attacks,
            threats=threats,
            samples=_first_samples(dataset, limit),
            seed=seed,
            batch_size=batch_size,
            device=chosen,
            progress=progress or Silent(),
            corruptions=components.corruption_cells(
                corruptions, as_bytes(dataset), data_root, seed, types=corruption_types
            ),
            engine=engine,
            precision=choose_precision(precision, chosen),
            shard=shard,
            transfer_from=tuple(transfer_from),
            save_adversarials=save_adversarials,
            components=components,
            command=command_line() if command is None else command,
        )
        if save_adversarials and not (plan.attacked or transfer_from):
            raise AdvdpnpError("without an attack there are no adversarial images; name attacks, or store none of them")
    asked: set[str] = set()
    failures: list[ModelError] = []
    with isolated_rng(), at_work(shard, out):
        for model in models:
            try:
                asked |= run_model(model, plan, out)
            except ModelError as error:
                if shard.world > 1:  # the others would wait for this model's verdicts
                    raise
                failures.append(error)
    if len(failures) == len(models):
        raise failures[0]
    if not shard.first:
        return tabulate_rows([])
    with writing_tables(out):
        rows = _rows_asked_for(models, plan, out, asked)
        keys = {row.key for row in rows}
        others = [row for row in make_rows(find_results([out])) if row.key not in keys]
        write_report([*rows, *others], out)
    if failures:
        raise failures[0]
    if plan.notes:
        raise AdvdpnpError(
            f"{'; '.join(plan.notes)}; they were made by other versions or on another machine: to have verdicts and "
            "images of one search, evaluate into a new folder (--out) with --save-adversarials"
        )
    return tabulate_rows(rows)


def _first_samples(dataset: Dataset, limit: int | None) -> np.ndarray:
    if not len(dataset.test):
        raise AdvdpnpError(f"the data set {dataset.label} has no test images; there is nothing to evaluate on")
    if limit is not None and limit < 1:
        raise AdvdpnpError(f"a limit of {limit} leaves no image; give 1 or more")
    return np.arange(len(dataset.test) if limit is None else min(limit, len(dataset.test)))


def _rows_asked_for(models: Sequence[LoadedModel], plan: Plan, out: Path, asked: set[str]) -> list[Row]:
    """One row per model and threat model, of the plan's samples; clean images alone if no attack was asked for."""
    names = {(model.name, model.weights_hash) for model in models}
    attacked = plan.attacked or plan.transfer_from
    radii = {(threat.norm, threat.eps) for threat in plan.threats} if attacked else set()

    def concerns(unit: StoredEvaluation) -> bool:
        if (unit.model.name, unit.model.weights_hash) not in names or unit.data != plan.dataset.test.content_hash:
            return False
        return unit.threat is None or (unit.threat[:2] in radii and unit.seed == plan.seed)

    return make_rows([unit for unit in find_results([out]) if concerns(unit)], plan.samples, preferred=asked)
