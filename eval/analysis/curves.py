"""The numbers behind figures and charts. Both renderers draw these, and neither computes its own."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from advdpnp.base.statistics import wilson
from advdpnp.corruption import BENCHMARK, in_order
from advdpnp.eval.analysis.rows import Row, order_attacks


class Estimate(NamedTuple):
    """An accuracy and the ends of its 95 % Wilson interval, in percent."""

    value: float
    low: float
    high: float


def estimate(wrong: np.ndarray) -> Estimate:
    """Accuracy of mistakes, bool (n,); 0 with the widest interval where there is no sample."""
    right, n = int((~wrong).sum()), len(wrong)
    low, high = wilson(right, n)
    return Estimate(100 * right / n if n else 0.0, 100 * low, 100 * high)


def widest(n: int) -> float:
    """Half the width of the widest 95 % interval of ``n`` images, in points: no accuracy has a wider one."""
    low, high = wilson(n / 2, n)
    return 50 * (high - low)


def estimate_of_mean(share: float, n: int) -> Estimate:
    """A mean accuracy in [0, 1] over several treatments of the same ``n`` images, each image one observation."""
    low, high = wilson(min(share * n, n), n)
    return Estimate(100 * share, 100 * low, 100 * high)


def clean_accuracy(row: Row) -> float:
    """In percent; NaN without samples."""
    return 100 * float((~row.clean_wrong).mean()) if row.n else np.nan


def accuracy_under(row: Row, attacks: Iterable[str]) -> float:
    """Accuracy in percent under all of these attacks together; NaN where the row has none of them."""
    wrong = [row.misclassified_under(attack) for attack in attacks if attack in row.attacks]
    return 100 * float((~np.logical_or.reduce(wrong)).mean()) if wrong and row.n else np.nan


def transfer_sources(rows: Sequence[Row]) -> list[str]:
    """The attacks of these rows that take adversarial images made for another model, from cheap to expensive."""
    families = {label: info.family for row in rows for label, info in row.attack_infos.items()}
    return [attack for attack in order_attacks(rows) if families[attack] == "transfer"]


def transferred_images(rows: Sequence[Row]) -> str:
    """What made the images that these rows take from other models: "images of PGD with 20 steps"."""
    units = [
        unit for row in rows for label, unit in row.attacks.items() if row.attack_infos[label].family == "transfer"
    ]
    made = [(unit.record.identity.get("attack") or {}).get("pgd") for unit in units]
    steps = sorted({pgd["steps"] for pgd in made if isinstance(pgd, dict) and isinstance(pgd.get("steps"), int)})
    return f"images of PGD with {' or '.join(map(str, steps))} steps" if steps else "images of PGD"


def direct_attacks(rows: Sequence[Row]) -> list[str]:
    """The attacks of these rows that search on the judged model itself, from cheap to expensive."""
    transferred = transfer_sources(rows)
    return [attack for attack in order_attacks(rows) if attack not in transferred]


@dataclass(frozen=True)
class CommonWorstCase:
    """The worst case over the attacks that several rows share, so that points of one chart are comparable.

    Attributes:
        attacks: the shared attacks, from cheap to expensive; empty where none is shared.
    """

    attacks: Sequence[str]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "CommonWorstCase":
        """Over the attacks that all of these rows have."""
        return cls([name for name in order_attacks(rows) if all(name in row.attacks for row in rows)])

    def estimate(self, row: Row) -> Estimate:
        """Accuracy of a row under the shared attacks; without any, under all that ran."""
        if not self.attacks:
            return estimate(row.misclassified_under_any)
        return estimate(np.logical_or.reduce([row.misclassified_under(attack) for attack in self.attacks]))

    @property
    def label(self) -> str:
        """The attacks, for people."""
        return ", ".join(self.attacks) or "all attacks that ran"


@dataclass(frozen=True)
class EpsilonCurve:
    """Accuracy of one model against eps.

    Attributes:
        row: one of the rows behind it.
        points: eps and accuracy, by eps; the first one is clean accuracy at 0.
    """

    row: Row
    points: list[tuple[float, Estimate]]


def epsilon_curves(rows: Sequence[Row], worst_case: CommonWorstCase) -> list[EpsilonCurve]:
    """One curve per model, by name, from rows of one data set, norm and seed."""
    models: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.threat.eps):
        models[row.model.name].append(row)
    curves = []
    for _, of_model in sorted(models.items()):
        clean = max(of_model, key=lambda row: row.n).clean_wrong
        attacked = [(row.threat.eps, worst_case.estimate(row)) for row in of_model]
        curves.append(EpsilonCurve(of_model[0], [(0.0, estimate(clean)), *attacked]))
    return curves


def eps_labels(rows: Iterable[Row]) -> dict[float, str]:
    """Every eps of these rows as it was written, by eps."""
    return dict(sorted({row.threat.eps: row.threat.eps_text for row in rows}.items()))


class CorruptionGrid:
    """Accuracy of one model on corrupted images.

    Attributes:
        row: the model's row with the most samples.
        cells: shares in [0, 1], types (in the order of the benchmark) x severities; NaN where a cell is missing.
        n: images behind each cell.
    """

    def __init__(self, row: Row, accuracy: pd.DataFrame) -> None:
        """Arrange what ``Row.corruption_accuracy`` gives."""
        self.row = row
        self.n = int(accuracy["n"].iloc[0])
        cells = accuracy.pivot(index="type", columns="severity", values="accuracy")
        self.cells = cells.loc[in_order(cells.index)]

    @property
    def types(self) -> set[str]:
        """The types that were judged."""
        return set(self.cells.index)

    @property
    def severities(self) -> list[int]:
        """The severities that were judged."""
        return [int(severity) for severity in self.cells.columns]

    @property
    def averaged(self) -> pd.DataFrame:
        """The cells that a mean is over: the benchmark's where all its types are there, else all."""
        usual = self.cells[self.cells.index.isin(list(BENCHMARK))]
        return usual if len(usual) == len(BENCHMARK) else self.cells

    @property
    def percent(self) -> pd.DataFrame:
        """The cells in percent, rounded as in ``leaderboard.csv``: the last bit of a float breaks no tie."""
        return (100 * self.cells).round(2)

    @property
    def by_type(self) -> pd.Series:
        """Mean over the severities of each type, in percent, rounded as in ``leaderboard.csv``."""
        return (100 * self.cells.mean(axis=1)).round(2)

    def against_severity(self, types: Collection[str]) -> list[tuple[int, Estimate]]:
        """Severity and mean accuracy over these types; the first point is clean accuracy at 0.

        The types show the same images, so the interval takes each image as one observation, as that of the table does.
        """
        means = self.cells[self.cells.index.isin(list(types))].mean().dropna()
        points = [(s, estimate_of_mean(float(means[s]), self.n)) for s in self.severities if s in means]
        return [(0, estimate(self.row.clean_wrong)), *points]


def corruption_grids(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[CorruptionGrid]]:
    """The models that corrupted images were judged on, by data set, its hash and the source of the images.

    Numbers on official images and on regenerated ones do not compare, nor do those on other data. The rows of one
    model share their cells: the one with the most samples speaks for all.
    """
    largest: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row.model.name, row.model.weights_hash, row.data
        if row.cells and (key not in largest or row.n > largest[key].n):
            largest[key] = row
    grids: dict[tuple[str, str, str], list[CorruptionGrid]] = defaultdict(list)
    for row in largest.values():
        accuracy = row.corruption_accuracy()
        if accuracy["n"].min() > 0:
            grids[row.dataset, row.data, row.corruption_source].append(CorruptionGrid(row, accuracy))
    return dict(grids)


def shared_types(grids: Sequence[CorruptionGrid]) -> set[str]:
    """The types by which models can be compared: the benchmark's where all have all of them, else what all have."""
    shared = set.intersection(*(grid.types for grid in grids))
    return set(BENCHMARK) if shared >= set(BENCHMARK) else shared
