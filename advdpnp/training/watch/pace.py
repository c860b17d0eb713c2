"""The speed of a run and the time that it still needs."""

import time
from collections.abc import Callable

from advdpnp.training.recipe import Recipe


class Pace:
    """Measures steps and validations by the clock, from the moment that this process begins to train.

    Until a validation has been measured, its time is guessed from the passes through the network that it and a step
    make. The first step, which also warms up the device or compiles, counts only until there is another.

    Args:
        steps: per epoch.
        images: per step, over all processes.
        validated: number of validation images.
        adversarial: whether a step makes adversarial images.
        clock: seconds.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        steps: int,
        images: int,
        validated: int,
        adversarial: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs, self._steps, self._images, self._clock = recipe.epochs, steps, images, clock
        passes = images * (recipe.attack.steps + 2 if adversarial else 1)
        self._validation_in_steps = validated * (2 * recipe.validation_steps + 1) / passes
        self._first = 0.0
        self._trained = self._validated = 0.0  # seconds
        self._count = self._validations = 0
        self._since = clock()

    def trained(self, steps: int) -> None:
        """Since the last call there were so many steps."""
        seconds = self._lap()
        if not self._first and steps:
            self._first = seconds / steps
            steps, seconds = steps - 1, seconds - self._first
        self._count, self._trained = self._count + steps, self._trained + seconds

    def validated(self) -> None:
        """Since the last call the network was validated and saved."""
        self._validations, self._validated = self._validations + 1, self._validated + self._lap()

    def images_per_second(self) -> float:
        """Training images per second, validations apart; 0 before the first step."""
        return self._images / self._step() if self._first else 0.0

    def seconds_left(self, epoch: int, step: int) -> float:
        """Seconds to the end of the run; infinite before the first step.

        Args:
            epoch, step: number of finished epochs, and of finished steps in the current one.
        """
        if not self._first:
            return float("inf")
        validation = (
            self._validated / self._validations if self._validations else self._validation_in_steps * self._step()
        )
        epochs = self._epochs - epoch
        return max(epochs * self._steps - step, 0) * self._step() + epochs * validation

    def _step(self) -> float:
        return self._trained / self._count if self._count else self._first

    def _lap(self) -> float:
        now = self._clock()
        self._since, before = now, self._since
        return now - before
