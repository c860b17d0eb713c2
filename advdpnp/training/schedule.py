"""Learning-rate schedules: a factor in [0, 1] as a function of progress in [0, 1] alone, so resuming needs no state."""

import math
from collections.abc import Callable


def one_cycle(progress: float) -> float:
    """Up in a line for the first fifth, down in a line to zero (Smith and Topin 2018, without the momentum cycle)."""
    return progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8


def cosine(progress: float) -> float:
    """Half a cosine from one to zero (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def piecewise(progress: float) -> float:
    """A tenth after half of the run, a hundredth after three quarters (the schedule of Rice et al. 2020)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def constant(progress: float) -> float:
    """One."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "piecewise": piecewise,
    "constant": constant,
}
