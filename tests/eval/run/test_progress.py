"""What an evaluation says of itself: the plan, bounds, and a time left that knows what survivors cost."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import advdpnp
from advdpnp.attacks.engine.status import SearchStatus
from advdpnp.base import live
from advdpnp.eval.run import progress
from advdpnp.eval.run.progress import Course
from advdpnp.eval.run.work import ModelPlan, Work, plan_in_words

WORK = (
    Work("clean", "", 40, 1),
    Work("pgd-20, linf 0.1", "linf 0.1", 40, 40),
    Work("autoattack, linf 0.1", "linf 0.1", 40, 10_000),
    Work("corruption/fog/1", "", 40, 1),
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def course(clock: Clock, said: list[str], work: Sequence[Work] = WORK, models_left: int = 0) -> Course:
    made = Course(said.append, clock)
    made.plan(ModelPlan("net", work, 0.9, 0.001, models_left))
    return made


def search_for(course: Course, clock: Clock, seconds: int, undecided: dict[str, int], spent: int, left: int) -> None:
    """Ten evaluations a second."""
    for i in range(seconds + 1):
        clock.now += i > 0
        course.search(SearchStatus(undecided, spent + 10 * i, left - 10 * i))


def test_the_plan_says_what_will_be_done_how_much_it_is_and_how_long_it_takes() -> None:
    lines = plan_in_words(ModelPlan("net", WORK, 0.9, 0.001))
    assert lines == [
        "net: 40 images under clean; pgd-20, linf 0.1; autoattack, linf 0.1; 1 corruption",
        "net: at most 401,680 forwards and backwards; about 0:06:02 if no image breaks, 0:03:01 if half do",
    ]
    short = plan_in_words(ModelPlan("net", WORK, 0.9, 0.00002))
    assert short[1] == "net: at most 401,680 forwards and backwards"  # some seconds
    mine = Work("mine, l2 1", "l2 1", 5, None)
    assert "attacks that do not say their cost" in plan_in_words(ModelPlan("net", (*WORK, mine), 0.9, 0.001))[1]
    assert plan_in_words(ModelPlan("net", (mine,), 0.9, 0.001)) == ["net: 5 images under mine, l2 1"]
    stored = ModelPlan("net", (Work("clean", "", 0, 1),), 0.9, 0.001)
    assert plan_in_words(stored) == ["net: everything that was asked for is stored already"]


def test_survivors_decide_the_time_left_and_the_bounds_close(clock: Clock) -> None:
    said: list[str] = []
    told = course(clock, said)
    told.start("net", "autoattack, linf 0.1", 40, 0)
    told.advance(27, 0)  # the broken ones come first
    search_for(told, clock, 10, {"apgd-t": 13}, spent=1_000, left=120_000)
    here, everything = told.left()
    assert here == pytest.approx((120_000 - 100) / 10)  # not a third of the time that 27 of 40 have taken
    assert everything == pytest.approx(here + 40 * 0.001)
    title, state = told.lines()
    assert title == "net  autoattack, linf 0.1"
    assert state.startswith("27 of 40 done, robust between 0 and 13 of 40 (95 % interval 0.0 to 48.0 %), 13 in apgd-t")
    assert "0:00:10 gone, about 3:19:50 left" in state
    clock.now += 60  # a call that takes long: the time passes all the same
    assert told.left()[0] == pytest.approx(here - 60)
    assert 0 < told.share() < 0.01
    told.advance(12, 12)
    told.search(SearchStatus({"square": 1}, 2_000, 50))
    assert "robust between 12 and 13 of 40" in told.lines()[1]
    told.advance(1, 1)
    told.finish()
    assert said[-1] == "net  autoattack, linf 0.1  robust 13 of 40 (95 % interval 20.1 to 48.0 %)  70 s"


def test_an_ensemble_tells_the_accuracy_after_each_stage_while_it_runs(clock: Clock) -> None:
    said: list[str] = []
    told = course(clock, said)
    told.start("net", "autoattack, linf 0.1", 40, 0)
    told.advance(15, 0)
    told.stages({"apgd-ce": 8, "apgd-t": 2, "square": 0})  # five are wrong unchanged
    assert "at most 67.50 % after apgd-ce, 62.50 % after apgd-t, 0:00:00 gone" in told.lines()[1]
    told.advance(25, 23)
    told.stages({"apgd-ce": 0, "apgd-t": 2, "square": 0})
    told.finish()
    assert said[-1].endswith("%)  67.50 % after apgd-ce, 57.50 % after apgd-t, 57.50 % after square  0 s")


def test_a_plan_begins_with_the_device_and_the_parameters(clock: Clock) -> None:
    lines = plan_in_words(ModelPlan("net", WORK, 0.9, 0.001, 0, "cpu (x86_64, 2 threads)", 11_173_962))
    assert lines[0] == "net: 11,173,962 parameters, on cpu (x86_64, 2 threads)"


def test_later_attacks_count_the_survivors_of_earlier_ones(clock: Clock) -> None:
    told = course(clock, [], models_left=1)
    told.start("net", "clean", 40, 0)
    told.advance(40, 30)
    told.finish()
    told.start("net", "pgd-20, linf 0.1", 40, 0)
    told.advance(30, 0)
    search_for(told, clock, 4, {"pgd-20": 10}, spent=0, left=400)
    told.advance(10, 10)
    told.finish()
    told.start("net", "autoattack, linf 0.1", 40, 0)
    here, everything = told.left()
    assert here == pytest.approx(10 * 10_000 / 10)  # a quarter survives pgd-20, and ten evaluations take a second
    assert everything == pytest.approx(2 * (here + 40 * 0.001) + 4)  # another model takes as long as this one


def test_samples_that_have_not_begun_survive_as_often_as_those_that_have(clock: Clock) -> None:
    told = course(clock, [], (Work("pgd-20, linf 0.1", "linf 0.1", 1_000, 40),))
    told.start("net", "pgd-20, linf 0.1", 1_000, 0)
    told.advance(80, 0)
    search_for(told, clock, 3, {"pgd-20": 20}, spent=0, left=800)
    assert told.left()[0] == pytest.approx((800 - 30 + 900 * 40 * 0.2) / 10)


def test_an_unknown_cost_is_no_time_and_measurements_are_named(clock: Clock) -> None:
    told = course(clock, [], (Work("mine, linf 0.1", "linf 0.1", 10, None),))
    told.doing("net", "measurements for flags")
    clock.now += 61
    assert told.lines() == ["net: measurements for flags  0:01:01"]
    told.start("net", "mine, linf 0.1", 10, 4)
    told.search(SearchStatus({"mine": 6}, 5, None))
    assert told.left()[0] is None
    assert told.share() is None
    assert "left" not in told.lines()[1]
    assert "0 of 6 done" in told.lines()[1]  # four were judged before
    told.finish()
    assert told.lines() == []


def test_python_callers_see_it_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WORTH_A_LINE", math.inf)  # however slow this machine is
    monkeypatch.setattr(live, "LOG_EVERY", 1e6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    advdpnp.evaluate(model, x, y, attacks="fgsm", sanity=False)
    advdpnp.attack(model, x, y, "pgd-3")
    assert capsys.readouterr().err == ""
    advdpnp.evaluate(model, x, y, attacks="fgsm", sanity=False, progress=True)
    advdpnp.attack(model, x, y, "pgd-3", progress=True)
    header, first, second, fgsm, third, fourth, pgd = capsys.readouterr().err.splitlines()
    assert fgsm.startswith("model  fgsm, linf 8/255  robust ")
    assert pgd.startswith("attack  pgd-3, linf 8/255  robust ")
    assert header.startswith("model: 51 parameters, on cpu (")
    assert first == "model: 8 images under clean; fgsm, linf 8/255"
    assert second == "model: at most 24 forwards and backwards"  # no estimate of what takes no time
    assert third == "attack: 8 images under pgd-3, linf 8/255"
    assert fourth == "attack: at most 48 forwards and backwards"


def test_corruptions_share_a_line_and_a_bar_and_fast_attacks_keep_theirs(clock: Clock) -> None:
    said: list[str] = []
    course = Course(said.append, clock)
    cells = [Work(f"corruption/fog/{severity}", "", 10, 1) for severity in (1, 2, 3, 4)]
    course.plan(ModelPlan("net", [Work("fgsm, linf 0.1", "linf 0.1", 10, 2), *cells], right=1.0, seconds=None))
    said.clear()
    course.start("net", "fgsm, linf 0.1", 10, 0)
    course.advance(10, 4)
    course.finish()
    assert said == ["net  fgsm, linf 0.1  robust 4 of 10 (95 % interval 16.8 to 68.7 %)  0 s"]
    shares = []
    for number, cell in enumerate(cells):
        course.start("net", cell.unit, 10, 0)
        course.advance(5, 5 - number)
        assert course.lines()[0] == f"net  {cell.unit} ({number + 1} of 4)"
        shares.append(course.share())
        course.advance(5, 5)
        course.finish()
    assert shares == [0.125, 0.375, 0.625, 0.875]
    assert said[1:] == ["net  4 corruptions  right 85.0 % on average  0 s"]
