"""Stored evaluations grouped into what makes one row of a table.

Which file counts when several answer the same question (the same model, data, threat model, seed and attack label, but
another definition or another set of samples): the one with the most samples, and among these the newest. A sample
counts as broken where any of those with the same definition says so. Different seeds make different rows.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.attacks.info import AttackInfo, by_cost
from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import BENCHMARK
from advdpnp.eval.analysis.contradictions import refuse_contradictions, worst_of
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord, diagnostics_of
from advdpnp.eval.store.key import sample_set_hash, short_hash
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import StoredEvaluation, Threat
from advdpnp.eval.store.rules import KNOWN_DATA


@dataclass(frozen=True)
class Examples:
    """Clean and adversarial images of the first samples.

    Attributes:
        attack: its label.
        images: as ``StoredEvaluation.examples`` returns them, at least one.
    """

    attack: str
    images: dict[str, np.ndarray]

    @property
    def difference(self) -> np.ndarray:
        """Adversarial less clean images, (n, c, h, w)."""
        return np.asarray(self.images["x_adv"] - self.images["x"])

    @property
    def change(self) -> np.ndarray:
        """Its mean over the channels, (n, h, w): under Linf, a single channel shows little more than its sign."""
        return np.asarray(self.difference.mean(1))

    @property
    def largest(self) -> float:
        """The largest change of a pixel, without its sign."""
        return float(np.abs(self.change).max())


@dataclass(frozen=True)
class Row:
    """The verdicts behind one row of a table: one model, one data set, one threat model, one seed, the same samples.

    Attributes:
        model: whose row it is.
        dataset: name of the data set.
        data: its hash.
        threat: of all the attacks; ``Threat()`` if there are none.
        seed: of the attacks; None if there are none.
        samples: sorted sample indices that clean images and every attack were judged on.
        clean: verdicts on clean images.
        attacks: by label.
        cells: by (corruption, severity).
        contradictions: where several evaluations of one question differ, in words.
    """

    model: ModelRecord
    dataset: str
    data: str
    threat: Threat
    seed: int | None
    samples: np.ndarray
    clean: StoredEvaluation
    attacks: dict[str, StoredEvaluation] = field(default_factory=dict)
    cells: dict[tuple[str, int], StoredEvaluation] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """What no two rows of one table share."""
        return (
            self.model.name,
            self.model.weights_hash,
            self.data,
            self.threat.norm,
            repr(self.threat.eps),
            str(self.seed),
        )

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @cached_property
    def selected(self) -> bool:
        """Whether the samples are others than the first n of the data set."""
        return not np.array_equal(self.samples, np.arange(self.n))

    @property
    def data_size(self) -> int:
        """How many test images the data set has; 0 if nobody knows."""
        known = KNOWN_DATA.get(self.data)
        return known.size if known else max(int(u.info.get("test_images") or 0) for u in self._units)

    @property
    def samples_text(self) -> str:
        """ "the first of 10,000", "all", "selected of 360"; the size only where it is known."""
        size = self.data_size
        if not self.selected and self.n == size:
            return "all"
        return ("selected" if self.selected else "the first") + f" of {size:,}" * bool(size)

    @cached_property
    def missing_attacks(self) -> list[str]:
        """Attacks that were asked for together with those of the row, and have no verdicts."""
        asked = dict.fromkeys(label for unit in self.attacks.values() for label in unit.asked)
        return [label for label in asked if label not in self.attacks]

    @property
    def _units(self) -> list[StoredEvaluation]:
        return [self.clean, *self.attacks.values()]

    @cached_property
    def attack_infos(self) -> dict[str, AttackInfo]:
        """By label: what each attack is, whatever it is called."""
        return {label: unit.attack_info for label, unit in self.attacks.items()}

    @cached_property
    def labels(self) -> np.ndarray:
        """True classes of the samples, int64 (n,)."""
        return np.asarray(self.clean.frame.loc[self.samples]["label"].to_numpy())

    def class_name(self, label: int) -> str:
        """Name of a class, or its number where the names are not known; -1 stands for logits that are not finite."""
        if label < 0:
            return "no answer"
        names = self.model.class_names
        return str(names[label]) if 0 <= label < len(names) else str(label)

    @cached_property
    def samples_hash(self) -> str:
        """Identifies the set of samples."""
        return sample_set_hash(self.samples.tolist())

    @cached_property
    def comparison_keys(self) -> dict[str, str]:
        """Hash of the question by attack, and by "corruptions" for the cells. Only equal questions are compared."""
        asked = {label: unit.comparison_key for label, unit in self.attacks.items()}
        if self.cells:
            cells = {unit.label: unit.comparison_key for (name, _), unit in self.cells.items() if name in BENCHMARK}
            asked["corruptions"] = short_hash([cells, sample_set_hash(self.corruption_samples.tolist())])
        return asked

    @cached_property
    def clean_wrong(self) -> np.ndarray:
        """Which samples are misclassified unchanged, bool (n,)."""
        frame = self.clean.frame.loc[self.samples]
        return np.asarray(frame["clean_prediction"].to_numpy() != frame["label"].to_numpy())

    def misclassified_under(self, attack: str) -> np.ndarray:
        """Which samples are misclassified under an attack, bool (n,); clean mistakes are.

        A success is within eps: what a minimum-norm attack finds farther away is stored as none, and readers refuse
        anything else.
        """
        return np.asarray(self.clean_wrong | self.attacks[attack].success_on(self.samples))

    @cached_property
    def misclassified_under_any(self) -> np.ndarray:
        """Which samples clean images or any attack breaks, bool (n,)."""
        return np.asarray(np.logical_or.reduce([self.clean_wrong, *map(self.misclassified_under, self.attacks)]))

    def verdict_rows(self, attack: str) -> pd.DataFrame:
        """The attack's verdicts on the row's samples."""
        return self.attacks[attack].frame.loc[self.samples]

    @cached_property
    def measured(self) -> dict[str, dict[str, Any]]:
        """Stored diagnostics: numbers by "answers" and "search", as far as they were measured."""
        return {"search" if each.norm else "answers": each.numbers for each in self._measurements}

    @cached_property
    def measured_samples(self) -> int:
        """On how many images; 0 also where a part of the measurements is missing."""
        searched = bool(self.attacks) and self.threat.norm in ("linf", "l2")
        complete = "answers" in self.measured and ("search" in self.measured or not searched)
        return max((each.samples for each in self._measurements), default=0) if complete else 0

    @cached_property
    def _measurements(self) -> list[DiagnosticRecord]:
        return diagnostics_of(
            self.clean.diagnostics(), self.clean.folder, self.model.weights_hash, self.data, self.threat.norm,
            self.threat.eps,
        )  # fmt: skip

    @cached_property
    def examples(self) -> Examples | None:
        """Images of the most expensive attack that has any; None where no attack has, or they are damaged."""
        for attack in reversed(order_attacks([self])):
            try:
                images = self.attacks[attack].examples()
            except AdvdpnpError:
                continue  # a damaged picture is no reason to withhold a report
            if len(images["sample"]):
                return Examples(attack, images)
        return None

    @property
    def corruption_source(self) -> str:
        """Of all cells: "cifar10-c" or "cifar10-c (regenerated)"; "" without any."""
        return next((unit.source for unit in self.cells.values()), "")

    @cached_property
    def corruption_samples(self) -> np.ndarray:
        """Those of the row's samples that every cell has judged, sorted, int64."""
        shared = self.samples
        for unit in self.cells.values():
            if not np.array_equal(shared, unit.samples):
                shared = np.intersect1d(shared, unit.samples)
        return shared

    def corruption_accuracy(self) -> pd.DataFrame:
        """Accuracy per cell on ``corruption_samples``.

        Returns:
            Columns type, severity, accuracy (in [0, 1]), n; empty without cells.
        """
        return self._corruption_accuracy.copy()

    @cached_property
    def _corruption_accuracy(self) -> pd.DataFrame:
        shared = self.corruption_samples
        rows = [
            {
                "type": name,
                "severity": severity,
                "accuracy": 1 - unit.success_on(shared).mean() if len(shared) else np.nan,
                "n": len(shared),
            }
            for (name, severity), unit in sorted(self.cells.items())
        ]
        return pd.DataFrame(rows, columns=["type", "severity", "accuracy", "n"])


