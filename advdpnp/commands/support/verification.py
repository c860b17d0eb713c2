"""What ``advdpnp verify`` does: find what is stored, load the models it is about, judge again, and say what holds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.commands.support.console import out
from advdpnp.commands.support.models import foreign_models, normalisation_of
from advdpnp.datasets import Dataset, load_dataset
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.audit.images import NOT_STORED, Auditor, Discrepancy, UnitAudit
from advdpnp.eval.audit.rows import audit_rows
from advdpnp.eval.run.device import choose_device
from advdpnp.eval.run.ranks import FOLDER
from advdpnp.eval.store.index import INDEX
from advdpnp.eval.store.model_record import ModelRecord, read_model_record
from advdpnp.eval.store.old_layout import verdict_files
from advdpnp.eval.store.reader import StoredEvaluation, evaluations_of
from advdpnp.eval.store.schema import FOUND
from advdpnp.models.loading import LoadedModel, load_model

_WHOLE = [field.name for field in FOUND if field.name not in ("norm", "margin")]  # columns that every verdict fills
_SHOWN = 10  # samples of one unit that are named; the JSON file has all


def verify_command(
    paths: Sequence[Path],
    *,
    checkpoints: Sequence[Path],
    models: Sequence[str],
    weights: Sequence[str],
    mean: str | None,
    std: str | None,
    dataset: str | None,
    data_root: Path | None,
    device: str,
    report: Path | None,
) -> bool:
    """Check what is stored below ``paths``; prints it, and returns whether all of it holds.

    Raises:
        AdvdpnpError: nothing is there, or a model or the data set is missing or another one.
    """
    folders = list(dict.fromkeys(folder.resolve() for path in paths for folder in _model_folders(path)))
    identities = {folder: _identity(folder / "model.json") for folder in folders}
    data = _dataset(dataset, identities, data_root)
    loaded = _load(checkpoints, models, weights, mean, std, data)
    _refuse_strangers(identities, loaded)
    chosen = choose_device(device)
    good, told = True, []
    for folder in folders:
        identity = identities[folder]
        model = loaded[identity.weights_hash].model.to(chosen)
        try:
            result = _verify_model(folder, identity, Auditor(model, data, chosen))
        except torch.OutOfMemoryError:
            raise AdvdpnpError(f"{identity.name} does not fit in the memory of {chosen}; use --device cpu") from None
        finally:
            model.cpu()
        good &= result["holds"]
        told.append(result)
    if good:
        out.print("all of it holds", style="green")
    elif any(each["contradicted"] for each in told):
        out.print("NOT all of it holds", style="red")
    else:
        out.print("NOT all of it is shown, for something is missing; nothing contradicts the rest", style="red")
    if report is not None:
        write_text(report, json.dumps({"holds": good, "models": told}, indent=1) + "\n")
    return good


def _model_folders(path: Path) -> list[Path]:
    """The folders of models that a path means: one, all in or below it, or the one that a file is in."""
    if path.is_file():
        if not (path.parent / "model.json").is_file():
            raise AdvdpnpError(
                f"{path} is no verdict file beside a model.json; give one that 'advdpnp eval' has written"
            )
        return [path.parent]
    if not path.is_dir():
        raise AdvdpnpError(f"there is no file or folder {path}; give one that 'advdpnp eval --out' has written")
    models = [each.parent for each in sorted(path.rglob("model.json")) if FOLDER not in each.parts]
    found = [folder for folder in models if (folder / INDEX).exists() or verdict_files(folder)]
    if not found:
        raise AdvdpnpError(f"there are no verdicts in {path}; run 'advdpnp eval ... --out {path}' first")
    return found


def _identity(path: Path) -> ModelRecord:
    identity = read_model_record(path)
    if not all(isinstance(each, str) for each in (identity.name, identity.weights_hash, identity.dataset)):
        raise AdvdpnpError(f"{path} is damaged; run the evaluation again with the same --out to fix it")
    return identity


def _dataset(name: str | None, identities: dict[Path, ModelRecord], data_root: Path | None) -> Dataset:
    named = {identity.dataset for identity in identities.values()}
    if name is None and len(named) != 1:
        raise AdvdpnpError(
            f"these models were evaluated on {' and '.join(sorted(named))}; verify one data set at a time"
        )
    try:
        return load_dataset(name or named.pop(), data_root=data_root, train=False)
    except AdvdpnpError as error:
        raise (
            AdvdpnpError(f"{error}; choose with --dataset what the evaluation was of") if name is None else error
        ) from None


def _load(
    checkpoints: Sequence[Path],
    models: Sequence[str],
    weights: Sequence[str],
    mean: str | None,
    std: str | None,
    data: Dataset,
) -> dict[str, LoadedModel]:
    """What was given, by the hash of its weights."""
    own = [load_model(str(file), dataset=data) for path in checkpoints for file in _checkpoint_files(path)]
    given = [*own, *foreign_models(models, weights, data, normalisation_of(mean, std, data))]
    if not given:
        raise AdvdpnpError("no model is given to verify with; add --checkpoint FILE, or --model and --weights")
    return {model.weights_hash: model for model in given}


def _checkpoint_files(path: Path) -> list[Path]:
    """A checkpoint or run folder; of a folder of checkpoints all."""
    if not path.is_dir() or (path / "best.safetensors").exists():
        return [path]
    return [*sorted(path.glob("*.safetensors")), *sorted(path.glob("*/best.safetensors"))] or [path]


def _refuse_strangers(identities: dict[Path, ModelRecord], loaded: dict[str, LoadedModel]) -> None:
    strangers = [each for each in identities.values() if each.weights_hash not in loaded]
    if strangers:
        given = ", ".join(f"{model.name} ({model.weights_hash[:8]})" for model in loaded.values())
        wanted = ", ".join(f"{each.name} ({each.weights_hash[:8]})" for each in strangers)
        raise AdvdpnpError(
            f"the verdicts are about the weights of {wanted}, and none of those given has their hash: {given}; "
            "name the right ones with --checkpoint, one for each model, or verify fewer models"
        )


def _verify_model(folder: Path, identity: ModelRecord, auditor: Auditor) -> dict[str, Any]:
    """Audit, print, and return the same as JSON values."""
    about = f"{identity.name}  weights {identity.weights_hash[:8]}, {identity.dataset}, {auditor.device}"
    out.print(about, markup=False, style="bold")
    if auditor.caution:
        out.print(f"  its answers are {auditor.caution}: what holds here may not hold elsewhere", style="yellow")
    units, damaged = _read(folder)
    told: list[dict[str, Any]] = []
    for name, why in damaged.items():
        _tell(name, why, [], [])
        told.append({"file": name, "holds": False, "faults": [{"sample": None, "why": why}]})
    audits: dict[str, UnitAudit] = {}
    for unit in units:
        if unit.corrupted:
            continue  # nobody searched for those images
        audit = audits[unit.hash] = auditor.audit(unit)
        _tell(_title(unit), _summary(audit), audit.faults, audit.unsettled)
        told.append(
            {
                "file": unit.verdicts.path.name, "unit": _title(unit), "holds": audit.holds,
                "samples": len(unit.samples), "images": audit.images, "images_that_hold": audit.holding,
                "faults": [asdict(each) for each in audit.faults],
                "unsettled": [asdict(each) for each in audit.unsettled],
            }
        )  # fmt: skip
    wrong = _verify_rows(folder, units, audits, complete=not damaged)
    missing = list(_missing([each.unit for each in audits.values()]))
    for sentence in missing:
        out.print(f"  {sentence}", markup=False, style="red")
    return {
        "model": identity.name,
        "weights": identity.weights_hash,
        "holds": not wrong and not missing and all(each["holds"] for each in told),
        "contradicted": bool(wrong) or any(each["faults"] for each in told),
        "units": told,
        "rows": wrong,
        "missing": missing,
    }


def _read(folder: Path) -> tuple[list[StoredEvaluation], dict[str, str]]:
    """The evaluations of a model that are whole, and of the others what is wrong, by name."""
    units, damaged = [], {}
    try:
        readers = evaluations_of(folder)
    except AdvdpnpError as error:
        return [], {folder.name: str(error)}
    for name, read in readers:
        try:
            units.append(_whole(read()))
        except AdvdpnpError as error:
            damaged[name] = str(error)
    return units, damaged


def _whole(unit: StoredEvaluation) -> StoredEvaluation:
    """An evaluation whose every verdict has an answer."""
    try:
        if unit.verdicts.frame[_WHOLE].isna().any(axis=None) or not (_title(unit) and unit.last_run and unit.hash):
            raise ValueError("a verdict without an answer")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise AdvdpnpError("its metadata are damaged, or it holds no verdicts") from error
    return unit


def _missing(units: Sequence[StoredEvaluation]) -> Iterator[str]:
    """What an evaluation leaves beside verdicts and is not there, in words."""
    if all(unit.threat is not None for unit in units):
        yield "the verdicts on clean images are missing"
    if any(not row.measured_samples for row in make_rows(units)):
        yield "the measurements that flags come from are missing; run the same evaluation again"


def _verify_rows(
    folder: Path, units: Sequence[StoredEvaluation], audits: Mapping[str, UnitAudit], *, complete: bool
) -> list[str]:
    """Hold a model's rows against what was judged; prints it, and returns what does not hold, in words."""
    leaderboard = folder.parent / "leaderboard.csv"
    if complete:
        wrong = list(audit_rows(units, audits, leaderboard))
    else:
        wrong = ["the rows of the leaderboard cannot be made again: verdicts are damaged"]
    for sentence in wrong:
        out.print(f"  {sentence}", markup=False, style="red")
    if audits and not wrong:
        compared = "as in leaderboard.csv" if leaderboard.exists() else "not compared: there is no leaderboard.csv"
        unseen = ", ".join(each.unit.label for each in audits.values() if not each.shown)
        alone = f" ({unseen}: by the verdicts alone)" if unseen else ""
        recorded = all(each.unit.last_run.get("command") for each in audits.values())
        command = "" if recorded else ", but for the command"
        out.print(f"  rows: where they come from is recorded{command}; accuracies {compared}{alone}", markup=False)
    return wrong


def _title(unit: StoredEvaluation) -> str:
    return unit.label if unit.threat is None else f"{unit.label}, {unit.threat.label}"


def _summary(audit: UnitAudit) -> str:
    n = len(audit.unit.samples)
    if audit.unit.threat is None:
        return f"{n} clean images, {'predictions as stored' if audit.holds else 'NOT as stored'}"
    if not audit.shown:
        return NOT_STORED
    state = "all hold" if audit.holding == audit.images else f"{audit.holding} hold"
    return f"{audit.images} images, {state}; {len(audit.broken)} of {n} samples broken"


def _tell(title: str, summary: str, faults: Sequence[Discrepancy], unsettled: Sequence[Discrepancy]) -> None:
    out.print(f"  {title:<40} {summary}", markup=False)
    for kind, found in (("", faults), ("not settled: ", unsettled)):
        for each in found[:_SHOWN]:
            where = "" if each.sample is None else f"sample {each.sample}: "
            out.print(f"    {where}{kind}{each.why}", markup=False, style="yellow" if kind else "red")
        if len(found) > _SHOWN:
            out.print(f"    and {len(found) - _SHOWN} more")
