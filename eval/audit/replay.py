"""Search some samples of an evaluation again, and compare the verdicts.

The engine is exact: on a machine like the one that made them, what is found for a sample does not depend on which
others are searched, so all that is stored of it must come out the same. Samples that are claimed robust are drawn
first: that nothing breaks them is what no stored image can show.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from advdpnp.attacks.criteria import TARGETS, Targeted
from advdpnp.attacks.engine.precision import FLOAT32, SEARCH_VERSION
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.names import resolve_attacks
from advdpnp.attacks.protocol import Attack, aim
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import corruption_cells
from advdpnp.corruption.source import as_bytes
from advdpnp.datasets import to_float
from advdpnp.eval.audit.images import Auditor, static_batch_size_of
from advdpnp.eval.run.tasks import ENGINE
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.eval.store.rules.identity import parts_of
from advdpnp.eval.store.schema import FOUND

_CHANCE = 0.05  # of missing a fraud, below which it counts as one that would have been noticed
_HONEST, _SURELY = 0.02, 0.01  # on another machine, this share may differ; more than that by chance in so few cases


@dataclass(frozen=True)
class Replay:
    """What came of one evaluation.

    Attributes:
        unit: the evaluation.
        samples: which samples were searched again (int64).
        claimed: how many samples the evaluation claims to be robust.
        robust: how many of these were searched again.
        faults: what differs, by sample.
        unsettled: the same, where this machine or this model may decide otherwise.
        why_not: why nothing was searched; "" otherwise.
        suspect: whether that is so because of what the evaluation says of itself.
    """

    unit: StoredEvaluation
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    claimed: int = 0
    robust: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    unsettled: dict[int, str] = field(default_factory=dict)
    why_not: str = ""
    suspect: bool = False

    @property
    def settled(self) -> list[int]:
        """Samples that were searched again and came out as stored."""
        return [n for n in self.samples.tolist() if n not in self.faults and n not in self.unsettled]

    @property
    def noticed(self) -> tuple[int, float]:
        """The fewest false claims that would have been missed with a chance below 5 %, and this chance."""
        for false in range(1, self.claimed + 1):
            chance = chance_of_missing(self.claimed, false, self.robust)
            if chance < _CHANCE:
                return false, chance
        return 0, 1.0


def chance_of_missing(claimed: int, false: int, searched: int) -> float:
    """The chance that none of ``false`` wrong ones among ``claimed`` samples is among ``searched`` drawn ones."""
    return math.comb(claimed - false, searched) / math.comb(claimed, searched)


class Replayer:
    """Searches samples of one model's evaluations again.

    Args:
        auditor: of the model.
        count: how many samples of each evaluation; None for all.
        seed: of the draw. The auditor chooses it, so that nobody knows beforehand which samples will be drawn.
        alike: whether this machine gives the same bits as the one that made the verdicts.
    """

    def __init__(self, auditor: Auditor, count: int | None, seed: int, *, alike: bool) -> None:
        self.auditor, self.count, self.seed, self.alike = auditor, count, seed, alike

    def replay(self, unit: StoredEvaluation) -> Replay:
        """Search, or judge corrupted images, again."""
        samples = self._draw(unit)
        try:
            found = self._corrupted(unit, samples) if unit.corrupted else self._searched(unit, samples)
        except AdvdpnpError as error:
            ours = not unit.corrupted and ":" not in unit.label and "package" not in unit.record.identity["attack"]
            return Replay(unit, why_not=str(error), suspect=ours)
        stored = unit.frame.loc[found["sample"]].reset_index(drop=True)
        faults, unsettled = self._compare(unit, stored, found)
        robust = ~unit.column("success")
        again = int((~stored["success"]).sum())
        return Replay(unit, samples, int(robust.sum()), again, faults, unsettled)

    def _draw(self, unit: StoredEvaluation) -> np.ndarray:
        """Samples (int64, sorted), those that are claimed robust first."""
        random = np.random.default_rng([self.seed, int(unit.hash, 16)])
        broken = unit.column("success")
        order = np.concatenate([random.permutation(unit.samples[broken == side]) for side in (False, True)])
        return np.sort(order[: len(order) if self.count is None else self.count])

    def _searched(self, unit: StoredEvaluation, samples: np.ndarray) -> pd.DataFrame:
        """What the engine finds, with the columns of ``FOUND``, sorted.

        Raises:
            AdvdpnpError: it cannot be searched as it was.
        """
        identity, auditor = unit.record.identity, self.auditor
        precision = identity.get("precision", "float32")
        if identity.get("engine") != ENGINE or ("search" in precision and f"search {SEARCH_VERSION}," not in precision):
            raise AdvdpnpError("another version of the engine made it")
        attack, precision = attack_of(unit, auditor.classes)
        results = search(
            auditor.model, attack, auditor.images(samples), auditor.split.some_labels(samples),
            torch.from_numpy(samples), seed=unit.seed or 0, static_batch_size=static_batch_size_of(unit),
            device=auditor.device, randomised=bool(identity.get("randomised")), precision=precision,
            budget=identity.get("budget"), unasked=auditor.unasked,
        )  # fmt: skip
        parts = [pd.DataFrame({name: getattr(each, name).numpy() for name in FOUND.names}) for each in results]
        return pd.concat(parts).sort_values("sample", ignore_index=True)

    def _corrupted(self, unit: StoredEvaluation, samples: np.ndarray) -> pd.DataFrame:
        made: dict[str, Any] = unit.record.identity["corruption"]
        name, severity = made["corruption"], made["severity"]
        mode = "regenerated" if "seed" in made else "auto"
        data = as_bytes(self.auditor.dataset)
        source = corruption_cells(mode, data, self.auditor.data_root, int(made.get("seed", 0)), types=[name])
        if source is None or source.definition(name, severity) != made:
            raise AdvdpnpError(f"the images of {unit.label} are not here, or are made otherwise")
        images = to_float(source.images(name, severity, torch.from_numpy(samples)).cpu())
        labels = self.auditor.split.some_labels(samples)
        predicted, near, _ = self.auditor.ask(images, labels, static_batch_size_of(unit), 0)
        classes = predicted.numpy()
        return pd.DataFrame(
            {"sample": samples, "clean_prediction": classes, "success": classes != labels.numpy(),
             "borderline": near.numpy()}
        )  # fmt: skip

    def _compare(
        self, unit: StoredEvaluation, stored: pd.DataFrame, found: pd.DataFrame
    ) -> tuple[dict[int, str], dict[int, str]]:
        """What differs by sample: faults, and what is not settled."""
        exact = self.alike and not self.auditor.caution
        # A minimum-norm search may have been read at a smaller radius than the one it was made at.
        whole = exact and not unit.corrupted and not unit.attack_info.minimum_norm
        differs = {name: _differs(stored[name], found[name]) for name in found.columns if name != "sample"}
        if unit.corrupted:
            differs.pop("borderline")  # here: nearly tied
        turned = differs["success"]
        faults: dict[int, str] = {}
        unsettled: dict[int, str] = {}
        for place in np.flatnonzero(turned):
            claimed = "broken" if stored["success"][place] else "robust"
            now = "is broken" if found["success"][place] else "is not broken"
            why = f"the verdict says {claimed}; searched again, it {now}"
            (faults if exact else unsettled)[int(found["sample"][place])] = why
        if whole:
            for name, which in differs.items():
                for place in np.flatnonzero(which & ~turned):
                    why = f"its {name} is {stored[name][place]}; searched again, {found[name][place]}"
                    faults.setdefault(int(found["sample"][place]), why)
        if not exact and not self.auditor.caution and _too_many(int(turned.sum()), len(found)):
            return {**faults, **unsettled}, {}
        return faults, unsettled


def attack_of(unit: StoredEvaluation, classes: int) -> tuple[Attack | AttackEnsemble, str]:
    """The attack of an evaluation, and the precision of its search.

    Raises:
        AdvdpnpError: this version does not have it, or it belongs to another package or needs another model.
    """
    name, precision, _, targets = parts_of(unit.label)
    if ":" in name or "package" in unit.record.identity["attack"]:
        raise AdvdpnpError("other packages see all images at once, and transfers need the other model")
    if targets not in ("", *TARGETS) or unit.threat is None:
        raise AdvdpnpError("its targets are the caller's")
    threat = ThreatModel(unit.threat.norm, unit.threat.eps, unit.threat.eps_text)
    ((_, attack),) = resolve_attacks([name], threat, classes)
    attack = aim(attack, Targeted(targets)) if targets else attack
    if not isinstance(attack, Attack | AttackEnsemble) or attack.definition() != unit.record.identity["attack"]:
        raise AdvdpnpError("this version defines the attack otherwise")
    return attack, precision or FLOAT32


def _differs(stored: pd.Series, found: pd.Series) -> np.ndarray:
    return np.asarray((stored != found) & ~(stored.isna() & found.isna()))


def _too_many(different: int, n: int) -> bool:
    """Whether more samples differ than rounding on another machine explains."""
    from scipy.special import bdtrc

    return different > 0 and float(bdtrc(different - 1, n, _HONEST)) < _SURELY
