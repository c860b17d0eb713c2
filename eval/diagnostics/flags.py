"""Signs that a robustness number cannot be trusted: in the verdicts, and in the measurements stored with them.

The catalogue follows Carlini et al., "On Evaluating Adversarial Robustness" (arXiv 1902.06705), the checks of
AutoAttack (Croce and Hein 2020), and Pintor et al., "Indicators of Attack Failure" (NeurIPS 2022). No check looks at
what an attack is called: all ask its ``AttackInfo``.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from advdpnp.attacks.info import AttackInfo
from advdpnp.attacks.threat import DEFAULT_EPS
from advdpnp.base.statistics import mcnemar, wilson
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.diagnostics.flag import SIGNIFICANCE, Flag, more, percent, which_right
from advdpnp.eval.diagnostics.texts import FLAGS

# Shares of the samples that a check looks at; above them its flag is raised.
OVERFITTED_SHARE = 2 / 3
"""Honest nets that lose little to FGSM lose little more to PGD; undefended ones lose more than this to FGSM already,
where PGD breaks most of the rest."""
ZERO_GRADIENT_SHARE = 0.05
GAP_SHARE = 0.05
BLACK_BOX_SHARE = 0.05
UNVERIFIED_SHARE = 0.05
REJECTED_SHARE = 0.05
QUANTISED_SHARE = 0.05
NORMALISATION_SHARE = 0.1
CHANCE_SHARE = 0.1
"""A model is hardly better than chance if no more than this above it is compatible with what is seen."""
RISING_SHARE = 0.25
ROUNDING_SHARE = 0.25
LARGE_EPS_SHARE = 0.05
STATEFUL_SHARE = 0.05

SMALL_EPS = {"l2": 0.1, "l1": 1.0}
"""Below these radii a photograph does not change visibly, whatever the attack."""


def raised_flags(row: Row, others: Sequence[Row] = ()) -> list[Flag]:
    """All flags of a row, in the order of ``FLAGS``; ``others`` of the same table may contradict it."""
    raised = [flag for check in _CHECKS for flag in check(row)] + list(_larger_eps(row, others))
    return sorted(raised, key=lambda flag: list(FLAGS).index(flag.code))


def _order(row: Row) -> Iterator[Flag]:
    infos = row.attack_infos
    for weaker, stronger in itertools.permutations(infos, 2):
        if _is_weaker(infos[weaker], infos[stronger]) and more(
            row.misclassified_under(weaker), row.misclassified_under(stronger)
        ):
            left = [percent(~row.misclassified_under(attack)) for attack in (weaker, stronger)]
            yield Flag("order", f"{weaker} leaves {left[0]}, {stronger} {left[1]}")
    right = which_right(row.measured.get("search", {}))
    for weaker, stronger in itertools.combinations([name for name in ("noise", "fgsm", "pgd-20") if name in right], 2):
        n = min(len(right[weaker]), len(right[stronger]))
        few, many = right[weaker][:n], right[stronger][:n]
        if more(many, few):
            yield Flag("order", f"of {n} images, {weaker} leaves {percent(few)}, {stronger} {percent(many)}")


def _is_weaker(a: AttackInfo, b: AttackInfo) -> bool:
    """Whether attack ``a`` must not break more than ``b``, up to chance. A partial order: PGD and C&W have none.

    Minimum-norm searches and attacks of which nothing is known promise nothing, but AutoAttack claims to beat them all.
    """
    if b.standard_autoattack or b.few_classes_autoattack:
        return not (a.standard_autoattack or a.few_classes_autoattack)
    if a.targets or b.targets or a.budget or b.budget:
        return False  # a target can be hard to reach however long the search, and a budget ends any search early
    if a.family == "fgsm":
        return b.family == "pgd"
    alike = a.family != "" and (a.family, a.loss) == (b.family, b.loss)
    return alike and 0 < a.steps < b.steps


def _minimum_norm(row: Row) -> Iterator[Flag]:
    """Minimum-norm searches that miss what PGD finds within eps, so that their distances are too large."""
    infos = row.attack_infos
    ball = [label for label, info in infos.items() if info.family in ("pgd", "apgd") and not info.targets]
    for nearest in (label for label, info in infos.items() if info.minimum_norm and not info.targets):
        for other in ball:
            if more(row.misclassified_under(other), row.misclassified_under(nearest)):
                shares = percent(~row.misclassified_under(nearest)), percent(~row.misclassified_under(other))
                yield Flag("minimum-norm", f"{nearest} leaves {shares[0]}, {other} {shares[1]}")


def _longest(infos: Mapping[str, AttackInfo], loss: str) -> str | None:
    """Of the PGD attacks on a loss, the one of the most steps; None without any."""
    found = [label for label, info in infos.items() if info.family == "pgd" and info.loss == loss and not info.targets]
    return max(found, key=lambda label: infos[label].steps, default=None)


def _single_step(row: Row) -> Iterator[Flag]:
    """Catastrophic overfitting (Wong et al. 2020): the loss is bent so that one step of the training radius misses."""
    longest = _longest(row.attack_infos, "ce")
    for single in (
        label for label, info in row.attack_infos.items() if info.family == "fgsm" and not info.targets and longest
    ):
        once, often = ~row.misclassified_under(single), ~row.misclassified_under(str(longest))
        if _mostly_overfitted(~row.clean_wrong, once, often):
            yield Flag("single-step", f"{single} leaves {percent(once)}, {longest} {percent(often)}")
    right = which_right(row.measured.get("search", {}))
    clean = which_right(row.measured.get("answers", {})).get("clean")
    if clean is None or not {"fgsm", "pgd-20"} <= set(right) or len(clean) != len(right["fgsm"]):
        return
    often = right["pgd-20"]
    clean, once = clean[: len(often)], (right["fgsm"] & clean)[: len(often)]
    if _mostly_overfitted(clean, once, often):
        shares = percent(once), percent(often)
        yield Flag("single-step", f"of {len(often)} images, fgsm leaves {shares[0]}, pgd-20 {shares[1]}")


def _mostly_overfitted(clean: np.ndarray, once: np.ndarray, often: np.ndarray) -> bool:
    """Whether most samples that are right unchanged are after one step, and few of these after many."""
    few = (once & often).sum() < (1 - OVERFITTED_SHARE) * once.sum()
    return bool(once.sum() > OVERFITTED_SHARE * clean.sum() and few and more(once, often))


def _larger_eps(row: Row, others: Sequence[Row]) -> Iterator[Flag]:
    """An attack that may go further must not break less."""
    for other in others:
        same = (other.model, other.data, other.threat.norm) == (row.model, row.data, row.threat.norm)
        if not same or not other.threat.eps < row.threat.eps or not np.array_equal(other.samples, row.samples):
            continue
        for attack in [attack for attack in row.attacks if attack in other.attacks]:
            if more(other.misclassified_under(attack), row.misclassified_under(attack)):
                shares = percent(~other.misclassified_under(attack)), percent(~row.misclassified_under(attack))
                radii = other.threat.eps_text, row.threat.eps_text
                yield Flag("order", f"{attack} leaves {shares[0]} at {radii[0]}, {shares[1]} at {radii[1]}")


def _zero_gradient(row: Row) -> Iterator[Flag]:
    for attack, info in row.attack_infos.items():
        if info.loss != "ce":
            continue
        verdicts = row.verdict_rows(attack)
        asked = verdicts["backwards"].to_numpy() > 0  # clean mistakes end before the first gradient
        zero = verdicts["zero_gradient"].to_numpy()[asked]
        if len(zero) and zero.mean() > ZERO_GRADIENT_SHARE:
            yield Flag("zero-gradient", f"{attack}: {percent(zero)} of the attacked samples, at the first step")
    search = row.measured.get("search", {})
    for name, words in (("zero_gradient", "zero"), ("nan_gradient", "not a number")):
        if (share := search.get(name, 0.0)) > ZERO_GRADIENT_SHARE:
            n = len(which_right(search).get("pgd-20", ())) or row.measured_samples
            yield Flag("zero-gradient", f"{100 * share:.0f} % of {n} images, during PGD: {words}")


def _ce_margin_gap(row: Row) -> Iterator[Flag]:
    on_ce, on_margin = (_longest(row.attack_infos, loss) for loss in ("ce", "margin"))
    if on_ce is None or on_margin is None or not row.n:
        return
    ce, margin = row.misclassified_under(on_ce), row.misclassified_under(on_margin)
    gap, differ = abs(ce.mean() - margin.mean()), (ce != margin).sum()
    # On few images a gap of 7 points may be one of 2, which honest nets have: its lower end counts too.
    least = gap - 1.96 * np.sqrt(differ) / row.n
    if gap > GAP_SHARE and least > GAP_SHARE / 2 and (more(ce, margin) or more(margin, ce)):
        yield Flag("ce-margin-gap", f"{on_ce} leaves {percent(~ce)}, {on_margin} {percent(~margin)}")


def _black_box(row: Row) -> Iterator[Flag]:
    """Black-box searches that find what gradients miss, a sign of gradient masking.

    Either a black-box stage of an ensemble breaks a significant share of the samples left to it (honest nets lose a few
    to Square), or a black-box attack breaks significantly more samples than all iterated gradient attacks together.
    """
    infos = row.attack_infos
    for attack, place in ((label, place) for label, info in infos.items() for place in range(len(info.stages))):
        if infos[attack].stages[place].uses_gradients is not False:
            continue
        verdicts = row.verdict_rows(attack)
        left = verdicts["success"].to_numpy() & (verdicts["stage"].to_numpy() == place)
        reached = left | ~row.misclassified_under(attack)
        if left.sum() > BLACK_BOX_SHARE * max(1, reached.sum()) and mcnemar(int(left.sum()), 0) < SIGNIFICANCE:
            name = infos[attack].stages[place].family.capitalize()
            yield Flag("black-box", f"{attack}: {name} broke {left.sum()} of the {reached.sum()} samples left to it")
    white = [label for label, info in infos.items() if _iterates_gradients(info)]
    broken = np.logical_or.reduce([np.zeros(row.n, bool), *map(row.misclassified_under, white)])
    for attack in (label for label, info in infos.items() if info.searches_blindly and white):
        if more(row.misclassified_under(attack), broken):
            shares = percent(~row.misclassified_under(attack)), percent(~broken)
            yield Flag("black-box", f"{attack} leaves {shares[0]}, {' and '.join(white)} {shares[1]}")


def _iterates_gradients(info: AttackInfo) -> bool:
    """Whether every part of an attack follows gradients for more than one step."""
    parts = info.stages or (info,)
    return all(part.uses_gradients is True and part.steps > 1 for part in parts)


def _unverified(row: Row) -> Iterator[Flag]:
    attacked = ~row.clean_wrong
    for attack, info in row.attack_infos.items():
        if not info.float32_search:
            continue  # a search of few bits claims too much, and goes on in float32
        if not row.misclassified_under(attack)[attacked].any():
            continue  # "rejected" says it
        refused = row.verdict_rows(attack)["refused"].to_numpy()[attacked] > 0
        if refused.mean() > UNVERIFIED_SHARE:
            yield Flag("unverified", f"{attack}: {percent(refused)} of the attacked samples")


def _fruitless(row: Row) -> Iterator[Flag]:
    """Attacks that break nothing at all: perhaps the net is that robust, but perhaps the attack does not work."""
    attacked = ~row.clean_wrong
    clean = row.clean.frame.loc[row.samples]["margin"].to_numpy()[attacked]
    for attack, info in row.attack_infos.items():
        if not attacked.any() or row.misclassified_under(attack)[attacked].any():
            continue
        verdicts = row.verdict_rows(attack)[attacked]
        # A search within eps has no distance to tell unless its image misleads the model from outside.
        outside = np.isfinite(verdicts["norm"].to_numpy()) & (info.minimum_norm is False)
        claimed = (verdicts["refused"].to_numpy() > 0) | outside
        if info.float32_search and claimed.mean() > REJECTED_SHARE:
            where = f"; {percent(outside)} outside eps or [0, 1]" if outside.any() else ""
            yield Flag(
                "rejected", f"{attack}: claims on {percent(claimed)} of the attacked samples, all refused{where}"
            )
        elif info.judges_last_image and np.allclose(verdicts["margin"].to_numpy(), clean, rtol=1e-5, atol=1e-6):
            yield Flag("unmoved", f"{attack}: all {len(clean)} attacked samples")


def _small_eps(row: Row) -> Iterator[Flag]:
    """An L2 or L1 radius that is meant for Linf: all attacks together break next to nothing."""
    small = SMALL_EPS.get(row.threat.norm, 0.0)
    if not row.attacks or row.threat.eps >= small:
        return
    broken = np.logical_or.reduce([row.misclassified_under(attack) for attack in row.attacks])
    if not more(broken, row.clean_wrong):
        usual = DEFAULT_EPS[row.threat.norm]
        yield Flag("small-eps", f"{row.threat.norm} {row.threat.eps_text} leaves {percent(~broken)}; usual is {usual}")


def _facts(row: Row) -> Iterator[Flag]:
    stored = [unit.info for unit in (row.clean, *row.attacks.values())]
    if any(info.get("randomised") for info in stored):
        yield Flag("randomised", "repeated predictions differ")
    if any(info.get("batch_dependent") for info in stored):
        yield Flag("batch-dependent", "the same images in another batch got other logits")
    if not row.measured_samples and any(info.get("sanity") is False for info in stored):
        yield Flag("unmeasured", "--no-sanity")
    for attack, unit in row.attacks.items():
        if any(run.get("copy_differs") for run in unit.info.get("runs", [])):
            yield Flag("copy-differs", f"{attack} ran on the model itself")
        if parted := sum(run.get("parted", 0) for run in unit.info.get("runs", [])):
            yield Flag("stateful", f"{attack}: {parted} images, judged by a copy that was never asked")
    predicted = {"clean": row.clean.frame.loc[row.samples]["clean_prediction"]}
    predicted |= {attack: row.verdict_rows(attack)["adversarial_prediction"] for attack in row.attacks}
    unanswered = {name: int((classes < 0).sum()) for name, classes in predicted.items()}
    if seen := [f"{name}: {count} of {row.n} images" for name, count in unanswered.items() if count]:
        yield Flag("non-finite", ", ".join(seen))
    if row.selected:
        yield Flag("selected-samples", row.samples_text)
    if row.missing_attacks:
        yield Flag("incomplete", f"{', '.join(row.missing_attacks)} missing")
    if row.contradictions:
        yield Flag("contradicted", "; ".join(row.contradictions))
    for attack in (label for label, info in row.attack_infos.items() if info.few_classes_autoattack):
        yield Flag("few-classes", f"{attack} ran")


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
    if (share := found.get("overlooked", 0.0)) > QUANTISED_SHARE:
        yield Flag("quantised", f"{100 * share:.0f} % of {row.measured_samples} images: same logits after a nudge")
    right, (_, in_range) = which_right(found), _best_range(found)
    for name in ("normalised", "denormalised") if "clean" in right else ():
        better = name in right and right[name].mean() > right["clean"].mean() + NORMALISATION_SHARE
        if better and more(right[name], right["clean"]) and right[name].mean() > in_range:
            yield Flag("normalisation", f"{percent(right[name])} right {name}, {percent(right['clean'])} as they are")


def _chance(row: Row) -> Iterator[Flag]:
    answers: dict[str, Any] = row.measured.get("answers", {})
    if not (found := answers.get("chance")):
        return
    clean, (best, share) = which_right(answers)["clean"], _best_range(answers)
    seen = f"{percent(clean)} right, chance is {100 / found['classes']:.2f} %"
    if best:
        yield Flag("chance", f"{seen}, and {100 * share:.2f} % are right with --input-range {best}")
    elif wilson(int(clean.sum()), len(clean))[1] <= 1 / found["classes"] + CHANCE_SHARE:
        yield Flag("chance", seen)


def _best_range(answers: dict[str, Any]) -> tuple[str, float]:
    """The input range in which significantly more images are right, and their share; ("", 0) without any."""
    right = which_right(answers.get("chance", {}))
    better = {name: float(each.mean()) for name, each in right.items() if more(each, which_right(answers)["clean"])}
    return max(better.items(), key=lambda item: item[1], default=("", 0.0))


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
    if (share := found.get("rising") or 0.0) > RISING_SHARE:
        yield Flag("rising-loss", f"{100 * share:.0f} % of the gain came in the last quarter of PGD-20")
    if (share := found.get("rounded") or 0.0) > ROUNDING_SHARE:
        yield Flag("rounding", f"{100 * share:.0f} % of PGD's images")
    if (share := found.get("stateful", 0.0)) > STATEFUL_SHARE:
        yield Flag("stateful", f"{100 * share:.0f} % of the images, asked before and not")
    right, clean = which_right(found), which_right(row.measured.get("answers", {})).get("clean")
    large = right.get("pgd-20 at 0.5")
    if large is not None and large.mean() > LARGE_EPS_SHARE:
        yield Flag("large-eps", f"{percent(large)} of {row.measured_samples} images")
    if "fgsm" in right and clean is not None and len(clean) == len(right["fgsm"]):
        for name, other in (("clean", clean), ("noise", right.get("noise"))):
            if other is not None and more(right["fgsm"], other):
                yield Flag("above-clean", f"fgsm {percent(right['fgsm'])} right, {name} {percent(other)}")


_CHECKS: tuple[Callable[[Row], Iterator[Flag]], ...] = (
    _order, _minimum_norm, _small_eps, _single_step, _zero_gradient, _ce_margin_gap, _black_box, _unverified,
    _fruitless, _facts, _answers, _chance, _search,
)  # fmt: skip
