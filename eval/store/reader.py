"""Verdict files read back: every complete evaluation below a folder, with the model it is about."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from advdpnp.attacks.info import AttackInfo, info_of
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.key import short_hash
from advdpnp.eval.store.model_record import ModelRecord, read_model_record
from advdpnp.eval.store.schema import Verdicts, read_verdicts


class Threat(NamedTuple):
    """A threat model as verdicts name it; for rows without attacks ("", nan, "")."""

    norm: str
    eps: float
    eps_text: str

    @property
    def label(self) -> str:
        """ "linf 8/255", or "no attack"."""
        return f"{self.norm} {self.eps_text}" if self.norm else "no attack"


NO_THREAT = Threat("", float("nan"), "")


@dataclass(frozen=True)
class StoredEvaluation:
    """One complete verdict file and the model it is about."""

    model: ModelRecord
    verdicts: Verdicts

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Verdicts with ``sample`` as the index."""
        return self.verdicts.frame.set_index("sample", drop=False)

    @cached_property
    def samples(self) -> np.ndarray:
        """Sorted sample indices, int64."""
        return self.verdicts.frame["sample"].to_numpy()

    def _constant(self, column: str) -> Any:
        value = self.verdicts.frame[column].iloc[0]
        return None if pd.isna(value) else value

    @cached_property
    def label(self) -> str:
        """ "clean", the attack, or "corruption/fog/3"."""
        return str(self.verdicts.info["identity"]["label"])

    @cached_property
    def data(self) -> str:
        """Hash of the data."""
        return str(self._constant("data"))

    @cached_property
    def hash(self) -> str:
        """Hash of the unit's definition."""
        return str(self._constant("definition"))

    @cached_property
    def threat(self) -> Threat | None:
        """None for clean images and corruptions."""
        norm = self._constant("threat_norm")
        return (
            None if norm is None else Threat(str(norm), float(self._constant("eps")), str(self._constant("eps_text")))
        )

    @cached_property
    def comparison_key(self) -> str:
        """Hash of what the unit asks of any model: its definition, less what only says how the model was run.

        The data, the threat model and the seed are compared by themselves. The shape of model calls moves last bits.
        Without an attack nothing is searched, so the engine does not matter.
        """
        beside = {"data", "threat", "seed", "shape", "randomised"} | (set() if self.threat else {"engine"})
        return short_hash({key: value for key, value in self.info["identity"].items() if key not in beside})

    @property
    def source(self) -> str:
        """Of the corrupted images: "cifar10-c" or "cifar10-c (regenerated)"; "" for all else."""
        return str(self.info["identity"].get("source", ""))

    @property
    def is_clean(self) -> bool:
        """Whether it holds the answers to the clean images: no attack, no corruption."""
        return self.threat is None and self.cell is None

    @property
    def cell(self) -> tuple[str, int] | None:
        """The corruption and its severity; None for what is no corruption."""
        made = self.info["identity"].get("corruption")
        return (str(made["corruption"]), int(made["severity"])) if made else None

    @cached_property
    def attack_info(self) -> AttackInfo:
        """What the attack is, whatever it is called; says nothing for clean images and corruptions."""
        return info_of(self.info["identity"], self.info.get("attack_info"))

    @property
    def info(self) -> dict[str, Any]:
        """The JSON metadata of the file."""
        return self.verdicts.info

    @property
    def seed(self) -> int | None:
        """Of the search; None for what draws nothing."""
        seed = self.info.get("seed")
        return None if seed is None else int(seed)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.info.get("dataset") or "")

    @property
    def last_run(self) -> dict[str, Any]:
        """Versions, device, command, date of the latest run that added to it."""
        return dict(self.info["runs"][-1])

    @property
    def date(self) -> str:
        """ISO 8601, of the latest run."""
        return str(self.last_run.get("date", ""))

    @property
    def seconds(self) -> float:
        """Time spent in all runs."""
        return float(sum(run["seconds"] for run in self.info["runs"]))


def find_results(folders: Iterable[Path]) -> list[StoredEvaluation]:
    """All complete verdict files in or below these folders.

    Raises:
        AdvdpnpError: a folder does not exist or holds no results, or a file is damaged.
    """
    units: dict[Path, StoredEvaluation] = {}
    for folder in folders:
        found = {}
        for path in find_models(folder):
            identity = read_model_record(path)
            for file in sorted(path.parent.glob("*.parquet")):
                verdicts = read_verdicts(file)
                strangers = set(verdicts.frame["weights"].unique()) - {identity.weights_hash}
                if strangers:
                    raise AdvdpnpError(
                        f"{file} holds verdicts of another model than {path.name} beside it tells; move it back or "
                        "delete it"
                    )
                found[file.resolve()] = StoredEvaluation(identity, verdicts)
        found = {path: unit for path, unit in found.items() if len(unit.samples)}
        if not found:
            raise _nothing_in(folder, "only unfinished evaluations")
        units.update(found)
    return list(units.values())


def find_models(folder: Path) -> list[Path]:
    """The ``model.json`` of every model in or below a folder.

    Raises:
        AdvdpnpError: the folder does not exist or holds none.
    """
    if not folder.is_dir():
        raise AdvdpnpError(f"there is no folder {folder}; give one that 'advdpnp eval --out' has written")
    # os.walk minds no folder that an evaluation removes meanwhile.
    found = sorted(Path(each, "model.json") for each, _, names in os.walk(folder) if "model.json" in names)
    if not found:
        raise _nothing_in(folder, "no results")
    return found


def _nothing_in(folder: Path, what: str) -> AdvdpnpError:
    return AdvdpnpError(f"there are {what} in {folder}; run 'advdpnp eval ... --out {folder}' first")
