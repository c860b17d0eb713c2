"""Complete evaluations read back, of today's layout and of the old one, each with its model."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from advdpnp.attacks.info import AttackInfo, info_of
from advdpnp.base.errors import AdvdpnpError, raise_together
from advdpnp.eval.store import old_layout
from advdpnp.eval.store.adversarial_images import Clean, Source, StoredImages, decode_examples, decode_images
from advdpnp.eval.store.data_files import EvaluationData, data_path, read_contents
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord
from advdpnp.eval.store.index import INDEX, EvaluationRecord, read_index
from advdpnp.eval.store.key import short_hash
from advdpnp.eval.store.model_record import ModelRecord, find_models, nothing_in, read_model_record
from advdpnp.eval.store.rules import KNOWN_DATA
from advdpnp.eval.store.rules.checked import checked_verdicts
from advdpnp.eval.store.rules.seal import unbroken_seals
from advdpnp.eval.store.schema import Verdicts, needs_image


class Threat(NamedTuple):
    """A threat model as verdicts name it; the default stands for rows without attacks."""

    norm: str = ""
    eps: float = math.nan
    eps_text: str = ""

    @property
    def label(self) -> str:
        """ "linf 8/255", or "no attack"."""
        return f"{self.norm} {self.eps_text}" if self.norm else "no attack"


@dataclass(frozen=True)
class StoredEvaluation:
    """One complete evaluation and the model it is about.

    Attributes:
        model: the model.
        record: what the index says of the evaluation.
        verdicts: its rows.
        images: reads its images; None: it has none.
    """

    model: ModelRecord
    record: EvaluationRecord
    verdicts: Verdicts
    images: Source | None = None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Verdicts with ``sample`` as the index."""
        return self.verdicts.frame.set_index("sample", drop=False)

    @cached_property
    def samples(self) -> np.ndarray:
        """Sorted sample indices, int64."""
        return self.verdicts.column("sample")

    def column(self, name: str) -> np.ndarray:
        """One column of the verdicts, sorted by sample."""
        return self.verdicts.column(name)

    def success_on(self, samples: np.ndarray) -> np.ndarray:
        """Which of some samples (int64, sorted, all of them judged) are broken, bool (n,)."""
        if np.array_equal(samples, self.samples):
            return self.column("success")
        return self.column("success")[np.searchsorted(self.samples, samples)]

    @property
    def label(self) -> str:
        """ "clean", the attack, or "corruption/fog/3"."""
        return str(self.record.identity["label"])

    @property
    def data(self) -> str:
        """Hash of the data."""
        return str(self.record.identity["data"])

    @property
    def hash(self) -> str:
        """Hash of the evaluation's identity."""
        return self.record.hash

    @cached_property
    def threat(self) -> Threat | None:
        """None for clean images and corruptions."""
        threat = self.record.identity["threat"]
        return None if threat is None else Threat(threat["norm"], float(threat["eps"]), self.record.eps_text)

    @property
    def corrupted(self) -> bool:
        """Whether its images are corrupted, not attacked."""
        return self.record.kind == "corruptions"

    @cached_property
    def comparison_key(self) -> str:
        """Hash of what is asked of any model: the identity, less what only says how the model was run.

        The data, the threat model and the seed are compared by themselves. The shape of model calls moves last bits.
        Without an attack nothing is searched, so the engine does not matter.
        """
        ignored = {"data", "threat", "seed", "shape", "randomised"} | (set() if self.threat else {"engine"})
        return short_hash({key: value for key, value in self.record.identity.items() if key not in ignored})

    @property
    def source(self) -> str:
        """Of the corrupted images: "cifar10-c" or "cifar10-c (regenerated)"; "" for all else."""
        return str(self.record.identity.get("source", ""))

    @property
    def is_clean(self) -> bool:
        """Whether it holds the answers to the clean images: no attack, no corruption."""
        return self.threat is None and self.cell is None

    @property
    def cell(self) -> tuple[str, int] | None:
        """The corruption and its severity; None for what is no corruption."""
        made = self.info["identity"].get("corruption") if self.corrupted else None
        return (str(made["corruption"]), int(made["severity"])) if made else None

    @cached_property
    def attack_info(self) -> AttackInfo:
        """What the attack is, whatever it is called; says nothing for clean images and corruptions."""
        return info_of(self.info["identity"], self.info.get("attack_info"))

    @property
    def info(self) -> dict[str, Any]:
        """The JSON metadata: identity, dataset, seed, randomised, batch_dependent, runs."""
        return self.verdicts.info

    @property
    def seed(self) -> int | None:
        """Of the search; None for what draws nothing."""
        seed = self.info.get("seed")
        return None if seed is None else int(seed)

    @property
    def dataset(self) -> str:
        """Name of the data set; where its hash is known, by the hash."""
        known = KNOWN_DATA.get(self.data)
        return known.name if known else str(self.info.get("dataset") or "")

    @property
    def last_run(self) -> dict[str, Any]:
        """Versions, device, command, date of the latest run that added to it."""
        return dict(self.info["runs"][-1])

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """Labels of all attacks that the runs were asked for; empty where they do not say."""
        return tuple(dict.fromkeys(label for run in self.info["runs"] for label in run.get("attacks", ())))

    @property
    def date(self) -> str:
        """ISO 8601, of the latest run."""
        return str(self.last_run.get("date", ""))

    @property
    def seconds(self) -> float:
        """Time spent in all runs."""
        return float(sum(run["seconds"] for run in self.info["runs"]))

    @property
    def needs_image(self) -> np.ndarray:
        """Samples (int64) whose verdict rests on an adversarial image."""
        told = {name: self.column(name) for name in ("success", "clean_prediction", "label")}
        return np.asarray(self.samples[needs_image(told)])

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.verdicts.path.parent

    @property
    def images_path(self) -> Path:
        """The file that holds its images, if it has any."""
        old = not (self.folder / INDEX).exists()
        return old_layout.images_path(self.verdicts.path) if old else data_path(self.folder, "adversarials")

    def adversarials(self, clean: Clean, samples: int) -> Iterator[StoredImages]:
        """Adversarial images that verdicts rest on; of other samples only images that should not be there.

        Args:
            clean: clean images of the data set.
            samples: how many it has.

        Raises:
            AdvdpnpError: they are not of this data set.
        """
        needed = self.needs_image

        def wanted() -> Iterator[pa.Table]:
            for table in self.images() if self.images else ():
                shown = table.column("clean").is_valid().to_numpy()
                sample = table.column("sample").to_numpy()
                yield table.filter(pa.array(~shown | np.isin(sample, needed)))

        return decode_images(wanted(), clean, samples, self.images_path)

    def examples(self) -> dict[str, np.ndarray]:
        """Clean and adversarial images of the first samples, and what the model says of them.

        Returns:
            sample, label, clean_prediction, adversarial_prediction (int64) and success (bool), each (n,); x and x_adv,
            float32 (n, c, h, w). n is 0 where no images are stored.
        """
        images = decode_examples(self.images() if self.images else (), self.record.image_shape, self.images_path)
        known = np.isin(images["sample"], self.samples)
        images = {name: values[known] for name, values in images.items()}
        frame = self.frame.loc[images["sample"]]
        said = ("label", "clean_prediction", "adversarial_prediction", "success")
        return images | {name: frame[name].to_numpy() for name in said}

    def diagnostics(self) -> tuple[DiagnosticRecord, ...]:
        """All measurements of the model that are stored with its verdicts."""
        return read_diagnostics(self.folder)

    def keyed_frame(self) -> pd.DataFrame:
        """Verdicts after what they are about: weights, data, threat_norm, eps, eps_text, attack, definition."""
        threat = self.threat
        key = {
            "weights": self.model.weights_hash,
            "data": self.data,
            "threat_norm": None if threat is None else threat.norm,
            "eps": np.nan if threat is None else threat.eps,
            "eps_text": None if threat is None else threat.eps_text,
            "attack": self.label,
            "definition": self.hash,
        }
        frame = self.verdicts.frame
        columns = {name: pd.Series([value] * len(frame), frame.index) for name, value in key.items()}
        return pd.concat([pd.DataFrame(columns), frame], axis=1)


