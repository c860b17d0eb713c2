"""What ``advdpnp eval`` and ``advdpnp leaderboard`` do, put together from the library."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from advdpnp.attacks.engine.precision import FLOAT32
from advdpnp.base.errors import AdvdpnpError, one_speaks
from advdpnp.commands.console import evaluation_bar, out, print_leaderboard, print_records
from advdpnp.datasets import Dataset, load_dataset
from advdpnp.eval.analysis.columns import accuracy_columns
from advdpnp.eval.analysis.corruptions import COUNT, MEAN, TYPE, corruption_notes
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.audit.cross_check import cross_check as run_cross_check
from advdpnp.eval.audit.cross_check import in_words
from advdpnp.eval.report.figures import draw_rows
from advdpnp.eval.report.leaderboard import writing_tables
from advdpnp.eval.report.robustbench import is_published
from advdpnp.eval.report.tables import number, unmeasured_note
from advdpnp.eval.report.write import write_report
from advdpnp.eval.run.evaluate import evaluate_models
from advdpnp.eval.run.progress import Silent
from advdpnp.eval.run.ranks import shard_of_environment
from advdpnp.eval.store.reader import find_models, find_results
from advdpnp.models.loading import LoadedModel, Normalisation, load_model

_DEFAULT_EPS = {"linf": "8/255", "l2": "0.5"}


def evaluate_command(
    *,
    checkpoints: Sequence[Path],
    models: Sequence[str],
    weights: Sequence[str],
    names: Sequence[str],
    mean: str | None,
    std: str | None,
    dataset: str | None,
    attacks: str,
    corruptions: str,
    corruption_types: str = "benchmark",
    norm: str | None,
    eps: Sequence[str],
    limit: int | None,
    seed: int,
    engine: str = "own",
    precision: str = FLOAT32,
    cross_check: int | None = None,
    transfer_from: Sequence[str] = (),
    save_adversarials: bool = False,
    batch_size: int | None,
    results: Path | None,
    data_root: Path | None,
    download: bool,
    device: str,
) -> None:
    """Load, evaluate, draw, and print the rows that were asked for.

    What the user leaves open is taken from the checkpoints where they agree: data set, norm and eps.
    """
    shard = shard_of_environment()
    with one_speaks(shard.first):
        if not checkpoints and not models:
            raise AdvdpnpError("there is nothing to evaluate; give a run folder, a .safetensors file or --model")
        own = [load_model(str(path)) for path in checkpoints]
        data = _dataset(dataset, own, data_root, download)
        own = [load_model(str(path), dataset=data) for path in checkpoints]  # now tried on an image of this data set
        loaded = _named([*own, *foreign_models(models, weights, data, normalisation_of(mean, std, data))], names)
        trained_norm = _common(own, "norm")
        norm = norm.strip().lower() if norm is not None else trained_norm or "linf"
        radii = [text.strip() for item in eps for text in item.split(",") if text.strip()]
        if eps and not radii:
            raise AdvdpnpError("--eps is empty; write it as 0.03 or 8/255, several with commas")
        if not radii:
            trained_eps = _common(own, "eps") if norm == trained_norm else None
            radii = [trained_eps or _DEFAULT_EPS.get(norm, "8/255")]
        results = results or Path("results") / data.label
        sources = [load_model(spec, dataset=data) for spec in transfer_from]
    with evaluation_bar() if shard.first else nullcontext(Silent()) as progress:
        common: dict[str, Any] = {
            "norm": norm, "eps": radii, "seed": seed, "batch_size": batch_size, "device": device, "progress": progress,
            "shard": shard,
        }  # fmt: skip
        frame = evaluate_models(
            loaded,
            data,
            out=results,
            attacks=attacks,
            limit=limit,
            corruptions=corruptions or ("auto" if attacks == "all" else "none"),
            corruption_types=corruption_types,
            data_root=data_root,
            engine=engine,
            precision=precision,
            transfer_from=sources,
            save_adversarials=save_adversarials,
            **common,
        )
        if cross_check is not None:
            beside = results.with_name(f"{results.name}-cross-check")
            compared = run_cross_check(loaded, data, attacks, beside, limit=cross_check, **common)
    if not shard.first:
        return
    _show(frame, results)
    if cross_check is not None:
        for line in in_words(compared):
            out.print(line, markup=False, highlight=False)
        out.print(f"{beside / 'cross-check.csv'}", markup=False)


def leaderboard_command(
    folders: Sequence[Path], results: Path, mce_baseline: str | None = None, compare: str | None = None
) -> None:
    """Tables and figures from stored verdicts, with published rows beside them if ``compare`` says whose."""
    if compare not in (None, "robustbench"):
        raise AdvdpnpError(
            f"nothing published is known by the name '{compare}'; write --compare robustbench (two models are compared "
            "by `advdpnp compare`)"
        )
    for folder in folders:
        find_models(folder)  # a folder named by mistake gets no lock
    with writing_tables(results):
        rows = make_rows(find_results(folders))
        frame = write_report(rows, results, folders=folders, mce_baseline=mce_baseline, published=bool(compare))
    theirs = is_published(frame)
    _show(frame[~theirs], results, rows)
    if compare:
        out.print(
            f"{theirs.sum()} published rows of this data and threat model: {results / 'leaderboard.md'}", markup=False
        )


def _show(frame: pd.DataFrame, results: Path, rows: Sequence[Row] | None = None) -> None:
    with writing_tables(results):
        figures = draw_rows(make_rows(find_results([results])) if rows is None else rows, results)
    numbers = [name for name in accuracy_columns(frame) if frame[name].notna().any()]
    print_leaderboard(
        frame.assign(threat=frame["norm"] + " " + frame["eps_text"]),
        ["model", "threat", *numbers, *(["mce"] if "mce" in frame else []), "n", "flags"],
    )
    _show_types(frame)
    for note in [*corruption_notes(frame), *filter(None, [unmeasured_note(frame)])]:
        out.print(note, markup=False, highlight=False)
    out.print(f"\n{results / 'leaderboard.html'}, .csv, .md and {len(figures)} figures", markup=False)


def _show_types(frame: pd.DataFrame) -> None:
    """Accuracy by type of models that no mean tells of: only some types ran."""
    if MEAN not in frame:
        return
    types = [name for name in map(str, frame) if name.startswith(TYPE)]
    alone = frame[frame[MEAN].isna() & frame[types].notna().any(axis=1)]
    alone = alone.drop_duplicates(["model", "weights_hash", "data_hash", "corruption_source", COUNT])
    if len(alone):
        types = [name for name in types if alone[name].notna().any()]
        records = [[name.removeprefix(TYPE), *map(number, alone[name])] for name in types]
        print_records("", records, ["mean of five severities", *alone["model"]])


def _dataset(name: str | None, own: Sequence[LoadedModel], data_root: Path | None, download: bool) -> Dataset:
    named = {str(model.header["dataset"]) for model in own if model.header.get("dataset")}
    if name is None and len(named) != 1:
        found = (
            f"the checkpoints were trained on {' and '.join(sorted(named))}"
            if named
            else "nothing says what it was trained on"
        )
        raise AdvdpnpError(f"{found}; choose the test images with --dataset")
    return load_dataset(name or named.pop(), data_root=data_root, download=download, train=False)


def normalisation_of(mean: str | None, std: str | None, data: Dataset) -> Normalisation | None:
    """The two options ``--mean`` and ``--std`` as numbers per channel; one number serves all channels."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise AdvdpnpError("--mean and --std belong together; give both")
    values = []
    for option, text in (("--mean", mean), ("--std", std)):
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise AdvdpnpError(
                f"{option} '{text}' is not a list of numbers; write 0.49,0.48,0.45 or one number"
            ) from None
        values.append(numbers * data.channels if len(numbers) == 1 else numbers)
    return values[0], values[1]


