"""One evaluation by several processes: each evaluates a share of the samples, the first collects the verdicts.

    torchrun --nproc-per-node 4 -m advdpnp eval ...        or        srun -n 4 advdpnp eval ...

The processes communicate through the results folder alone, which all must see: process R writes below
``OUT/.shards/R``, and the first collects from there. It evaluates the share of a process that has died. No verdict
depends on the other samples of its batch, so the number of processes changes no verdict.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import folder_lock
from advdpnp.eval.store.model_folder import ModelFolder

FOLDER = ".shards"
_VARIABLES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Shard:
    """Which of how many processes this is.

    Attributes:
        rank: from 0; the first one collects.
        world: how many there are.
        local: its number on this machine, which is also the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process collects, prints and writes the tables."""
        return self.rank == 0

    def share(self, samples: np.ndarray) -> np.ndarray:
        """The samples of this process: every ``world``-th one."""
        return samples[self.rank :: self.world]

    def folder(self, out: Path) -> Path:
        """Where this process writes below the results folder ``out``."""
        return out if self.first else out / FOLDER / str(self.rank)


ALONE = Shard()


def shard_of_environment() -> Shard:
    """The shard that torchrun or SLURM set in the environment; without them, one process.

    Raises:
        AdvdpnpError: their variables are not numbers, or contradict each other.
    """
    for names in _VARIABLES:
        texts = [os.environ.get(name, "0" if name == names[2] else "") for name in names]
        if not texts[0] or not texts[1]:
            continue
        try:
            rank, world, local = map(int, texts)
        except ValueError:
            rank, world, local = -1, 0, 0
        if not 0 <= rank < world:
            raise AdvdpnpError(
                f"{names[0]}={texts[0]} and {names[1]}={texts[1]} are no place among processes; unset them"
            )
        if world > 1:
            return Shard(rank, world, local)
    return ALONE


@contextmanager
def at_work(shard: Shard, out: Path) -> Iterator[None]:
    """Hold a lock that shows the first process that this one is alive; the operating system frees it at its death."""
    if shard.first:
        yield
        return
    with folder_lock(shard.folder(out), timeout=10.0):
        yield


class NoPeers:
    """The other processes of an evaluation by one process: there are none."""

    def folders(self) -> list[ModelFolder]:
        """Where other processes, of this run or of an earlier one, have stored results of a model."""
        return []

    def any_alive(self) -> bool:
        """Whether to wait for one of them."""
        return False


class Peers(NoPeers):
    """The other processes as the first one sees them.

    Args:
        shard: which process this is.
        out: the results folder.
        own: the model's folder of this process.
        patience: seconds after which a process that was never seen is dead.
    """

    def __init__(self, shard: Shard, out: Path, own: ModelFolder, patience: float) -> None:
        self._out, self._own, self._patience = out, own, patience
        self._ranks = range(1, shard.world) if shard.first else range(0)
        self._seen: set[int] = set()
        self._begun = time.monotonic()

    def folders(self) -> list[ModelFolder]:
        return [self._own.below(path) for path in sorted((self._out / FOLDER).glob("*")) if path.is_dir()]

    def any_alive(self) -> bool:
        return any(self._alive(rank) for rank in self._ranks)

    def _alive(self, rank: int) -> bool:
        lock = FileLock(self._out / FOLDER / str(rank) / ".lock")
        try:
            if Path(lock.lock_file).parent.is_dir():
                lock.acquire(timeout=0)
                lock.release()
        except Timeout:
            self._seen.add(rank)
            return True
        return rank not in self._seen and time.monotonic() - self._begun < self._patience
