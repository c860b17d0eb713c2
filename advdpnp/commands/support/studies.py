"""What ``advdpnp study`` does: train and evaluate what is missing, then write the table and the figure."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter
from tabulate import tabulate

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.base.untrusted.files import LARGEST_JSON, STRICT, Name, Text, parse_json, read_bounded, validated
from advdpnp.base.versions import command_line
from advdpnp.commands.support.console import out as console
from advdpnp.commands.support.training import training_bar
from advdpnp.datasets.base import Dataset
from advdpnp.eval.api import evaluate
from advdpnp.eval.report.figures.study import draw_study
from advdpnp.eval.run.cluster.calls import run_calls
from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.store.key import file_name, short_hash
from advdpnp.models.loading import load_model
from advdpnp.models.network import Network
from advdpnp.training.study import (
    DEFAULT,
    Study,
    Variant,
    factor_names,
    parse_shard,
    read_study,
    runs,
    study_data,
    variants,
)
from advdpnp.training.trainer import Hardware, train

_JUDGED = "judged.json"
_LAST_METRICS = ("min_separation", "zero_gradient", "seconds")


class _Judged(BaseModel):
    model_config = STRICT | ConfigDict(allow_inf_nan=True)  # a net without prototypes has no separation

    definition: Text
    measured: dict[Name, float]


_SCHEMA = TypeAdapter(_Judged)


def study_command(
    name: str,
    *,
    results: Path,
    folder: Path,
    shard: str,
    data_root: Path | None,
    device: str,
    cluster: Cluster | None = None,
) -> None:
    """Finish this shard of a study, here or on a cluster, then write the table of all that is finished."""
    study, label = read_study(name), Path(name).stem
    training, judging = study_data(study, data_root)
    share = parse_shard(shard)
    data = f"{training.train.content_hash} {training.validation.content_hash} {judging.test.content_hash}"
    mine = [(variant, seed, _folder(folder / label, variant, seed)) for variant, seed in runs(study, share)]
    definitions = {run: _definition(study, variant, seed, data) for variant, seed, run in mine}
    todo = [(variant, seed, run) for variant, seed, run in mine if _judged(run, definitions[run]) is None]
    shared = (study, training, judging, command_line())
    finished: Iterator[tuple[Path, dict[str, float]]]
    if cluster is None:
        finished = ((run, _train_and_judge(*shared, variant, seed, run, device)) for variant, seed, run in todo)
    else:
        finished = _on_cluster(cluster, shared, todo, device, results / "ray.log")
    for run, measured in finished:
        write_text(run / _JUDGED, json.dumps({"definition": definitions[run], "measured": measured}))
    frame = collect(study, folder / label, data)
    if frame.empty:
        console.print(f"nothing of {label} is finished, and this share of the work holds nothing")
        return
    write_text(results / f"{label}.csv", frame.to_csv(index=False, float_format="%.6g"))
    write_text(results / f"{label}.md", to_markdown(study, frame, len(judging.test)))
    figures = draw_study(study, summary(frame), results / f"{label}.png")
    done, every = len(frame), len(list(runs(study)))
    console.print(f"{results / label}.csv, .md and {len(figures)} figure: {done} of {every} trainings")


def _folder(folder: Path, variant: Variant, seed: int) -> Path:
    words = variant.label.replace(", ", "--").replace(" ", "-")
    return folder / f"{file_name(words)}-s{seed}"


def _definition(study: Study, variant: Variant, seed: int, data: str) -> str:
    """Hash of everything that the measurements depend on."""
    recipe = variant.resolve(study, seed).to_yaml()
    return short_hash([recipe, study.attacks, study.rare.model_dump() if study.rare else None, data])


def _judged(run: Path, definition: str) -> dict[str, float] | None:
    """The measurements of a training, or None if it is not finished.

    Raises:
        AdvdpnpError: they are of another study, or cannot be read.
    """
    path = run / _JUDGED
    if not path.exists():
        return None
    try:
        judged = validated(_SCHEMA, parse_json(read_bounded(path, LARGEST_JSON)))
    except (OSError, ValueError) as error:
        raise AdvdpnpError(f"{path} is damaged; delete it, and the same command judges the net again") from error
    if judged.definition != definition:
        raise AdvdpnpError(
            f"{run} was trained or judged otherwise than the study now says; delete it or choose another --runs"
        )
    return judged.measured


def _on_cluster(
    cluster: Cluster, shared: Any, todo: Sequence[tuple[Variant, int, Path]], device: str, log: Path
) -> Iterator[tuple[Path, dict[str, float]]]:
    """Trainings side by side, each on one core or GPU of the cluster; a line about each that is finished."""
    calls = [(variant, seed, run.resolve()) for variant, seed, run in todo]
    found = run_calls(cluster, _of_a_worker, calls, shared=shared, device=device, log=log) if todo else iter(())
    for done, (number, measured) in enumerate(found, start=1):
        run = todo[number][2]
        accuracies = f"clean {measured['clean']:.2f} %, worst case {measured['worst_case']:.2f} %"
        console.print(f"{run.name}  {accuracies}  ({done} of {len(todo)} trainings)")
        yield run, measured


def _of_a_worker(shared: Any, call: tuple[Variant, int, Path], device: str) -> dict[str, float]:
    study, training, judging, command = shared
    variant, seed, run = call
    return _train_and_judge(study, training, judging, command, variant, seed, run, device, shown=False)


def _train_and_judge(
    study: Study,
    training: Dataset,
    judging: Dataset,
    command: str,
    variant: Variant,
    seed: int,
    run: Path,
    device: str,
    *,
    shown: bool = True,
) -> dict[str, float]:
    recipe = variant.resolve(study, seed)
    recipe = recipe.model_copy(update={"validation": len(training.validation)})
    with training_bar(run.name, shown=shown) as report:
        metrics = train(
            recipe, training, run, resume=True, hardware=Hardware(device), report=report, resume_command=command
        )
    # The last epoch, not the best: a choice by so few images would add noise.
    network = load_model(str(run / "last.safetensors")).model
    assert isinstance(network, Network)
    found = evaluate(
        network,
        judging.test.images,
        judging.test.labels,
        eps=recipe.attack.eps,
        norm=recipe.attack.norm,
        attacks=study.attacks,
        name=run.name,
        device=None if device == "auto" else device,
    )
    row = found.row.iloc[0]
    record: dict[str, Any] = {"clean": float(row["clean"])}
    names = [column for column in found.row.columns if f"{column}_low" in found.row.columns]
    record |= {column: float(row[column]) for column in names}
    if study.rare is not None:
        record |= _rare(found.verdicts, study.rare.classes)
    last = metrics.iloc[-1]
    return record | {column: float(last[column]) for column in _LAST_METRICS}


def _rare(verdicts: pd.DataFrame, classes: list[int]) -> dict[str, float]:
    """Clean and worst-case accuracy on the rare classes, in percent."""
    mine = verdicts[verdicts["label"].isin(classes)]
    wrong = mine["clean_prediction"] != mine["label"]
    clean = ~wrong.groupby(mine["sample"]).any()
    robust = ~(wrong | mine["success"]).groupby(mine["sample"]).any()
    return {"rare_clean": 100 * float(clean.mean()), "rare_worst_case": 100 * float(robust.mean())}


def collect(study: Study, folder: Path, data: str) -> pd.DataFrame:
    """One row per finished training: variant, factors, seed and measurements.

    Args:
        data: hashes of the images, as ``study_command`` joins them.

    Raises:
        AdvdpnpError: the measurements of a training are of another study, or cannot be read.
    """
    found = variants(study)
    factors = factor_names(found)
    records = []
    for variant, seed in runs(study):
        measured = _judged(_folder(folder, variant, seed), _definition(study, variant, seed, data))
        if measured is not None:
            values = {key: variant.factors.get(key, "") for key in factors}
            records.append({"variant": variant.label, **values, "seed": seed, **measured})
    frame = pd.DataFrame(records, columns=None if records else ["variant", *factors, "seed"])
    order = {variant.label: place for place, variant in enumerate(found)}
    frame = frame.dropna(axis="columns", how="all")
    return frame.sort_values(
        ["variant", "seed"], key=lambda column: column.map(order) if column.name == "variant" else column
    ).reset_index(drop=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds: one row per variant, columns (measure, "mean" or "std")."""
    measures = list(frame.columns[list(frame.columns).index("seed") + 1 :])
    factors = list(frame.columns[1 : list(frame.columns).index("seed")])
    grouped = frame.groupby("variant", sort=False)
    table = grouped[measures].agg(["mean", "std"])
    for factor in factors:
        table[factor, "value"] = grouped[factor].first()
    table["seeds", "count"] = grouped.size()
    return table


