"""``units.json``: every complete evaluation of one model, and the data files that hold its rows.

It is written last, in one step: what it names is complete, what it does not name does not exist. Runs and metadata that
several evaluations share are stored once. It holds the SHA-256 and the number of rows of each data file, and a checksum
of itself, so that a torn, exchanged or edited file is noticed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord, check_diagnostics
from advdpnp.eval.store.key import stem_of

INDEX = "units.json"
FORMAT = 2

Kind = Literal["attacks", "corruptions", "adversarials"]

_Count = Annotated[int, Field(ge=0)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _check_identity(identity: dict[str, Any]) -> dict[str, Any]:
    threat = identity.get("threat")
    known = isinstance(identity.get("label"), str) and isinstance(identity.get("data"), str)
    if threat is not None:
        known &= isinstance(threat, dict) and isinstance(threat.get("norm"), str)
        known = known and isinstance(threat.get("eps"), int | float)
    if not known:
        raise ValueError("an identity without label, data and threat model")
    return identity


@dataclass(frozen=True)
class DataFile:
    """What a Parquet file has to be.

    Attributes:
        sha256: of all its bytes, hex.
        rows: how many it has.
    """

    sha256: _Sha256
    rows: _Count


@dataclass(frozen=True)
class EvaluationRecord:
    """One complete evaluation.

    Attributes:
        hash: of ``identity``.
        identity: what decides the verdicts (``EvaluationKey.identity``): hashed, never changed.
        eps_text: the radius as it was first written; "" without a threat model.
        rows: its number of verdicts.
        runs: which runs found them: versions, device, command, date, seconds, samples.
        metadata: all else that is known of it: dataset, seed, randomised, batch_dependent, attack_info.
        images: its number of adversarial images.
        image_shape: (c, h, w); () where unknown.
        saved: whether every misclassified sample has an image; otherwise the first samples alone do.
    """

    hash: str
    identity: Annotated[dict[str, Any], AfterValidator(_check_identity)]
    eps_text: str
    rows: _Count
    runs: list[dict[str, Any]]
    metadata: dict[str, Any] = field(default_factory=dict)
    images: _Count = 0
    image_shape: tuple[_Count, ...] = ()
    saved: bool = False

    @property
    def kind(self) -> Kind:
        """Which data file holds its verdicts."""
        return "corruptions" if self.identity["threat"] is None and "corruption" in self.identity else "attacks"

    @property
    def stem(self) -> str:
        """``pgd-20@linf-8_255-1a2b3c4d``: evaluations are sorted by it."""
        threat = self.identity["threat"]
        return stem_of(self.identity["label"], threat and threat["norm"], self.eps_text, self.hash)

    @property
    def info(self) -> dict[str, Any]:
        """Identity, runs and metadata in one mapping."""
        return {"identity": self.identity, **self.metadata, "runs": self.runs}


@dataclass(frozen=True)
class Index:
    """The content of ``units.json``.

    Attributes:
        weights: hash of the model's weights.
        files: by kind, what the data files have to be.
        evaluations: sorted by stem; their rows stand in this order in the data files.
        diagnostics: what flags are made of.
    """

    weights: str
    files: dict[Kind, DataFile] = field(default_factory=dict)
    evaluations: tuple[EvaluationRecord, ...] = ()
    diagnostics: tuple[DiagnosticRecord, ...] = ()

    def find(self, key_hash: str) -> EvaluationRecord | None:
        """The evaluation with this hash, if it is complete."""
        return next((record for record in self.evaluations if record.hash == key_hash), None)

    def of_kind(self, kind: Kind) -> list[EvaluationRecord]:
        """Evaluations whose rows are in one data file, in the order of their rows."""
        return [each for each in self.evaluations if (each.images if kind == "adversarials" else each.kind == kind)]

    def with_evaluations(self, records: Sequence[EvaluationRecord]) -> "Index":
        """The same with these evaluations added, or put in the place of those with the same hash."""
        kept = {record.hash: record for record in self.evaluations} | {record.hash: record for record in records}
        return replace(self, evaluations=tuple(sorted(kept.values(), key=lambda record: record.stem)))


_INDEX = TypeAdapter(Index)


def read_index(folder: Path) -> Index | None:
    """Read the index of a model's folder; None if it has none.

    Raises:
        AdvdpnpError: it is of a newer version.
    """
    path = folder / INDEX
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and isinstance(version := content.pop("format"), int) and version > FORMAT:
            raise AdvdpnpError(f"{path} was written by a newer advdpnp; update advdpnp")
        if content.pop("sha256") != checksum(content):
            raise ValueError("the checksum is wrong")
        runs, metadata = content.pop("runs"), content.pop("metadata")
        for record in content["evaluations"]:
            record["runs"] = [runs[run] | {"seconds": s, "samples": n} for run, s, n in record["runs"]]
            record["metadata"] = metadata[record["metadata"]]
        index = _INDEX.validate_json(json.dumps(content), strict=True)
        _check(index)
        return index
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise AdvdpnpError(f"{path} is damaged; delete it and run the same evaluation again") from error


def _check(index: Index) -> None:
    counts = {"attacks": 0, "corruptions": 0, "adversarials": 0}
    for record in index.evaluations:
        counts[record.kind] += record.rows
        counts["adversarials"] += record.images
        if not all(isinstance(run["seconds"], int | float) for run in record.runs) or not record.runs:
            raise ValueError("a run without a time")
    if {kind: file.rows for kind, file in index.files.items()} != {kind: n for kind, n in counts.items() if n}:
        raise ValueError("the numbers of rows contradict each other")
    if len({record.hash for record in index.evaluations}) != len(index.evaluations):
        raise ValueError("an evaluation is named twice")
    for measured in index.diagnostics:
        check_diagnostics(measured)


def write_index(folder: Path, index: Index) -> None:
    """Write the index in one step: from now on, what it names is complete."""
    content = asdict(index)
    content["files"] = dict(sorted(content["files"].items()))
    runs: dict[str, int] = {}
    metadata: dict[str, int] = {}
    for record in content["evaluations"]:
        record["runs"] = [[_place(_said(run), runs), run["seconds"], run.get("samples", 0)] for run in record["runs"]]
        record["metadata"] = _place(record["metadata"], metadata)
        for name in ("images", "image_shape", "saved"):
            if not record[name]:
                del record[name]
    content["runs"] = [json.loads(run) for run in runs]
    content["metadata"] = [json.loads(each) for each in metadata]
    content = json.loads(json.dumps(content))  # tuples become lists, as they will be read
    head = {"format": FORMAT, "sha256": checksum(content), "weights": content.pop("weights")}
    lines = [
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in (*head.items(), ("files", content.pop("files")))
    ]
    for name, entries in content.items():
        rows = ",\n".join(json.dumps(each, sort_keys=True) for each in entries)
        lines.append(f'"{name}": [\n{rows}\n]' if entries else f'"{name}": []')
    write_text(folder / INDEX, "{\n" + ",\n".join(lines) + "\n}\n")


def write_diagnostics(folder: Path, measured: DiagnosticRecord) -> None:
    """Store a measurement, in the place of an older one of the same, in a model's folder whose lock is held."""
    index = read_index(folder) or Index(measured.weights)
    kept = (each for each in index.diagnostics if each.key != measured.key)
    write_index(folder, replace(index, diagnostics=(*kept, measured)))


def _said(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key not in ("seconds", "samples")}


def _place(value: Mapping[str, Any], known: dict[str, int]) -> int:
    """Where a mapping stands in a list that holds each once."""
    return known.setdefault(json.dumps(value, sort_keys=True), len(known))


def checksum(content: object) -> str:
    """SHA-256 of all that ``units.json`` says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
