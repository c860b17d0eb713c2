"""An attack on all cores: our forks, which send results as they are found, against ``concurrent.futures``.

    python -m benchmarks.cluster.process_pools results/checkpoints/digits-ed-wta-s0.safetensors --limit 96

A future has one result: the share of a core in one future shows nothing, and saves nothing, before its end; small
shares are searched in small batches.
"""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from advdpnp.attacks import resolve_attacks
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.threat import ThreatModel
from advdpnp.datasets import load_dataset, to_float
from advdpnp.models.loading import load_model
from benchmarks import timing
from benchmarks.timing import Row

_BATCH = 128
_given: dict[str, Any] = {}  # model, attack, x, y: the forks have them without pickling


def _search(samples: np.ndarray) -> list[int]:
    """Attack some samples; returns those that survive."""
    index = torch.from_numpy(samples)
    x, y = _given["x"][index], _given["y"][index]
    found = search(_given["model"], _given["attack"], x, y, index, seed=0, static_batch_size=_BATCH)
    return [int(each) for part in found for each in part.sample[~part.success]]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _in_futures(shares: list[np.ndarray], cores: int) -> list[int]:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_one_thread) as pool:
        return [each for found in pool.map(_search, shares) for each in found]


def _timed(name: str, work: Callable[[], list[int]]) -> Row:
    def used() -> float:
        every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in every)

    before, began = used(), time.monotonic()
    survivors = work()
    spent = {"processor s": round(used() - before, 1), "clock s": round(time.monotonic() - began, 1)}
    return {"part": _given["attack"].name, "run": name, **spent, "robust": len(survivors)}


def main(
    checkpoint: Annotated[Path, typer.Argument(help="What is attacked.")],
    attack: Annotated[str, typer.Option(help="One name of advdpnp list attacks.")] = "autoattack",
    limit: Annotated[int, typer.Option(min=1)] = 96,
    small: Annotated[int, typer.Option(min=1, help="Samples of a small share.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Attack the first images in three ways; print the table."""
    loaded, cores = load_model(str(checkpoint)), os.cpu_count() or 1
    data = load_dataset(loaded.header["dataset"]).test.head(limit)
    threat = ThreatModel.parse("linf", "8/255")
    ((_, chosen),) = resolve_attacks(attack, threat, 10)
    _given.update(model=loaded.model, attack=chosen, x=to_float(data.images), y=data.labels)
    everything = np.arange(len(data))
    torch.set_num_threads(cores)
    rows = [
        _timed("ours", lambda: _search(everything)),
        _timed("futures, one for each core", lambda: _in_futures(np.array_split(everything, cores), cores)),
        _timed(
            f"futures of {small} samples",
            lambda: _in_futures(np.array_split(everything, max(1, limit // small)), cores),
        ),
    ]
    last = f"{checkpoint.stem}, {limit} images"
    cpu, table = torch.device("cpu"), pd.DataFrame(rows)
    timing.publish("process_pools", "One attack on all cores", table, last, threads=cores, device=cpu, out=out)


if __name__ == "__main__":
    timing.run_script(main)