def to_markdown(study: Study, frame: pd.DataFrame, n: int) -> str:
    """The summary as Markdown; with factors varied one at a time, also the change from the default."""
    table = summary(frame)
    measures = [column[0] for column in table.columns if column[1] == "mean" and column[0] != "seconds"]
    base = table.loc[DEFAULT] if DEFAULT in table.index and study.vary else None
    lines = []
    for variant, row in table.iterrows():
        cells = [str(variant)]
        for name in measures:
            spread = row[name, "std"]
            cells.append(f"{row[name, 'mean']:.2f}" + (f" ± {spread:.2f}" if pd.notna(spread) else ""))
        if base is not None:
            moved = [row[name, "mean"] - base[name, "mean"] for name in ("clean", "worst_case") if name in measures]
            cells += ["" if variant == DEFAULT else f"{value:+.2f}" for value in moved]
        lines.append([*cells, str(int(row["seeds", "count"]))])
    changes = [f"{name}, change" for name in ("clean", "worst_case") if name in measures] if base is not None else []
    text = tabulate(lines, ["variant", *measures, *changes, "seeds"], tablefmt="pipe", disable_numparse=True)
    caption = (
        f"{study.description}. {study.dataset}, {n} images held out of the training images, mean ± standard deviation "
        "over seeds; accuracies in percent, min_separation in degrees, zero_gradient a share."
    )
    return f"{caption}\n\n{text}\n"
