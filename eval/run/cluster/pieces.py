"""An evaluation cut into pieces: some samples of one model under one attack, fewer towards the end.

Factoring (Hummel, Schonberg and Flynn, 1992): half of what is left is cut into as many equal pieces as there are
workers, and so on, so that the workers end together. A piece should not take longer than a failure may cost; it should
not be so small that the steps of the attack cost more than the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advdpnp.attacks.engine.replicas import SMALLEST_BATCH

PIECE_SECONDS = 120.0
"""What a piece takes at most, if the model's batch allows: the work that is lost with a worker."""

_STEP = 0.004  # seconds of a step of an attack beside the model
_WORTH = 8  # times as long as that a call of the model should take
_UNKNOWN = 1000  # evaluations of a sample where an attack does not say
_TRUSTED = 32  # samples after which the measured cost counts as much as the declared one


@dataclass(frozen=True)
class Piece:
    """Samples to judge together.

    Attributes:
        units: hashes of evaluations, each with the samples (int64) that it lacks; one search serves them all.
        deaths: how many workers have died of it.
    """

    units: tuple[tuple[str, np.ndarray], ...]
    deaths: int = 0

    @property
    def samples(self) -> np.ndarray:
        """All samples, sorted."""
        return np.unique(np.concatenate([samples for _, samples in self.units]))


def fewest(static_batch_size: int, seconds: float, on_cpu: bool) -> float:
    """Samples at work together that are worth the steps of an attack; without bound where nothing is attacked.

    Args:
        static_batch_size: rows of a full batch. Other devices than the CPU always compute full ones.
        seconds: per model evaluation.
    """
    if not on_cpu:
        return static_batch_size
    return max(SMALLEST_BATCH, _WORTH * _STEP / seconds if seconds else np.inf)


class Group:
    """Evaluations that one search serves: usually one; all radii of a minimum-norm attack.

    Args:
        missing: hashes of evaluations, each with the samples (int64) that it lacks.
        longest: model evaluations of a sample that survives; None if unknown.
        surviving: share of the samples that are expected to.
        seconds: per model evaluation, as measured.
        whole: whether the samples must stay together.
    """

    def __init__(
        self,
        missing: Sequence[tuple[str, np.ndarray]],
        longest: float | None,
        surviving: float,
        seconds: float,
        *,
        whole: bool = False,
    ) -> None:
        self._missing, self.whole = tuple(missing), whole
        self._returned: list[Piece] = []
        self._left = np.unique(np.concatenate([samples for _, samples in missing]))
        self._longest, self._declared_seconds = longest or _UNKNOWN, seconds
        self._declared = max(1.0, self._longest * surviving)
        self._rows = self._evaluations = 0
        self._seconds = 0.0
        self._last_round: list[int] = []

    @property
    def rows_left(self) -> int:
        """Samples that are in no piece."""
        return len(self._left) + sum(len(piece.samples) for piece in self._returned)

    @property
    def cost(self) -> float:
        """Expected model evaluations of a sample."""
        return (self._declared * _TRUSTED + self._evaluations) / (_TRUSTED + self._rows)

    @property
    def cost_left(self) -> float:
        """Expected model evaluations of the samples that are in no piece."""
        return self.rows_left * self.cost

    @property
    def each(self) -> float:
        """Expected seconds of a sample."""
        measured = self._seconds / self._evaluations if self._evaluations else self._declared_seconds
        return self.cost * measured

    def observe(self, rows: int, evaluations: int, seconds: float) -> None:
        """Learn from a piece that is done."""
        self._rows += rows
        self._evaluations += evaluations
        self._seconds += seconds

    def cut(self, all_left: float, workers: int, least: float, smallest: int) -> Piece:
        """Take out a piece.

        Args:
            all_left: evaluations in no piece, of all groups.
            workers: how many share them.
            least: samples at work together that are worth the steps (see ``fewest``). A piece takes the steps of its
                last sample, and most samples end before.
            smallest: samples that are worth one for an idle worker.
        """
        if self._returned:
            return self._returned.pop()
        rows = len(self._left) if self.whole else self._rows_of_piece(all_left, workers, least, smallest)
        taken, self._left = self._left[:rows], self._left[rows:]
        units = [(unit, np.intersect1d(samples, taken)) for unit, samples in self._missing]
        return Piece(tuple((unit, samples) for unit, samples in units if len(samples)))

    def _rows_of_piece(self, all_left: float, workers: int, least: float, smallest: int) -> int:
        left = len(self._left)
        least *= max(1.0, self._longest / self.cost)
        if not self._last_round:
            fair = all_left / (2 * max(1, workers)) / max(self.cost, 1e-9)
            if fair >= least:
                bearable = PIECE_SECONDS / self.each if self.each else np.inf
                rows = int(min(left, max(least, min(fair, bearable))))
                if rows == left or left - rows >= least:
                    return rows
            # The other groups have the other workers. One in a million is rounding.
            share = max(1, math.ceil(workers * self.cost_left / all_left - 1e-6))
            rounds = round(left / least / share)  # whole ones, so that no worker waits for the others
            pieces = rounds * share or min(share, -(-left // smallest))
            # Neighbours in a data set are often of one class, and some classes are harder to attack than others.
            parts = [self._left[number::pieces] for number in range(pieces)]
            self._left, self._last_round = np.concatenate(parts), [len(part) for part in reversed(parts)]
        return min(left, self._last_round.pop())

    def give_back(self, piece: Piece) -> None:
        """Put a piece back whose worker died."""
        self._returned.append(piece)
