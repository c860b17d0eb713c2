"""What is going to be done with a model, how much that is at most, and how long it may take."""

from collections.abc import Sequence
from dataclasses import dataclass

from advdpnp.base.live import WORTH_TELLING, clock_time
from advdpnp.eval.store.key import CORRUPTION


@dataclass(frozen=True)
class Work:
    """One evaluation to come.

    Attributes:
        unit: as tables call it ("pgd-20, linf 8/255").
        threat: label of the threat model; "" for clean and corrupted images.
        samples: that have no verdict yet.
        cost: model evaluations (forwards and backwards) of a sample that survives; None if the attack does not say.
    """

    unit: str
    threat: str
    samples: int
    cost: int | None


@dataclass(frozen=True)
class ModelPlan:
    """What is going to be done with one model.

    Attributes:
        model: its name.
        work: in order.
        right: share of the first images that it classifies correctly.
        seconds: per evaluation of one image, as measured on these; None without a measurement.
        models_left: how many models come after it.
        device: what it runs on, in words.
        parameters: how many the model has.
    """

    model: str
    work: Sequence[Work]
    right: float
    seconds: float | None
    models_left: int = 0
    device: str = ""
    parameters: int = 0

    @property
    def most(self) -> int:
        """Evaluations if every image survives every attack."""
        return sum(work.samples * (work.cost or 0) for work in self.work)


def plan_in_words(plan: ModelPlan) -> list[str]:
    """What will be done with a model, how much that is at most, and how long it may take."""
    todo = [work for work in plan.work if work.samples]
    if not todo:
        return [f"{plan.model}: everything that was asked for is stored already"]
    cells = [work for work in todo if work.unit.startswith(CORRUPTION)]
    units = [work.unit for work in todo if work not in cells]
    if cells:
        units.append(corruptions_in_words(len(cells)))
    most = max(work.samples for work in todo)
    lines = [f"{plan.model}: {plan.parameters:,} parameters, on {plan.device}"] if plan.device else []
    lines.append(f"{plan.model}: {most:,} image{'s' * (most > 1)} under {'; '.join(units)}")
    attacks = [work for work in todo if work.threat]
    if any(work.cost is not None for work in attacks):
        unknown = "" if all(work.cost is not None for work in attacks) else ", and attacks that do not say their cost"
        lines.append(f"{plan.model}: at most {plan.most:,} forwards and backwards{unknown}{_time_of(plan)}")
    return lines


def _time_of(plan: ModelPlan) -> str:
    if plan.seconds is None:
        return ""
    others = sum(work.samples for work in plan.work if not work.threat)
    longest = sum(work.samples * (work.cost or 0) for work in plan.work if work.threat) * plan.right
    if (others + longest) * plan.seconds < WORTH_TELLING:
        return ""
    most, half = (clock_time((others + part) * plan.seconds) for part in (longest, longest / 2))
    return f"; about {most} if no image breaks, {half} if half do"


def corruptions_in_words(count: int) -> str:
    """ "15 corruptions"."""
    return f"{count} corruption{'s' * (count > 1)}"