def foreign_models(
    models: Sequence[str], weights: Sequence[str], data: Dataset, normalisation: Normalisation | None
) -> list[LoadedModel]:
    """What ``--model`` and ``--weights`` name."""
    if weights and len(weights) != len(models):
        raise AdvdpnpError(
            f"there are {len(models)} --model and {len(weights)} --weights; give one per --model, in the same order, "
            "`-` for none"
        )
    if normalisation is not None and not models:
        raise AdvdpnpError("--mean and --std are for bare weights; checkpoints normalise their images by themselves")
    paths = [None if text == "-" else Path(text) for text in weights] or [None] * len(models)
    return [
        load_model(spec, weights=path, dataset=data, normalisation=normalisation)
        for spec, path in zip(models, paths, strict=True)
    ]


def _named(loaded: Sequence[LoadedModel], names: Sequence[str]) -> list[LoadedModel]:
    from dataclasses import replace

    if any(not name.strip() for name in names):
        raise AdvdpnpError("--name is empty; give what tables shall call the model")
    if odd := next((name for name in names if not name.isprintable()), None):
        raise AdvdpnpError(f"--name {odd!r} has line breaks or other signs that no table can show; leave them out")
    if names and len(names) != len(loaded):
        raise AdvdpnpError(
            f"there are {len(loaded)} models and {len(names)} --name; give one per model, in the same order"
        )
    named = [replace(model, name=name) for model, name in zip(loaded, names, strict=True)] if names else list(loaded)
    seen: dict[str, str] = {}
    for model in named:
        if seen.setdefault(model.name, model.weights_hash) != model.weights_hash:
            raise AdvdpnpError(
                f"two different models are called '{model.name}'; tell them apart with --name, one per model"
            )
    return named


def _common(own: Sequence[LoadedModel], key: str) -> Any:
    """A value of the training attack, if all checkpoints have the same."""
    values = {str(model.header.get("recipe", {}).get("attack", {}).get(key)) for model in own}
    return values.pop() if len(values) == 1 and values != {"None"} else None
