"""What ``advdpnp verify`` does: load the models of stored evaluations, have them judged again, print what holds."""

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.commands.support.console import err, out
from advdpnp.commands.support.models import ModelOptions, foreign_models
from advdpnp.datasets import Dataset, load_dataset
from advdpnp.eval.audit.folder import Again, FolderAudit, audit_folder, find_folders, title
from advdpnp.eval.audit.images import NOT_STORED, Auditor, Discrepancy, UnitAudit
from advdpnp.eval.audit.replay import Replay
from advdpnp.eval.audit.signature import refuse_forged
from advdpnp.eval.audit.trust import what_is_known
from advdpnp.eval.run.device import choose_device
from advdpnp.eval.store.index import read_index
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.rules import KNOWN_DATA, KnownData
from advdpnp.eval.store.rules.seal import unbroken_seals
from advdpnp.models.loading import LoadedModel, load_model

_SHOWN = 10  # samples of one unit that are named; the JSON file has all


def verify_command(
    paths: Sequence[Path],
    *,
    checkpoints: Sequence[Path],
    specs: Sequence[str],
    options: ModelOptions,
    dataset: str | None,
    data_root: Path | None,
    device: str,
    report: Path | None,
    replay: int | None,
    seed: int | None,
) -> bool:
    """Check what is stored below ``paths``; prints it, and returns whether all of it holds.

    Args:
        replay: how many samples of each evaluation to search again; None: all, 0: none.
        seed: of the draw of these samples; None: a new one.

    Raises:
        AdvdpnpError: nothing is there, or a model or the data set is missing or another one.
    """
    identities, damaged = find_folders(paths)
    seals = unbroken_seals([path if path.is_dir() else path.parent for path in paths])
    refuse_forged(seals)
    data = _dataset(dataset, identities, data_root)
    loaded = _load(checkpoints, specs, options, data)
    _refuse_strangers(identities, loaded)
    chosen = choose_device(device)
    again = None if replay == 0 else Again(replay, secrets.randbits(32) if seed is None else seed, _searching)
    auditing = partial(_audit, loaded=loaded, data=data, data_root=data_root, device=chosen, again=again)
    found = [auditing(folder, identity) for folder, identity in identities.items()]
    for sentence in damaged:
        out.print(sentence, style="red")
    holds = not damaged and all(each.holds for each in found)
    for line in what_is_known(found, again, seals):
        out.print(line)
    if holds:
        out.print("all of it holds", style="green")
    elif damaged or any(each.contradicted for each in found):
        out.print("NOT all of it holds", style="red")
    else:
        labels = ", ".join(dict.fromkeys(audit.unit.label for each in found for audit in each.unshown))
        lacks = (
            f"broken samples of {labels} have no stored image and were not searched again (--replay all does; "
            "eval --save-adversarials stores images)"
        )
        if any(each.missing for each in found):
            lacks = "some results are missing"
        elif any(replay.suspect for each in found for replay in each.replays):
            lacks = "some evaluations could not be searched again"
        out.print(f"Incomplete: {lacks}; no check failed", style="red")
    if report is not None:
        models = [each.to_json() for each in found]
        write_text(report, json.dumps({"holds": holds, "damaged": damaged, "models": models}, indent=1) + "\n")
    return holds


def _audit(
    folder: Path,
    identity: ModelRecord,
    *,
    loaded: Mapping[str, LoadedModel],
    data: Dataset,
    data_root: Path | None,
    device: torch.device,
    again: Again | None,
) -> FolderAudit:
    """Judge one model's folder again, and print what was found."""
    own = loaded[identity.weights_hash]
    model = own.model.to(device)
    about = f"{identity.name}  weights {identity.weights_hash[:8]}, {identity.dataset}, {device}"
    out.print(about, style="bold")
    try:
        auditor = Auditor(model, data, device, data_root)
        if auditor.caution:
            out.print(f"  its answers are {auditor.caution}: what holds here may not hold elsewhere", style="yellow")
        found = audit_folder(folder, identity, auditor, own, again)
    except OUT_OF_MEMORY:
        raise AdvdpnpError(f"{identity.name} does not fit in the memory of {device}; use --device cpu") from None
    finally:
        model.cpu()
    _show(found)
    return found