def find_results(folders: Iterable[Path]) -> list[StoredEvaluation]:
    """All complete evaluations in or below these folders.

    Raises:
        AdvdpnpError: a folder does not exist or holds no results, or something in it is damaged.
    """
    found, damaged = collect_results(folders)
    raise_together(damaged)
    return found


@contextmanager
def readable_results(folders: Iterable[Path]) -> Iterator[list[StoredEvaluation]]:
    """What can be read in or below these folders; what cannot is raised when the block has ended.

    Raises:
        AdvdpnpError: as ``find_results``.
    """
    found, damaged = collect_results(folders)
    if not found:
        raise_together(damaged)
    try:
        yield found
    except AdvdpnpError as error:
        raise_together([str(error), *damaged])  # perhaps what it misses is damaged
    raise_together(damaged)


def collect_results(folders: Iterable[Path]) -> tuple[list[StoredEvaluation], list[str]]:
    """The complete evaluations in or below these folders, and what is wrong with those that cannot be read.

    Raises:
        AdvdpnpError: a folder does not exist or holds no results, or is not as it was sealed.
    """
    models = {folder: find_models(folder) for folder in folders}
    unbroken_seals(models)
    found: dict[tuple[Path, str], StoredEvaluation] = {}
    damaged: list[str] = []
    for folder, paths in models.items():
        before = len(damaged)
        here = {(path.parent.resolve(), unit.hash): unit for path in paths for unit in _readable(path.parent, damaged)}
        if not here and len(damaged) == before:
            raise nothing_in(folder, "only unfinished evaluations")
        found.update(here)
    return list(found.values()), damaged


