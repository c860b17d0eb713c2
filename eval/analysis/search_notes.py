"""What a row's verdicts tell beside its accuracies: the stages of ensembles, and distances of minimum-norm attacks."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from advdpnp.attacks.info import AttackInfo
from advdpnp.eval.analysis.rows import Row


def search_notes(row: Row) -> Iterator[str]:
    """Sentences about the attacks of a row.

    - An ensemble: the accuracy in percent after each of its stages, as the published AutoAttack prints it.
    - A minimum-norm attack: median and mean distance of the nearest adversarial images to the clean ones, over the
      samples that are right unchanged. Where it found none, the distance counts as infinite, and the mean is of the
      others.
    """
    place = f"{row.model.name}, {row.threat.label}"
    for attack, info in row.attack_infos.items():
        if len(info.stages) > 1 and _stages_known(row, attack):
            yield f"{place}: {attack} leaves {_stages(row, attack, info)}."
        elif info.minimum_norm:
            yield f"{place}: {attack} {_distances(row, attack)}."


def _stages_known(row: Row, attack: str) -> bool:
    """Packages do not always say which stage broke a sample."""
    found = row.misclassified_under(attack) & ~row.clean_wrong
    return bool((row.verdict_rows(attack)["stage"].to_numpy()[found] >= 0).all())


def _stages(row: Row, attack: str, info: AttackInfo) -> str:
    broken = row.misclassified_under(attack) & ~row.clean_wrong
    stage = row.verdict_rows(attack)["stage"].to_numpy()
    definition = row.attacks[attack].info["identity"]["attack"]
    told = definition.get("stages", ()) if isinstance(definition, Mapping) else ()
    names = [str(each.get("name", each.get("attack")) if isinstance(each, Mapping) else each) for each in told]
    if len(names) != len(info.stages):  # an attack that declares its stages
        names = [f"stage {number + 1}" for number in range(len(info.stages))]
    counts = {name: int((broken & (stage == number)).sum()) for number, name in enumerate(names)}
    return after_stages(row.n, int(row.clean_wrong.sum()), counts)


def after_stages(n: int, wrong: int, broken: Mapping[str, int]) -> str:
    """Accuracy in percent after each stage of an ensemble on ``n`` samples, of which ``wrong`` are so unchanged."""
    left = n - wrong
    told = []
    for name, count in broken.items():
        left -= count
        told.append(f"{100 * left / n:.2f} % after {name}")
    return ", ".join(told)


class Distances(NamedTuple):
    """Distances of the nearest adversarial images, over samples that are right unchanged.

    Attributes:
        median: those without one count as infinitely far; NaN where half of them or more are.
        mean: of those that have one; NaN where none has.
        found: how many have one.
        right: how many samples there are.
    """

    median: float
    mean: float
    found: int
    right: int


def distances(row: Row, attack: str) -> Distances:
    """What a minimum-norm attack found."""
    norms = row.verdict_rows(attack)["norm"].to_numpy()[~row.clean_wrong]
    found = norms[np.isfinite(norms)]
    median = float(np.median(norms)) if len(found) > len(norms) / 2 else np.nan
    return Distances(median, float(found.mean()) if len(found) else np.nan, len(found), len(norms))


def _distances(row: Row, attack: str) -> str:
    told = distances(row, attack)
    if not told.found:
        return "found no adversarial image"
    median = "" if np.isnan(told.median) else f"median {told.median:.4g}, "
    return f"has distances of {median}mean {told.mean:.4g} ({told.found} of {told.right} images)"