def _dataset(name: str | None, identities: dict[Path, ModelRecord], data_root: Path | None) -> Dataset:
    named = {known.name if (known := _known(folder)) else model.dataset for folder, model in identities.items()}
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


def _known(folder: Path) -> KnownData | None:
    """The data set of the results in a model's folder, where it is known by its hash."""
    with suppress(AdvdpnpError):  # what is damaged is told later
        index = read_index(folder)
        hashes = {str(record.identity["data"]) for record in index.evaluations} if index else set()
        return KNOWN_DATA.get(hashes.pop()) if len(hashes) == 1 else None
    return None


def _searching(what: str) -> None:
    err.print(f"  searching again: {what}")


def _load(
    checkpoints: Sequence[Path],
    models: Sequence[str],
    options: ModelOptions,
    data: Dataset,
) -> dict[str, LoadedModel]:
    """What was given, by the hash of its weights."""
    files = [file for path in checkpoints for file in _checkpoint_files(path)]
    own = [load_model(str(file), dataset=data, dtype=options.dtype_name) for file in files]
    given = [*own, *foreign_models(models, options, data)]
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
            "name the right ones with --checkpoint, one for each model, or with --model and the --weights, --mean and "
            "--std of the evaluation"
        )


def _show(found: FolderAudit) -> None:
    """Print what holds of one model and what does not."""
    for name, why in found.damaged.items():
        _show_evaluation(name, why)
    for audit in found.audits:
        _show_evaluation(title(audit.unit), _summary(audit), audit.faults, audit.unsettled)
    for sentence in found.rows:
        out.print(f"  {sentence}", style="red")
    if found.audits and not found.rows:
        exists = found.leaderboard.exists()
        compared = "as in leaderboard.csv" if exists else "not compared: there is no leaderboard.csv"
        unseen = ", ".join(each.unit.label for each in found.audits if not each.shown)
        alone = f" ({unseen}: by the verdicts alone)" if unseen else ""
        recorded = all(each.unit.last_run.get("command") for each in found.audits)
        command = "" if recorded else ", but for the command"
        out.print(f"  rows: where they come from is recorded{command}; accuracies {compared}{alone}")
    for replay in found.replays:
        _show_replay(replay)
    for sentence in (*found.record, *found.missing):
        out.print(f"  {sentence}", style="red")


def _show_replay(replay: Replay) -> None:
    name = f"{title(replay.unit)}, again"
    if replay.why_not:
        if not replay.unit.corrupted:
            _show_evaluation(name, f"not searched: {replay.why_not}")
        return
    same = len(replay.samples) - len(replay.faults) - len(replay.unsettled)
    if replay.unit.corrupted and same == len(replay.samples):
        return  # 75 lines that say nothing
    found = [[Discrepancy(n, why) for n, why in sorted(each.items())] for each in (replay.faults, replay.unsettled)]
    _show_evaluation(name, f"{len(replay.samples)} samples, {same} as stored", *found)


def _summary(audit: UnitAudit) -> str:
    n = len(audit.unit.samples)
    if audit.unit.threat is None:
        state = "predictions as stored" if audit.holds else "NOT as stored"
        return f"{n} clean images, {state}; {len(audit.broken)} misclassified"
    if not audit.shown:
        return NOT_STORED
    state = "all hold" if audit.holding == audit.images else f"{audit.holding} hold"
    unchanged = len(audit.broken) - audit.attacked
    return (
        f"{audit.images} images, {state}; {audit.attacked} of {n} samples broken, {unchanged} misclassified unchanged"
    )


def _show_evaluation(
    name: str, summary: str, faults: Sequence[Discrepancy] = (), unsettled: Sequence[Discrepancy] = ()
) -> None:
    out.print(f"  {name:<40} {summary}")
    for kind, found in (("", faults), ("not settled: ", unsettled)):
        for each in found[:_SHOWN]:
            where = "" if each.sample is None else f"sample {each.sample}: "
            out.print(f"    {where}{kind}{each.why}", style="yellow" if kind else "red")
        if len(found) > _SHOWN:
            out.print(f"    and {len(found) - _SHOWN} more")
