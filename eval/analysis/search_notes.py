"""What a row's verdicts tell beside its accuracies: the stages of ensembles, and distances of minimum-norm attacks."""

from collections.abc import Iterator

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
    verdicts, left = row.verdict_rows(attack), ~row.clean_wrong
    broken, stage = row.misclassified_under(attack), verdicts["stage"].to_numpy()
    told = []
    for number, each in enumerate(info.stages):
        left = left & ~(broken & (stage == number))
        name = "-".join(filter(None, (each.family, each.loss if each.family == "apgd" else "")))
        told.append(f"{100 * left.mean():.2f} % after {name}")
    return ", ".join(told)


def _distances(row: Row, attack: str) -> str:
    norms = row.verdict_rows(attack)["norm"].to_numpy()[~row.clean_wrong]
    if not np.isfinite(norms).any():
        return "found no adversarial image"
    found = norms[np.isfinite(norms)]
    median = f"median {np.median(norms):.4g}, " if len(found) > len(norms) / 2 else ""
    return f"has distances of {median}mean {found.mean():.4g} ({len(found)} of {len(norms)} images)"
