"""``units.json``: every complete evaluation of one model, and the data files that hold its rows.

It is written last, in one step: what it names is complete, what it does not name does not exist. Runs and metadata that
several evaluations share are stored once. It holds the SHA-256 and the number of rows of each data file, and a checksum
of itself, so that a torn, exchanged or edited file is noticed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.base.untrusted.files import (
    LARGEST_JSON,
    STRICT,
    Sha256,
    Text,
    describe_fault,
    parse_json,
    read_bounded,
    validated,
)
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord, check_diagnostics
from advdpnp.eval.store.key import stem_of
from advdpnp.eval.store.schema import MOST_ROWS, check_identity, check_metadata, check_run

INDEX = "units.json"
FORMAT = 2

Kind = Literal["attacks", "corruptions", "adversarials"]

MOST_SAMPLES = 2_000_000
"""Of one evaluation."""

_Rows = Annotated[int, Field(ge=0, le=MOST_ROWS)]
_Samples = Annotated[int, Field(ge=0, le=MOST_SAMPLES)]


@dataclass(frozen=True)
class DataFile:
    """What a Parquet file has to be.

    Attributes:
        sha256: of all its bytes, hex.
        rows: how many it has.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sha256: Sha256
    rows: _Rows


@dataclass(frozen=True)
class EvaluationRecord:
    """One complete evaluation.

    Attributes:
        hash: of ``identity``.
        identity: what decides the verdicts (``EvaluationKey.identity``): hashed, never changed.
        eps_text: the radius as it was first written; "" without a threat model.
        rows: its number of verdicts.
        runs: which runs found them: versions, device, command, date, seconds, samples, and of searches where the first
            gradients pointed and how many samples are ``AttackResult.parted``; where their devices differ, also which
            samples each has judged ("0-63,70").
        metadata: all else that is known of it: dataset, seed, randomised, batch_dependent, attack_info.
        images: its number of adversarial images.
        image_shape: (c, h, w); () where unknown.
        saved: whether every misclassified sample has an image; otherwise the first samples alone do.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hash: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    identity: Annotated[dict[str, Any], AfterValidator(check_identity)]
    eps_text: Text
    rows: _Samples
    runs: Annotated[list[Annotated[dict[str, Any], AfterValidator(check_run)]], Field(min_length=1)]
    metadata: Annotated[dict[str, Any], AfterValidator(check_metadata)] = field(default_factory=dict)
    images: _Samples = 0
    image_shape: Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(max_length=3)] = ()
    saved: bool = False

    @property
    def kind(self) -> Kind:
        """Which data file holds its verdicts."""
        return "corruptions" if self.identity["threat"] is None and "corruption" in self.identity else "attacks"

    @property
    def searched(self) -> bool:
        """Whether an attack found them."""
        return self.identity["threat"] is not None

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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    weights: Text
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
        return _parse(read_bounded(path, LARGEST_JSON))
    except FileNotFoundError:
        return None
    except _Newer:
        raise AdvdpnpError(f"{path} was written by a newer advdpnp; update advdpnp") from None
    except (OSError, ValueError) as error:
        raise AdvdpnpError(
            f"{path} is damaged ({describe_fault(error)}); delete it and run the same evaluation again"
        ) from error


class _Newer(Exception):
    pass


@lru_cache(maxsize=1024)
def _parse(text: bytes) -> Index:
    """The index that a JSON text describes, its lists of runs and metadata put into the evaluations.

    A leaderboard asks for the index of each of its hundreds of models several times, so it is kept; nobody changes what
    is in it.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("it is no index of evaluations")
    if isinstance(version := content.pop("format", None), int) and version > FORMAT:
        raise _Newer
    if content.pop("sha256", None) != checksum(content):
        raise ValueError("its checksum is another one")
    shared = {name: content.pop(name, None) for name in ("runs", "metadata")}
    try:
        for record in content["evaluations"]:
            told = [(shared["runs"][_place_of(run)], s, n) for run, s, n in record["runs"]]
            record["runs"] = [run | {"seconds": s, "samples": n} for run, s, n in told]
            record["metadata"] = shared["metadata"][_place_of(record["metadata"])]
    except (KeyError, TypeError, IndexError, ValueError):
        raise ValueError("an evaluation names no run or no metadata that it lists") from None
    index = validated(_INDEX, content)
    _check(index)
    return index


def _place_of(value: Any) -> int:
    """A place in a list, counted from its beginning."""
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _check(index: Index) -> None:
    counts = {"attacks": 0, "corruptions": 0, "adversarials": 0}
    for record in index.evaluations:
        counts[record.kind] += record.rows
        counts["adversarials"] += record.images
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
