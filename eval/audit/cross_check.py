"""Run our attacks and their counterparts in the reference packages on the same samples, and list disagreements."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from advdpnp.attacks.names import attack_names, reference_of
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.statistics import SIGNIFICANT, mcnemar
from advdpnp.datasets import Dataset
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.evaluate import run_models
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.models.loading import LoadedModel


def cross_check(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    attacks: str,
    out: Path,
    *,
    limit: int,
    seed: int,
    progress: Progress | None = None,
    components: Components | None = None,
    cluster: Cluster | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run attacks in our engine and in the packages', and compare sample by sample.

    Args:
        out: where verdicts of both are kept; attacks whose verdicts are there do not run again.
        limit: how many samples.
        progress, components, cluster: see ``run_models``.
        seed, options: fields of ``EvaluationConfig``.

    Returns:
        One row per model, threat model and attack: model, threat, attack, reference, n, own_accuracy and
        reference_accuracy (robust, percent), only_own and only_reference (samples that only one of the two breaks),
        p (exact McNemar).

    Raises:
        AdvdpnpError: none of the attacks has a counterpart.
    """
    chosen = attack_names(attacks, dataset.classes, norm=str(options.get("norm", "linf")))
    references = {name: reference_of(name) for name in chosen}
    pairs = {name: reference for name, reference in references.items() if reference and reference != name}
    if not pairs:
        raise AdvdpnpError(f"the reference packages have no counterpart of {attacks}; add for example autoattack")
    both = ",".join([*pairs, *pairs.values()])
    config = EvaluationConfig.of(attacks=both, limit=limit, seed=seed, **options)
    results = ResultsFolder(out)
    run_models(
        models, dataset, config, results, progress=progress, components=components, cluster=cluster
    ).raise_problems()
    names = {model.weights_hash: model.name for model in models}
    units = [unit for unit in results.evaluations() if unit.model.weights_hash in names and unit.seed == seed]
    by_key = {
        (unit.model.weights_hash, unit.threat, unit.label): unit
        for unit in sorted(units, key=lambda unit: len(unit.samples) == min(limit, len(dataset.test)))
    }
    rows = [
        {"model": names[weights], "threat": f"{threat[0]} {threat[2]}", "attack": label, "reference": pairs[label]}
        | _compare(unit, by_key[weights, threat, pairs[label]])
        for (weights, threat, label), unit in by_key.items()
        if threat is not None and label in pairs and (weights, threat, pairs[label]) in by_key
    ]
    return pd.DataFrame(rows)


def _compare(own: StoredEvaluation, reference: StoredEvaluation) -> dict[str, Any]:
    both = [unit.verdicts.frame.set_index("sample")["success"] for unit in (own, reference)]
    joined = pd.concat(both, axis=1, keys=["own", "reference"], join="inner")
    only_own = joined.index[joined["own"] & ~joined["reference"]]
    only_reference = joined.index[joined["reference"] & ~joined["own"]]
    return {
        "n": len(joined),
        "own_accuracy": 100 * float((~joined["own"]).mean()),
        "reference_accuracy": 100 * float((~joined["reference"]).mean()),
        "only_own": " ".join(map(str, only_own)),
        "only_reference": " ".join(map(str, only_reference)),
        "p": mcnemar(len(only_own), len(only_reference)),
    }


def in_words(frame: pd.DataFrame) -> list[str]:
    """One line per comparison, and the samples on which the two disagree."""
    lines = []
    for row in frame.to_dict("records"):
        verdict = "differ more than chance does" if row["p"] < SIGNIFICANT else "agree"
        lines.append(
            f"{row['model']}, {row['threat']}: {row['attack']} leaves {row['own_accuracy']:.1f} %, {row['reference']} "
            f"{row['reference_accuracy']:.1f} % of {row['n']}: they {verdict} (p = {row['p']:.2g})"
        )
        for column, whose in (("only_own", row["attack"]), ("only_reference", row["reference"])):
            if row[column]:
                lines.append(f"  only {whose} breaks: {row[column]}")
    return lines
