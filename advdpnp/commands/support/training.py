"""What the command line shows while a run trains: a bar, or lines where there is no terminal; warnings at the end."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from advdpnp.base.live import WORTH_TELLING
from advdpnp.commands.support import console

if TYPE_CHECKING:
    from advdpnp.training.trainer import Progress as TrainingProgress

_QUIET = 60.0  # seconds without a line, where there is no terminal


def duration(seconds: float) -> str:
    """A time in two units at most: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


@contextmanager
def training_bar(name: str, *, shown: bool = True) -> Iterator[Callable[["TrainingProgress"], None]]:
    """A bar over all steps of a run with loss and accuracy, and a line per finished epoch.

    Nothing is drawn before the run reports that it begins, so a setting that is refused leaves no bar.

    Args:
        shown: whether anything is drawn; of several processes that train together, only the first draws.
    """
    if not shown:
        yield lambda state: None
        return
    view = _View(name)
    try:
        yield view.report
    finally:
        view.close()


class _View:
    def __init__(self, name: str) -> None:
        self._name = name
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=console.err,
        )
        self._task = self._bar.add_task(name, note="", left="?", total=None)
        self._last: TrainingProgress | None = None
        self._estimated = False
        self._spoken = time.monotonic()

    def report(self, state: "TrainingProgress") -> None:
        before, self._last = self._last, state
        if before is None:
            self._bar.start()
            if state.about:
                self._say(f"{self._name}  {state.about}")
        known = math.isfinite(state.seconds_left)
        left = duration(state.seconds_left) if known else "?"
        self._bar.update(self._task, total=state.steps, completed=state.step, note=_note(state), left=left)
        if known and not self._estimated:
            self._estimated = True
            epochs = state.epochs - state.epoch
            words = "1 epoch takes" if epochs == 1 else f"{epochs} epochs take"
            if state.seconds_left >= WORTH_TELLING:
                self._say(f"{self._name}  {words} about {left}, {state.images_per_second:,.0f} images/s")
        if before is not None and state.epoch > before.epoch:
            self._say(f"{self._name}  {_epoch_line(state.metrics, state)}")
        elif not console.err.is_terminal and time.monotonic() - self._spoken > _QUIET:
            self._say(f"{self._name}  step {state.step}/{state.steps}  {_note(state)}  left {left}")

    def close(self) -> None:
        if self._last is None:
            return
        self._bar.stop()
        # Once a run, at its end: most problems last for many epochs, and only now is the worst one known.
        for sentence in self._last.warnings:
            console.err.print(f"{self._name}: warning: {sentence}", style="yellow", markup=False)

    def _say(self, line: str) -> None:
        self._bar.console.print(line, markup=False)
        self._spoken = time.monotonic()


def _note(state: "TrainingProgress") -> str:
    shown = {key: value for key, value in state.terms.items() if key == "loss" or key.endswith("accuracy")}
    note = "  ".join(f"{key.replace('_accuracy', ' acc')} {value:.3f}" for key, value in shown.items())
    return f"{note}  {state.images_per_second:,.0f} images/s" if note else note


def _epoch_line(metrics: dict[str, Any], state: "TrainingProgress") -> str:
    return (
        f"epoch {metrics['epoch']}/{state.epochs}  loss {metrics['loss']:.4f}  "
        f"validation clean {100 * metrics['validation_clean']:.1f} %  "
        f"robust {100 * min(metrics['validation_pgd'], metrics['validation_pgd_margin']):.1f} %  "
        f"MinSep {metrics['min_separation']:.1f} deg  {metrics['seconds']:.0f} s"
    )
