"""The course of an evaluation: what a listener is told, and ``Course``, which puts it into words with the time left.

The first samples to finish are those that break; one that survives costs thousands of model evaluations. So the time
left is estimated from evaluations still to come, not from samples that are done.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from advdpnp.attacks.engine.status import SearchStatus
from advdpnp.base.live import clock_time, live
from advdpnp.base.statistics import wilson
from advdpnp.eval.analysis.search_notes import after_stages
from advdpnp.eval.run.cluster.fleet import Fleet
from advdpnp.eval.run.work import ModelPlan, Work, corruptions_in_words, plan_in_words
from advdpnp.eval.store.key import CLEAN, CORRUPTION

_WINDOW = 30.0  # seconds; an estimate follows the speed of the stage that runs now
_ENOUGH = 2.0  # seconds that must be measured before a speed is believed
_WORTH_A_LINE = 1.0  # seconds; quicker evaluations leave no line, but attacks do


class Progress:
    """Receives the course of an evaluation, and does nothing with it: subclasses override what they want to know.

    Called from the evaluating thread; a method should return at once.
    """

    def doing(self, model: str, what: str) -> None:
        """Something begins that has no samples to count."""

    def plan(self, plan: ModelPlan) -> None:
        """The evaluation of a model begins."""

    def start(self, model: str, unit: str, total: int, done: int) -> None:
        """A unit begins: ``unit`` as tables call it ("pgd-20, linf 8/255"); ``done`` of ``total`` samples are known."""

    def advance(self, samples: int, robust: int) -> None:
        """``samples`` more are decided, of which ``robust`` are still classified correctly."""

    def stages(self, broken: Mapping[str, int]) -> None:
        """Of the samples of the last ``advance``, how many each stage of an ensemble has broken."""

    def search(self, status: SearchStatus) -> None:
        """How far the search is; about once a second."""

    def finish(self) -> None:
        """The unit is complete."""

    def fleet(self, fleet: Fleet) -> None:
        """How far an evaluation on a cluster is, instead of all of the above but ``plan``."""

    def say(self, sentence: str) -> None:
        """Something that is worth keeping."""


class _Unit:
    """The evaluation that runs."""

    def __init__(self, name: str, total: int, work: Work, began: float) -> None:
        self.name, self.total, self.work, self.began = name, total, work, began
        self.decided = self.robust = 0
        self.stages: Mapping[str, int] = {}  # samples that each stage of an ensemble has broken
        self.status: SearchStatus | None = None
        self.marks: tuple[tuple[float, int], ...] = ()  # times and evaluations by then
        self.seconds, self.evaluations = 0.0, 0  # of the search, without what comes before and after it

    def search(self, status: SearchStatus, now: float) -> None:
        if self.marks and status.spent >= self.marks[-1][1]:
            self.seconds += now - self.marks[-1][0]
            self.evaluations += status.spent - self.marks[-1][1]
        else:  # the first status of these images
            self.marks = ()
        self.marks = (*(mark for mark in self.marks if now - mark[0] <= _WINDOW), (now, status.spent))
        self.status = status

    @property
    def is_cell(self) -> bool:
        """Whether it is one of many corruptions, which are told together."""
        return self.work.unit.startswith(CORRUPTION)

    @property
    def broken(self) -> int:
        return self.decided - self.robust

    @property
    def after_stages(self) -> str:
        """Accuracy after each stage of an ensemble; before the end a bound, of the stages that broke something."""
        ended = self.decided == self.total
        stages = {name: broken for name, broken in self.stages.items() if broken or ended}
        return after_stages(self.total, self.broken - sum(stages.values()), stages)

    @property
    def pace(self) -> float | None:
        """Seconds per evaluation in the last half minute."""
        if not self.marks:
            return None
        (first, before), (last, by_now) = self.marks[0], self.marks[-1]
        return (last - first) / (by_now - before) if last - first >= _ENOUGH and by_now > before else None

    def evaluations_left(self, surviving: float) -> float | None:
        """Expected model evaluations; a sample that has not begun survives as often as those that have."""
        cost, status = self.work.cost, self.status
        if cost is None or (status is not None and status.left is None):
            return None
        if status is None:
            return (self.total - self.decided) * cost * (surviving if self.work.threat else 1.0)
        begun = self.decided + sum(status.undecided.values())
        survivors = (begun - self.broken) / begun if begun else surviving
        return (status.left or 0) + max(0, self.total - begun) * cost * survivors


class Course(Progress):
    """Puts the course of an evaluation into words.

    Args:
        say: receives sentences that are worth keeping: the plan, and what finished.
        clock: seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._fleet: Fleet | None = None
        self._began_at = clock()
        self._plan = ModelPlan("", (), 1.0, None)
        self._later: Sequence[Work] = ()
        self._unit: _Unit | None = None
        self._cells: list[_Unit] = []  # of corruptions, finished
        self._doing = ""
        self._began = self._doing_since = clock()
        self._right = self._surviving = 1.0
        self._threat = ""
        self._measured: Mapping[bool, tuple[float, float]] = {}  # seconds and evaluations, of attacks and of the others

    def doing(self, model: str, what: str) -> None:
        self._doing, self._doing_since = f"{model}: {what}", self._clock()

    def plan(self, plan: ModelPlan) -> None:
        self._plan, self._later, self._began = plan, plan.work, self._clock()
        self._right = self._surviving = plan.right
        self._measured = {}
        for line in plan_in_words(plan):
            self._say(line)

    def start(self, model: str, unit: str, total: int, done: int) -> None:
        now = self._clock()
        names = [work.unit for work in self._later]
        place = names.index(unit) + 1 if unit in names else 0
        work = self._later[place - 1] if place else Work(unit, "", total - done, None)
        self._later = self._later[place:]
        if work.threat != self._threat:
            self._threat, self._surviving = work.threat, self._right
        self._unit = _Unit(f"{model}  {unit}", total - done, work, now)

    def advance(self, samples: int, robust: int) -> None:
        if self._unit is not None:
            self._unit.robust += robust
            self._unit.decided += samples

    def stages(self, broken: Mapping[str, int]) -> None:
        if self._unit is not None:
            known = self._unit.stages
            self._unit.stages = {name: known.get(name, 0) + count for name, count in broken.items()}

    def search(self, status: SearchStatus) -> None:
        if self._unit is not None:
            self._unit.search(status, self._clock())

    def finish(self) -> None:
        unit, self._unit, self._doing = self._unit, None, ""
        if unit is None or not unit.total:
            return
        gone = self._clock() - unit.began
        attacked = bool(unit.work.threat)
        share = 1 - unit.broken / unit.total
        if attacked:
            self._surviving = min(self._surviving, share)
        elif unit.work.unit == CLEAN:
            self._right = self._surviving = share
        spent = (unit.seconds, unit.evaluations) if unit.status else (gone, unit.decided * (unit.work.cost or 0))
        if unit.work.unit != CLEAN:  # its time is mostly that of the first call
            before = self._measured.get(attacked, (0.0, 0.0))
            self._measured = {**self._measured, attacked: (before[0] + spent[0], before[1] + spent[1])}
        if unit.is_cell:
            unit.seconds = gone
            self._cells.append(unit)
            if not self._cells_left:
                self._say_cells()
        elif attacked or gone > _WORTH_A_LINE:
            self._say("  ".join(filter(None, (unit.name, _result(unit), unit.after_stages, f"{gone:.0f} s"))))

    def _say_cells(self) -> None:
        """One line for all corruptions of a model."""
        cells, self._cells = self._cells, []
        right = 100 * sum(cell.robust / cell.total for cell in cells) / len(cells)
        model = cells[0].name.removesuffix(cells[0].work.unit).rstrip()
        seconds = sum(cell.seconds for cell in cells)
        self._say(f"{model}  {corruptions_in_words(len(cells))}  right {right:.1f} % on average  {seconds:.0f} s")

    @property
    def _cells_left(self) -> int:
        return sum(work.unit.startswith(CORRUPTION) and work.samples > 0 for work in self._later)

    def fleet(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def say(self, sentence: str) -> None:
        self._say(sentence)

    def left(self) -> tuple[float | None, float | None]:
        """Seconds left for this unit and for everything; None where it is unknown."""
        unit = self._unit
        if unit is None:
            return None, None
        attacked = bool(unit.work.threat)
        evaluations, pace = unit.evaluations_left(self._surviving), unit.pace or self._pace(attacked)
        since = self._clock() - (unit.marks[-1][0] if unit.marks else unit.began)
        here = None if evaluations is None or pace is None else max(0.0, evaluations * pace - since)
        model = here or 0.0
        bound = 1 - unit.broken / unit.total if unit.total else 1.0
        for work in self._later:
            survivors = 1.0 if not work.threat else self._right
            if work.threat and work.threat == unit.work.threat:
                survivors = min(self._surviving, bound)
            expected = work.samples * (work.cost or 0) * survivors
            model += expected * (self._pace(bool(work.threat)) or 0.0)
        gone = self._clock() - self._began
        return here, model + self._plan.models_left * (gone + model)

    def _pace(self, attacked: bool) -> float | None:
        """Seconds per evaluation of the attacks of this model so far, or of its other images; at first that planned."""
        seconds, evaluations = self._measured.get(attacked, (0.0, 0.0))
        return seconds / evaluations if seconds >= _ENOUGH and evaluations else self._plan.seconds

    def lines(self) -> list[str]:
        """What runs, and how far it is; empty before anything does."""
        if self._fleet is not None:
            return ["cluster", f"{self._fleet.in_words()}, {clock_time(self._clock() - self._began_at)} gone"]
        unit = self._unit
        if unit is None:
            return [f"{self._doing}  {clock_time(self._clock() - self._doing_since)}"] if self._doing else []
        gone = self._clock() - unit.began
        place = f" ({len(self._cells) + 1} of {len(self._cells) + 1 + self._cells_left})" if unit.is_cell else ""
        parts = [f"{unit.decided} of {unit.total} done", _result(unit)]
        stages = unit.status.undecided if unit.status else {}
        if stages and not (len(stages) == 1 and unit.work.unit.startswith(next(iter(stages)))):
            parts.append(", ".join(f"{samples} in {stage}" for stage, samples in stages.items()))
        if unit.after_stages:
            parts.append(f"at most {unit.after_stages}")
        parts.append(f"{clock_time(gone)} gone")
        here, everything = self.left()
        if here is not None:
            parts.append(f"about {clock_time(here)} left")
        if everything is not None and (here is None or everything - here >= 1):
            parts.append(f"{clock_time(everything)} for all")
        return [unit.name + place, ", ".join(parts)]

    def share(self) -> float | None:
        """Share of the time of this unit that is gone; None where it is unknown."""
        if self._fleet is not None:
            left = self._fleet.seconds_left
            gone = self._clock() - self._began_at
            return None if left is None else gone / max(gone + left, 1e-9)
        unit, (here, _) = self._unit, self.left()
        if unit is not None and unit.is_cell:
            done = unit.decided / unit.total if unit.total else 1.0
            return (len(self._cells) + done) / (len(self._cells) + 1 + self._cells_left)
        if unit is None or here is None:
            return None
        gone = self._clock() - unit.began
        return gone / (gone + here) if gone + here else 1.0


@contextmanager
def following(progress: Progress | bool | None) -> Iterator[Progress]:
    """Who follows an evaluation: for True a ``Course`` on the screen (see ``live``), for False and None nobody."""
    if isinstance(progress, Progress):
        yield progress
    elif not progress:
        yield Progress()
    else:
        course = Course(lambda text: say(text))
        with live(course.lines, course.share) as say:
            yield course


def _result(unit: _Unit) -> str:
    """How many are robust: bounds while samples are undecided, and an interval that covers both."""
    low, high, n = unit.robust, unit.total - unit.broken, unit.total
    word = "robust" if unit.work.threat else "right"
    count = f"{low} of {n}" if low == high else f"between {low} and {high} of {n}"
    ends = 100 * wilson(low, n).low, 100 * wilson(high, n).high
    return f"{word} {count} (95 % interval {ends[0]:.1f} to {ends[1]:.1f} %)"