def order_attacks(rows: Iterable[Row]) -> list[str]:
    """Every attack of these rows once, from cheap to expensive."""
    return by_cost({label: info for row in rows for label, info in row.attack_infos.items()})


def make_rows(
    units: Sequence[StoredEvaluation], samples: np.ndarray | None = None, preferred: Container[str] = ()
) -> list[Row]:
    """Group verdict files into rows, in the order of their first appearance.

    A model whose clean images were judged on more samples than any of its attacks gets a row of its own for them,
    without attacks.

    Args:
        units: what ``find_results`` returns, or some of it.
        samples: make rows of exactly these samples (int64), from the files that have them all.
        preferred: hashes of units that count rather than any other with the same label.
    """
    if samples is not None:
        units = [unit for unit in units if np.isin(samples, unit.samples).all()]
    rows = []
    subjects: dict[tuple[str, str, str], list[StoredEvaluation]] = {}
    for unit in units:
        subjects.setdefault((unit.model.name, unit.model.weights_hash, unit.data), []).append(unit)
    for mine in subjects.values():
        mine.sort(key=lambda unit: (unit.hash in preferred, *_rank(unit)))
        rows += _rows_of_one_model(mine, samples, preferred)
    return rows


def _rows_of_one_model(
    units: list[StoredEvaluation], samples: np.ndarray | None, preferred: Container[str] = ()
) -> list[Row]:
    """Rows of verdict files that are sorted so that of two with the same label the later one counts."""
    refuse_contradictions(units)
    answers: dict[tuple[str, tuple[str, float] | None, int | None], list[StoredEvaluation]] = {}
    for unit in units:
        key = (unit.label, unit.threat and (unit.threat.norm, unit.threat.eps), unit.seed if unit.threat else None)
        answers.setdefault(key, []).append(unit)
    chosen, differing = {}, {}
    for key, found in answers.items():
        same = [unit for unit in found[:-1] if unit.comparison_key == found[-1].comparison_key and unit.cell is None]
        chosen[key], differing[key] = worst_of(found[-1], same)
    cells = _of_one_source([unit for unit in units if unit.cell is not None], preferred)
    searched = [unit for unit in chosen.values() if unit.threat is not None]
    # An attack's verdicts hold the clean prediction too, should the file for clean images be lost.
    clean = next((u for u in chosen.values() if u.is_clean), None) or max(searched, key=_rank, default=None)
    if clean is None:
        return []
    rows = []
    for (norm, eps), seed in dict.fromkeys((u.threat[:2], u.seed) for u in searched if u.threat is not None):
        same = [u for u in searched if u.threat is not None and u.threat[:2] == (norm, eps) and u.seed == seed]
        threat = same[0].threat or Threat()
        attacks = {unit.label: unit for unit in same}
        shared = _shared([clean, *same], samples)
        told = tuple(
            words for key, words in differing.items() if words and key[1:] in ((None, None), ((norm, eps), seed))
        )
        rows.append(Row(clean.model, clean.dataset, clean.data, threat, seed, shared, clean, attacks, cells, told))
    alone = _shared([clean], samples)
    if clean.is_clean and len(alone) > max((len(_shared([unit], samples)) for unit in searched), default=-1):
        told = tuple(words for key, words in differing.items() if words and key[1] is None)
        rows.append(Row(clean.model, clean.dataset, clean.data, Threat(), None, alone, clean, {}, cells, told))
    return rows


def _of_one_source(units: list[StoredEvaluation], preferred: Container[str]) -> dict[tuple[str, int], StoredEvaluation]:
    """Cells of one source, seed and version: the preferred ones, else the largest set, else the newest."""
    by_source: dict[tuple[object, ...], dict[tuple[str, int], StoredEvaluation]] = {}
    for unit in units:
        made = unit.info["identity"].get("corruption") or {}
        by_source.setdefault((unit.source, made.get("seed"), made.get("version")), {})[unit.cell or ("", 0)] = unit

    def rank(cells: dict[tuple[str, int], StoredEvaluation]) -> tuple[bool, int, str]:
        return any(u.hash in preferred for u in cells.values()), len(cells), max(u.date for u in cells.values())

    return max(by_source.values(), key=rank, default={})


def _shared(units: Sequence[StoredEvaluation], samples: np.ndarray | None) -> np.ndarray:
    shared = units[0].samples if samples is None else np.intersect1d(units[0].samples, samples)
    for unit in units[1:]:
        if not np.array_equal(shared, unit.samples):
            shared = np.intersect1d(shared, unit.samples)
    return shared


def _rank(unit: StoredEvaluation) -> tuple[int, str, str]:
    return len(unit.samples), unit.date, unit.hash
