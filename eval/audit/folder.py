"""All that is stored of one model, judged again: its evaluations, the rows they make, and what is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advdpnp.base.errors import AdvdpnpError, raise_together
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.audit.images import Auditor, UnitAudit, static_batch_size_of
from advdpnp.eval.audit.model import measured_again, wrong_record
from advdpnp.eval.audit.replay import Replay, Replayer
from advdpnp.eval.audit.rows import audit_rows
from advdpnp.eval.store.index import INDEX
from advdpnp.eval.store.model_record import ModelRecord, read_model_record
from advdpnp.eval.store.old_layout import verdict_files
from advdpnp.eval.store.reader import StoredEvaluation, evaluations_of
from advdpnp.eval.store.schema import FOUND
from advdpnp.models.loading import LoadedModel

_WHOLE = [field.name for field in FOUND if field.name not in ("norm", "margin")]  # columns that every verdict fills


@dataclass(frozen=True)
class FolderAudit:
    """What holds of the evaluations in a model's folder.

    Attributes:
        model: which model they are about.
        leaderboard: the ``leaderboard.csv`` that rows were compared with; it need not exist.
        damaged: why an evaluation cannot be read, by name.
        audits: of every evaluation that can be read; of corrupted images none, for no attack made them.
        rows: sentences about rows of the leaderboard that do not hold.
        missing: sentences about what an evaluation stores besides verdicts and is not there.
        replays: of evaluations that were searched again; none where that was not asked for.
        record: sentences about what is stored of the model and does not hold.
        alike: whether this machine gives the bits that are stored of the clean images.
    """

    model: ModelRecord
    leaderboard: Path
    damaged: Mapping[str, str]
    audits: Sequence[UnitAudit]
    rows: Sequence[str]
    missing: Sequence[str]
    replays: Sequence[Replay] = ()
    record: Sequence[str] = ()
    alike: bool = False

    @property
    def contradicted(self) -> bool:
        """Whether anything stored is shown to be wrong."""
        wrong = any(audit.faults for audit in self.audits) or any(replay.faults for replay in self.replays)
        return bool(self.damaged or self.rows or self.record or wrong)

    @property
    def holds(self) -> bool:
        """Whether everything is there and shown to be right."""
        searched = not any(replay.suspect for replay in self.replays)
        return not (self.contradicted or self.missing or self.unshown) and searched

    @property
    def unshown(self) -> list[UnitAudit]:
        """Evaluations whose broken samples are shown by no image, and were not all searched again as stored."""
        again = {replay.unit.hash: replay.settled for replay in self.replays}
        return [
            audit
            for audit in self.audits
            if not (audit.shown or set(audit.unit.needs_image.tolist()) <= set(again.get(audit.unit.hash, [])))
        ]

    def to_json(self) -> dict[str, Any]:
        """Every finding, as JSON values."""
        damaged = [
            {"file": name, "holds": False, "faults": [{"sample": None, "why": why}]}
            for name, why in self.damaged.items()
        ]
        return {
            "model": self.model.name,
            "weights": self.model.weights_hash,
            "holds": self.holds,
            "contradicted": self.contradicted,
            "units": [*damaged, *map(_audit_to_json, self.audits)],
            "rows": list(self.rows),
            "model_record": list(self.record),
            "replays": list(map(_replay_to_json, self.replays)),
            "missing": list(self.missing),
        }


def _audit_to_json(audit: UnitAudit) -> dict[str, Any]:
    return {
        "file": audit.unit.verdicts.path.name,
        "unit": title(audit.unit),
        "holds": audit.holds,
        "samples": len(audit.unit.samples),
        "images": audit.images,
        "images_that_hold": audit.holding,
        "faults": [asdict(each) for each in audit.faults],
        "unsettled": [asdict(each) for each in audit.unsettled],
    }


def _replay_to_json(replay: Replay) -> dict[str, Any]:
    false, chance = replay.noticed
    return {
        "unit": title(replay.unit),
        "samples": replay.samples.tolist(),
        "claimed_robust": replay.claimed,
        "searched_again": replay.robust,
        "faults": [{"sample": sample, "why": why} for sample, why in sorted(replay.faults.items())],
        "unsettled": [{"sample": sample, "why": why} for sample, why in sorted(replay.unsettled.items())],
        "why_not": replay.why_not,
        "noticed_from": false,
        "chance_of_missing": round(chance, 4),
    }


def title(unit: StoredEvaluation) -> str:
    """What an evaluation is called in findings: "clean", or "pgd-20, linf 8/255"."""
    return unit.label if unit.threat is None else f"{unit.label}, {unit.threat.label}"


def find_folders(paths: Sequence[Path]) -> tuple[dict[Path, ModelRecord], list[str]]:
    """Each model's folder that the paths mean, once, and which model it is about; and what is wrong with other folders.

    Args:
        paths: folders of results or of one model, or files in the folder of a model.

    Raises:
        AdvdpnpError: nothing is stored there, or every ``model.json`` is damaged.
    """
    found: dict[Path, ModelRecord] = {}
    damaged: list[str] = []
    for folder in dict.fromkeys(folder.resolve() for path in paths for folder in _model_folders(path)):
        try:
            found[folder] = read_model_record(folder / "model.json")
        except AdvdpnpError as error:
            damaged.append(str(error))
    if not found:
        raise_together(damaged)
    return found, damaged


def _model_folders(path: Path) -> list[Path]:
    if path.is_file():
        if not (path.parent / "model.json").is_file():
            raise AdvdpnpError(f"{path} is no verdict file next to a model.json; give one that 'advdpnp eval' wrote")
        return [path.parent]
    if not path.is_dir():
        raise AdvdpnpError(f"there is no file or folder {path}; give one that 'advdpnp eval --out' has written")
    models = [each.parent for each in sorted(path.rglob("model.json"))]
    found = [folder for folder in models if (folder / INDEX).exists() or verdict_files(folder)]
    if not found:
        raise AdvdpnpError(f"there are no verdicts in {path}; run 'advdpnp eval ... --out {path}' first")
    return found


@dataclass(frozen=True)
class Again:
    """Which samples are searched again.

    Attributes:
        count: how many of each evaluation; None: all.
        seed: of the draw.
        told: called with each evaluation before it is searched.
    """

    count: int | None
    seed: int
    told: Callable[[str], None] = lambda _: None


def audit_folder(
    folder: Path, model: ModelRecord, auditor: Auditor, loaded: LoadedModel, again: Again | None = None
) -> FolderAudit:
    """Judge again what is stored of one model.

    Args:
        folder: where it is stored.
        model: what the folder says the model is.
        auditor: of the model.
        loaded: the model.
        again: which samples to search again; None: none.

    Raises:
        AdvdpnpError: an evaluation is about other images than those of the auditor's data set.
    """
    units, damaged = _read(folder)
    audits = [auditor.audit(unit) for unit in units if not unit.corrupted]
    leaderboard = folder.parent / "leaderboard.csv"
    if damaged:
        rows = ["the rows of the leaderboard cannot be made again: verdicts are damaged"]
    else:
        try:
            rows = list(audit_rows(units, {audit.unit.hash: audit for audit in audits}, leaderboard))
        except AdvdpnpError as error:  # evaluations that contradict each other
            rows = [str(error)]
    missing = list(_missing([audit.unit for audit in audits]))
    record = list(wrong_record(model, loaded, auditor.dataset))
    clean = next((audit.unit for audit in audits if audit.unit.is_clean and audit.judged), None)
    alike = clean is not None and auditor.alike(clean)
    replays = []
    if again is not None:
        replayer = Replayer(auditor, again.count, again.seed, alike=alike)
        judged = {audit.unit.hash for audit in audits if audit.judged}
        for unit in [unit for unit in units if not unit.is_clean and (unit.corrupted or unit.hash in judged)]:
            again.told(title(unit))
            replays.append(replayer.replay(unit))
        if clean is not None:
            again.told("measurements")
            record += measured_again(auditor, clean.diagnostics(), static_batch_size_of(clean))
    return FolderAudit(
        model=model, leaderboard=leaderboard, damaged=damaged, audits=audits, rows=rows, missing=missing,
        replays=replays, record=record, alike=alike,
    )  # fmt: skip


def _read(folder: Path) -> tuple[list[StoredEvaluation], dict[str, str]]:
    """The evaluations of a model that can be read, and why others cannot, by name."""
    try:
        readers = evaluations_of(folder)
    except AdvdpnpError as error:
        return [], {folder.name: str(error)}
    units, damaged = [], {}
    for name, read in readers:
        try:
            units.append(_checked(read()))
        except AdvdpnpError as error:
            damaged[name] = str(error)
    return units, damaged


def _checked(unit: StoredEvaluation) -> StoredEvaluation:
    """The evaluation, if every verdict has an answer and its metadata are complete."""
    try:
        if unit.verdicts.frame[_WHOLE].isna().any(axis=None) or not (title(unit) and unit.last_run and unit.hash):
            raise ValueError("a verdict without an answer")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise AdvdpnpError("its metadata are damaged, or it holds no verdicts") from error
    return unit


def _missing(units: Sequence[StoredEvaluation]) -> Iterator[str]:
    if not any(unit.is_clean for unit in units):
        yield "the verdicts on clean images are missing"
    try:
        rows = make_rows(units)
    except AdvdpnpError:
        return  # what contradicts itself is told already
    if any(not row.measured_samples for row in rows):
        yield "the measurements that flags come from are missing; run the same evaluation again"
    for row in rows:
        if row.missing_attacks:
            yield f"{', '.join(row.missing_attacks)} under {row.threat.label}: asked for, and no verdicts are here"
        if row.selected:
            yield f"{row.threat.label}: the {row.n} images are not the first ones of the data set"
