"""Signs that a robustness number cannot be trusted: in the verdicts, and in what was measured beside them.

The catalogue follows Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705), the checks of
AutoAttack (Croce and Hein 2020), and Pintor et al., "Indicators of Attack Failure" (NeurIPS 2022).
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from advdpnp.base.statistics import mcnemar
from advdpnp.eval.analysis.rows import Row


class Meaning(NamedTuple):
    """What a flag says, and what to do about it."""

    explanation: str
    remedy: str


FLAGS = {
    "order": Meaning(
        "an attack that should be stronger left significantly more samples robust than a weaker one",
        "believe the weaker attack; look for masked gradients",
    ),
    "single-step": Meaning(
        "more than two thirds of the samples hold under FGSM, and PGD breaks more than two thirds of these",
        "training on single steps has overfitted to them: believe PGD; train with a random start, or with PGD",
    ),
    "zero-gradient": Meaning(
        "more than 5 % of the attacked samples had a gradient that is exactly zero or not a number",
        "look for saturated softmax, rounding or detached layers; attack margins, and a differentiable stand-in (BPDA)",
    ),
    "ce-margin-gap": Meaning(
        "cross-entropy and margin attacks differ significantly, by more than 5 points: one loss is masked",
        "believe the lower number; rescale the logits or attack margins",
    ),
    "black-box": Meaning(
        "a search without gradients broke significantly many samples that all searches with gradients had left",
        "gradients are masked: attack a differentiable stand-in, and run Square with more queries",
    ),
    "rising-loss": Meaning(
        "more than a quarter of what PGD gained on robust samples came in its last iterations: it was stopped early",
        "attack with more steps or larger ones",
    ),
    "large-eps": Meaning(
        "more than 5 % of the samples survive PGD at Linf 0.5, where every image can be made grey: the search fails",
        "look for masked gradients; the numbers at smaller radii measure the attack, not the model",
    ),
    "above-clean": Meaning(
        "the model does significantly better on attacked images than on clean ones or on noise: it reads the label "
        "from the attack",
        "train with a random start or more steps; believe the strongest attack alone",
    ),
    "unverified": Meaning(
        "the model took back what the search had seen it answer, on more than 5 % of the samples",
        "make the model's answers repeatable",
    ),
    "randomised": Meaning(
        "the model answers differently when asked again: each verdict is the majority of 20 seeded draws",
        "switch the noise off, or attack its expectation (autoattack-rand)",
    ),
    "batch-dependent": Meaning(
        "what the model says of an image depends on the images beside it: verdicts hold for one batch",
        "evaluate with running statistics",
    ),
    "train-mode": Meaning(
        "parts of the model stay in training mode when they are told to leave it",
        "mend their train() method",
    ),
    "dynamic": Meaning(
        "the model differentiates or optimises inside its forward: gradients through it may mislead",
        "attack it with an attack that knows the defence (Croce et al. 2022)",
    ),
    "softmax": Meaning(
        "the model's output is squeezed as a probability is (softmax, sigmoid): gradients vanish where it is sure",
        "return the logits",
    ),
    "quantised": Meaning(
        "the model does not see small changes of its input at all",
        "attack without the rounding, or through a differentiable stand-in (BPDA)",
    ),
    "normalisation": Meaning(
        "the model is significantly better on images that are normalised or denormalised once more",
        "make its normalisation, or --mean and --std, fit images in [0, 1]",
    ),
    "rounding": Meaning(
        "more than a quarter of the adversarial images break nothing any more once they are saved with 8 bits",
        "they live on precision that no camera has: say so, or attack what 8 bits can hold",
    ),
    "fails": Meaning(
        "the model fails, or answers with NaN, on images that were made to measure it",
        "mend its forward and backward pass",
    ),
    "few-classes": Meaning(
        "fewer than 4 classes: the standard AutoAttack needs 4, a variant without its DLR loss ran instead",
        "compare it with rows of the same variant alone",
    ),
}

SIGNIFICANCE = 0.01
SMALL_SHARE = 0.05
"""Of samples: more is suspicious."""
GAP_POINTS = 0.05
LARGE_SHARE = 0.25
JUMP = 0.1
MOST = 2 / 3
"""Honest nets that lose little to FGSM lose little more to PGD; undefended ones lose more than this to FGSM already,
where PGD breaks most of the rest."""


class Flag(NamedTuple):
    """A raised flag: a code of ``FLAGS``, and what was seen ("fgsm 12.00 % < pgd-20 31.00 %")."""

    code: str
    seen: str


def raised_flags(row: Row, others: Sequence[Row] = ()) -> list[Flag]:
    """All flags of a row, in the order of ``FLAGS``; ``others`` of the same table may contradict it."""
    raised = [flag for check in _CHECKS for flag in check(row)] + list(_larger_eps(row, others))
    return sorted(raised, key=lambda flag: list(FLAGS).index(flag.code))


def _order(row: Row) -> Iterator[Flag]:
    for weaker, stronger in itertools.permutations(row.attacks, 2):
        if _should_be_weaker(weaker, stronger) and _more(
            row.misclassified_under(weaker), row.misclassified_under(stronger)
        ):
            left = [_percent(~row.misclassified_under(attack)) for attack in (weaker, stronger)]
            yield Flag("order", f"{weaker} leaves {left[0]}, {stronger} {left[1]}")
    right = _right(row.measured.get("search", {}))
    for weaker, stronger in itertools.combinations([name for name in ("noise", "fgsm", "pgd-20") if name in right], 2):
        if _more(right[stronger], right[weaker]):
            shares = _percent(right[weaker]), _percent(right[stronger])
            yield Flag(
                "order", f"of {row.measured_samples} images, {weaker} leaves {shares[0]}, {stronger} {shares[1]}"
            )


def _single_step(row: Row) -> Iterator[Flag]:
    """Catastrophic overfitting (Wong et al. 2020): the loss is bent so that one step of the training radius misses."""
    iterative = sorted((a for a in row.attacks if (_steps(a) or 0) > 1), key=lambda a: _steps(a) or 0)
    if "fgsm" in row.attacks and iterative:
        once, often = ~row.misclassified_under("fgsm"), ~row.misclassified_under(iterative[-1])
        if _mostly_overfitted(~row.clean_wrong, once, often):
            yield Flag("single-step", f"fgsm leaves {_percent(once)}, {iterative[-1]} {_percent(often)}")
    right = _right(row.measured.get("search", {}))
    clean = _right(row.measured.get("answers", {})).get("clean")
    if clean is None or not {"fgsm", "pgd-20"} <= set(right) or len(clean) != len(right["fgsm"]):
        return
    once, often = right["fgsm"] & clean, right["pgd-20"]
    if _mostly_overfitted(clean, once, often):
        shares = _percent(once), _percent(often)
        yield Flag("single-step", f"of {row.measured_samples} images, fgsm leaves {shares[0]}, pgd-20 {shares[1]}")


def _mostly_overfitted(clean: np.ndarray, once: np.ndarray, often: np.ndarray) -> bool:
    """Whether most samples that are right unchanged are after one step, and few of these after many."""
    few = (once & often).sum() < (1 - MOST) * once.sum()
    return bool(once.sum() > MOST * clean.sum() and few and _more(once, often))


def _larger_eps(row: Row, others: Sequence[Row]) -> Iterator[Flag]:
    """An attack that may go further must not break less."""
    for other in others:
        same = (other.model, other.data, other.threat.norm) == (row.model, row.data, row.threat.norm)
        if not same or not other.threat.eps < row.threat.eps or not np.array_equal(other.samples, row.samples):
            continue
        for attack in [attack for attack in row.attacks if attack in other.attacks]:
            if _more(other.misclassified_under(attack), row.misclassified_under(attack)):
                shares = _percent(~other.misclassified_under(attack)), _percent(~row.misclassified_under(attack))
                radii = other.threat.eps_text, row.threat.eps_text
                yield Flag("order", f"{attack} leaves {shares[0]} at {radii[0]}, {shares[1]} at {radii[1]}")


def _zero_gradient(row: Row) -> Iterator[Flag]:
    for attack, unit in row.attacks.items():
        if _objective(unit.info) != "ce":
            continue
        verdicts = row.verdict_rows(attack)
        asked = verdicts["backwards"].to_numpy() > 0  # clean mistakes end before the first gradient
        zero = verdicts["zero_gradient"].to_numpy()[asked]
        if len(zero) and zero.mean() > SMALL_SHARE:
            yield Flag("zero-gradient", f"{attack}: {_percent(zero)} of the attacked samples, at the first step")
    search = row.measured.get("search", {})
    for name, words in (("zero_gradient", "zero"), ("nan_gradient", "not a number")):
        if (share := search.get(name, 0.0)) > SMALL_SHARE:
            yield Flag("zero-gradient", f"{100 * share:.0f} % of {row.measured_samples} images, during PGD: {words}")


def _ce_margin_gap(row: Row) -> Iterator[Flag]:
    longest = max((a for a in row.attacks if _steps(a) is not None), key=lambda a: _steps(a) or 0, default=None)
    if longest is None or "cw" not in row.attacks or not row.n:
        return
    ce, margin = row.misclassified_under(longest), row.misclassified_under("cw")
    gap, differ = abs(ce.mean() - margin.mean()), (ce != margin).sum()
    # On few images a gap of 7 points may be one of 2, which honest nets have: its lower end counts too.
    least = gap - 1.96 * np.sqrt(differ) / row.n
    if gap > GAP_POINTS and least > GAP_POINTS / 2 and (_more(ce, margin) or _more(margin, ce)):
        yield Flag("ce-margin-gap", f"{longest} leaves {_percent(~ce)}, cw {_percent(~margin)}")


def _black_box(row: Row) -> Iterator[Flag]:
    """What Square breaks after, or beside, all searches with gradients. Honest nets lose a few images to it."""
    for attack, unit in row.attacks.items():
        stages = _stage_names(unit.info)
        if "square" not in stages:
            continue
        verdicts = row.verdict_rows(attack)
        left = verdicts["success"].to_numpy() & (verdicts["stage"].to_numpy() == stages.index("square"))
        reached = left | ~row.misclassified_under(attack)
        if left.sum() > SMALL_SHARE * max(1, reached.sum()) and mcnemar(int(left.sum()), 0) < SIGNIFICANCE:
            yield Flag("black-box", f"{attack}: Square broke {left.sum()} of the {reached.sum()} samples left to it")
    white = [attack for attack in row.attacks if attack.startswith("apgd")]
    if "square" in row.attacks and white:
        broken = np.logical_or.reduce([row.misclassified_under(attack) for attack in white])
        if _more(row.misclassified_under("square"), broken):
            shares = _percent(~row.misclassified_under("square")), _percent(~broken)
            yield Flag("black-box", f"square leaves {shares[0]}, {' and '.join(white)} {shares[1]}")


def _unverified(row: Row) -> Iterator[Flag]:
    for attack, unit in row.attacks.items():
        if "search" in str(unit.info["identity"].get("precision", "")):
            continue  # a search of few bits claims too much, and goes on in float32
        verdicts = row.verdict_rows(attack)
        refused = verdicts["refused"].to_numpy()[verdicts["backwards"].to_numpy() > 0] > 0
        if len(refused) and refused.mean() > SMALL_SHARE:
            yield Flag("unverified", f"{attack}: {_percent(refused)} of the attacked samples")


def _facts(row: Row) -> Iterator[Flag]:
    infos = [unit.info for unit in (row.clean, *row.attacks.values())]
    if any(info.get("randomised") for info in infos):
        yield Flag("randomised", "repeated predictions differ")
    if any(info.get("batch_dependent") for info in infos):
        yield Flag("batch-dependent", "the same images in other company got other logits")
    if "autoattack-few-classes" in row.attacks:
        yield Flag("few-classes", "autoattack-few-classes ran")


def _answers(row: Row) -> Iterator[Flag]:
    found: dict[str, Any] = row.measured.get("answers", {})
    for numbers in row.measured.values():
        if "failed" in numbers:
            yield Flag("fails", str(numbers["failed"]))
    if modules := found.get("training_modules"):
        yield Flag("train-mode", ", ".join(modules[:3]) + (" and more" if modules[3:] else ""))
    if calls := found.get("differentiations"):
        yield Flag("dynamic", f"{calls} calls of autograd in one forward")
    if squeezed := _squeezed(found):
        yield Flag("softmax", squeezed)
    if (share := found.get("overlooked", 0.0)) > SMALL_SHARE:
        yield Flag("quantised", f"{100 * share:.0f} % of {row.measured_samples} images: same logits after a nudge")
    right = _right(found)
    for name in ("normalised", "denormalised") if "clean" in right else ():
        if name in right and right[name].mean() > right["clean"].mean() + JUMP and _more(right[name], right["clean"]):
            yield Flag("normalisation", f"{_percent(right[name])} right {name}, {_percent(right['clean'])} as they are")


def _squeezed(found: dict[str, Any]) -> str:
    """What shows that the outputs are no logits; "" if nothing does.

    Honest logits may have a constant sum (vectors of classes in a simplex give zero) or lie close together, but then
    some are negative.
    """
    if found.get("probabilities"):
        return "every row of the output adds up to 1"
    ends = found.get("outputs")
    if not ends or ends["lowest"] < 0 or ends["lowest"] == ends["highest"]:
        return ""
    if ends["highest"] <= 1:
        return "every output lies in [0, 1]"
    if ends["greatest_sum"] - ends["least_sum"] < 1e-3 * ends["greatest_sum"]:
        return f"no output is negative, and every row adds up to {ends['greatest_sum']:.4g}"
    return ""


def _search(row: Row) -> Iterator[Flag]:
    found: dict[str, Any] = row.measured.get("search", {})
    if (share := found.get("rising") or 0.0) > LARGE_SHARE:
        yield Flag("rising-loss", f"{100 * share:.0f} % of the gain came in the last quarter of PGD-20")
    if (share := found.get("rounded") or 0.0) > LARGE_SHARE:
        yield Flag("rounding", f"{100 * share:.0f} % of PGD's images")
    right, clean = _right(found), _right(row.measured.get("answers", {})).get("clean")
    large = right.get("pgd-20 at 0.5")
    if large is not None and large.mean() > SMALL_SHARE:
        yield Flag("large-eps", f"{_percent(large)} of {row.measured_samples} images")
    if "fgsm" in right and clean is not None and len(clean) == len(right["fgsm"]):
        for name, other in (("clean", clean), ("noise", right.get("noise"))):
            if other is not None and _more(right["fgsm"], other):
                yield Flag("above-clean", f"fgsm {_percent(right['fgsm'])} right, {name} {_percent(other)}")


_CHECKS: tuple[Callable[[Row], Iterator[Flag]], ...] = (
    _order, _single_step, _zero_gradient, _ce_margin_gap, _black_box, _unverified, _facts, _answers, _search,
)  # fmt: skip


def _more(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether significantly more samples are in ``a`` than in ``b``, by the exact McNemar test."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a > only_b and mcnemar(only_a, only_b) < SIGNIFICANCE


def _right(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """The digits of a measurement as bool arrays."""
    return {name: np.array([each == "1" for each in text]) for name, text in found.get("right", {}).items()}


def _should_be_weaker(a: str, b: str) -> bool:
    """Whether attack ``a`` must not break more than ``b``, up to chance. A partial order: PGD and C&W have none.

    Minimum-norm searches and attacks of other packages promise nothing, but AutoAttack claims to beat them all.
    """
    if b in ("autoattack", "autoattack-few-classes"):
        return a != b
    if a == "fgsm":
        return b == "cw" or _steps(b) is not None
    steps_a, steps_b = _steps(a), _steps(b)
    return steps_a is not None and steps_b is not None and steps_a < steps_b


def _steps(attack: str) -> int | None:
    match = re.fullmatch(r"pgd-(\d+)", attack)
    return int(match[1]) if match else None


def _definition(info: dict[str, Any]) -> dict[str, Any]:
    attack = info["identity"].get("attack")
    return attack if isinstance(attack, dict) else {}


def _objective(info: dict[str, Any]) -> str | None:
    return _definition(info).get("objective")


def _stage_names(info: dict[str, Any]) -> list[str]:
    """Of an attack in stages of our own; packages do not tell which of theirs broke a sample."""
    stages = _definition(info).get("stages", [])
    return [str(stage.get("name") or stage.get("attack")) for stage in stages if isinstance(stage, dict)]


def _percent(which: np.ndarray) -> str:
    return f"{100 * which.mean():.2f} %"