def _readable(folder: Path, damaged: list[str]) -> Iterator[StoredEvaluation]:
    """The evaluations of one model, sorted by attack; why others cannot be read goes to ``damaged``."""
    try:
        readers = evaluations_of(folder)
    except AdvdpnpError as error:
        damaged.append(str(error))
        return
    for _, read in readers:
        try:
            if len((unit := read()).samples):
                yield unit
        except AdvdpnpError as error:
            damaged.append(str(error))


def evaluations_of(folder: Path) -> list[tuple[str, Callable[[], StoredEvaluation]]]:
    """The name of every complete evaluation of a model, and what reads it, so that one that is damaged hides no other.

    Raises:
        AdvdpnpError: what all of them need is about another model; readers raise it for one evaluation.
    """
    model = read_model_record(folder / "model.json")
    contents = read_contents(folder)
    if contents is None:
        return [
            (path.name, partial(_read, path, model, partial(old_layout.read_old, path, model)))
            for path in old_layout.verdict_files(folder)
        ]
    if contents.index.weights != model.weights_hash:
        raise AdvdpnpError(
            f"{folder / INDEX} names verdicts of another model than model.json next to it; move it back or delete it"
        )
    return [
        (each.stem, partial(_read, data_path(folder, each.kind), model, partial(contents.evaluation, each)))
        for each in contents.index.evaluations
    ]


def _read(path: Path, model: ModelRecord, read: Callable[[], EvaluationData]) -> StoredEvaluation:
    data = read()
    return StoredEvaluation(model, data.record, checked_verdicts(path, model, data), data.images)


def read_diagnostics(folder: Path) -> tuple[DiagnosticRecord, ...]:
    """All measurements that are stored in a model's folder."""
    index = read_index(folder)
    return old_layout.read_diagnostics(folder) if index is None else index.diagnostics


def has_diagnostics(folder: Path, about: DiagnosticRecord) -> bool:
    """Whether this is stored in a model's folder, by this version."""
    return any(each.key == about.key for each in read_diagnostics(folder))
