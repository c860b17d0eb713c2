"""All that is stored of one model, judged again: its evaluations, the rows they make, and what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.audit.images import Auditor, UnitAudit
from advdpnp.eval.audit.rows import audit_rows
from advdpnp.eval.store.index import INDEX
from advdpnp.eval.store.model_record import ModelRecord, read_model_record
from advdpnp.eval.store.old_layout import verdict_files
from advdpnp.eval.store.reader import StoredEvaluation, evaluations_of
from advdpnp.eval.store.schema import FOUND

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
    """

    model: ModelRecord
    leaderboard: Path
    damaged: Mapping[str, str]
    audits: Sequence[UnitAudit]
    rows: Sequence[str]
    missing: Sequence[str]

    @property
    def contradicted(self) -> bool:
        """Whether anything stored is shown to be wrong."""
        return bool(self.damaged or self.rows or any(audit.faults for audit in self.audits))

    @property
    def holds(self) -> bool:
        """Whether everything is there and shown to be right."""
        return not (self.contradicted or self.missing) and all(audit.holds for audit in self.audits)

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


def title(unit: StoredEvaluation) -> str:
    """What an evaluation is called in findings: "clean", or "pgd-20, linf 8/255"."""
    return unit.label if unit.threat is None else f"{unit.label}, {unit.threat.label}"


def find_folders(paths: Sequence[Path]) -> dict[Path, ModelRecord]:
    """Each model's folder that the paths mean, once, and which model it is about.

    Args:
        paths: folders of results or of one model, or files in the folder of a model.

    Raises:
        AdvdpnpError: nothing is stored there, or a ``model.json`` is damaged.
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _model_folders(path))
    return {folder: _identity(folder / "model.json") for folder in folders}


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


def _identity(path: Path) -> ModelRecord:
    identity = read_model_record(path)
    if not all(isinstance(each, str) for each in (identity.name, identity.weights_hash, identity.dataset)):
        raise AdvdpnpError(f"{path} is damaged; run the evaluation again with the same --out to fix it")
    return identity


def audit_folder(folder: Path, model: ModelRecord, auditor: Auditor) -> FolderAudit:
    """Judge again what is stored of one model.

    Raises:
        AdvdpnpError: an evaluation is about other images than those of the auditor's data set.
    """
    units, damaged = _read(folder)
    audits = [auditor.audit(unit) for unit in units if not unit.corrupted]
    leaderboard = folder.parent / "leaderboard.csv"
    if damaged:
        rows = ["the rows of the leaderboard cannot be made again: verdicts are damaged"]
    else:
        rows = list(audit_rows(units, {audit.unit.hash: audit for audit in audits}, leaderboard))
    missing = list(_missing([audit.unit for audit in audits]))
    return FolderAudit(model=model, leaderboard=leaderboard, damaged=damaged, audits=audits, rows=rows, missing=missing)


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
    if any(not row.measured_samples for row in make_rows(units)):
        yield "the measurements that flags come from are missing; run the same evaluation again"
