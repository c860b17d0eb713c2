"""Learning-rate schedules: a factor in [0, 1] that depends only on progress in [0, 1], so they have no state."""

import math
from collections.abc import Callable
from functools import partial


def one_cycle(progress: float) -> float:
    """Linear increase over the first fifth, then linear decrease (Smith and Topin 2018, without momentum cycle)."""
    return progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def piecewise(progress: float) -> float:
    """1, then 0.1 from half of the run on, then 0.01 from three quarters on (Rice et al. 2020)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def exponential(progress: float, *, decay: float, epochs: int) -> float:
    """``decay`` to the power of the number of finished epochs, of ``epochs`` in all."""
    finished = math.floor(progress * epochs + 1e-6)  # rounding of the quotient must not cost an epoch
    return decay**finished


PROLONGABLE = ("constant", "exponential")
"""The schedules that do not depend on the number of epochs, so that a run can go on beyond them."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "piecewise": piecewise,
    "constant": constant,
}


def find_schedule(name: str, *, decay: float, epochs: int) -> Callable[[float], float]:
    """The schedule of this name for a run of ``epochs``; only "exponential" uses ``decay``."""
    by_epoch: dict[str, Callable[[float], float]] = {"exponential": partial(exponential, decay=decay, epochs=epochs)}
    return (SCHEDULES | by_epoch)[name]
