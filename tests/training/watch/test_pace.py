"""The time that a run still needs, on a clock of the test."""

import pytest

from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.watch.pace import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pace(clock: Clock, *, adversarial: bool = True) -> Pace:
    """Ten epochs of 100 steps of 50 images; with 3 steps of PGD a step makes 5 passes for each image."""
    recipe = resolve_recipe("pgd-at", "none", {"epochs": 10, "attack.steps": 3, "validation_steps": 2})
    return Pace(recipe, steps=100, images=50, validated=500, adversarial=adversarial, clock=clock)


def test_after_the_first_step_the_whole_time_is_known():
    clock = Clock()
    mine = pace(clock)
    assert mine.seconds_left(0, 0) == float("inf")
    clock.now = 2.0
    mine.trained(1)
    # A validation: 500 images, two attacks of 2 steps and a pass; 2,500 passes, as many as 10 steps make.
    assert mine.seconds_left(0, 1) == pytest.approx(999 * 2 + 10 * 10 * 2)
    assert mine.images_per_second() == pytest.approx(25)


def test_a_slow_first_step_does_not_count_when_others_are_known():
    clock = Clock()
    mine = pace(clock)
    clock.now = 100.0
    mine.trained(1)
    clock.now = 109.0
    mine.trained(9)
    assert mine.images_per_second() == pytest.approx(50)
    assert mine.seconds_left(0, 10) == pytest.approx(990 + 10 * 10)


def test_a_measured_validation_replaces_the_guess():
    clock = Clock()
    mine = pace(clock, adversarial=False)
    clock.now = 10.0
    mine.trained(10)
    clock.now = 13.0
    mine.validated()
    assert mine.seconds_left(1, 0) == pytest.approx(9 * 100 * 1 + 9 * 3)
    assert mine.seconds_left(10, 0) == 0
