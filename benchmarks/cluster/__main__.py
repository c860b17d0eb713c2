"""An evaluation on a thousand workers in virtual time: how long they wait, and what the driver has to do.

    python -m benchmarks.cluster --out results/benchmarks

Nothing is attacked: a piece sleeps, in virtual time, as long as its samples cost, and pieces are cut as
``eval/run/cluster/pieces.py`` cuts them. What a sample costs is drawn from the stored verdicts of AutoAttack on this
repository's nets (``results/``). Messages, parts and completed evaluations are counted; the time that the driver needs
for one is measured by writing real parts and real evaluations.
"""

import heapq
import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from advdpnp.attacks.threat import ThreatModel
from advdpnp.eval.run.cluster.pieces import Group
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.model_folder import open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import find_results
from advdpnp.eval.store.schema import FOUND
from benchmarks import timing
from benchmarks.timing import Row

EVALUATIONS_PER_SECOND = 30_000.0  # assumed: a ResNet-18 on a current GPU
LOADING = 5.0  # assumed: seconds until a worker has another model
BATCH = 256


def costs() -> np.ndarray:
    """Model evaluations of each sample under AutoAttack, as stored in ``results/``."""
    found = [
        unit.frame["forwards"].to_numpy() + unit.frame["backwards"].to_numpy()
        for unit in find_results([Path("results")])
        if unit.label == "autoattack"
    ]
    return np.concatenate(found)


def seconds_of_driver(rows: int, parts: int) -> tuple[float, float]:
    """Processor time to store one part of ``rows`` verdicts, and to complete an evaluation of so many parts."""
    key = EvaluationKey("autoattack", "data", ThreatModel.parse("linf", "8/255"), {"seed": 0})
    record = ModelRecord("net", "0" * 64, "net", "", 1, ("a", "b"), "data")
    names = {field.name: field.type.to_pandas_dtype() for field in FOUND}
    with tempfile.TemporaryDirectory() as folder, open_model(Path(folder), record) as store:
        samples = np.arange(rows * parts)
        began = time.process_time()
        with store.writer(key, samples, {"device": "x"}) as writer:
            for part in np.split(samples, parts):
                columns = {name: np.zeros(rows, kind) for name, kind in names.items()}
                writer.add(columns | {"sample": part}, seconds=1.0)
            stored = time.process_time()
    return (stored - began) / parts, time.process_time() - stored


def simulate(workers: int, models: int, images: int, seed: int) -> Row:
    """One evaluation in virtual time, without failures; every worker takes what ``Driver`` would give it."""
    draw, known = np.random.default_rng(seed), costs()
    per_sample = [draw.choice(known, images) for _ in range(models)]
    longest, each = float(known.max()), 1 / EVALUATIONS_PER_SECOND
    # As if half of the images survived.
    groups = [Group([(str(model), np.arange(images))], longest, 0.5, each) for model in range(models)]
    waiting, held = list(range(models)), [-1] * workers
    at_work = [0] * models
    idle = [(0.0, worker) for worker in range(workers)]
    busy, sizes, ended, longest = 0.0, list[int](), 0.0, 0.0
    while idle:
        now, worker = heapq.heappop(idle)
        model = held[worker]
        if model >= 0:
            at_work[model] -= 1
        if model < 0 or not groups[model].rows_left:
            able = [number for number in range(models) if groups[number].rows_left]
            if waiting:
                model = waiting.pop(0)
            elif able:
                model = max(able, key=lambda number: groups[number].cost_left / (1 + at_work[number]))
            else:
                continue
        left = np.inf if waiting else sum(group.cost_left for group in groups)
        samples = groups[model].cut(left, workers, BATCH, BATCH).samples
        cost = per_sample[model][samples]
        # A batch is full while rows wait; its last rows run in a batch that is padded.
        steps = max(int(cost.sum()), BATCH * int(cost.max()))
        took = steps * each + (LOADING if held[worker] != model else 0.0)
        groups[model].observe(len(samples), int(cost.sum()), took)
        held[worker] = model
        at_work[model] += 1
        busy, longest = busy + took, max(longest, took)
        sizes.append(len(samples))
        heapq.heappush(idle, (now + took, worker))
        ended = max(ended, now + took)
    return {
        "part": "autoattack",
        "workers": workers,
        "models": models,
        "hours": round(ended / 3600, 3),
        "idle %": round(100 * (1 - busy / (workers * ended)), 2),
        "pieces": len(sizes),
        "samples of a piece": round(float(np.mean(sizes))),
        "longest piece, s": round(longest),
        "messages per second": round(2 * len(sizes) / ended, 2),
    }


def main(
    workers: Annotated[int, typer.Option(min=1)] = 1000,
    models: Annotated[int, typer.Option(min=1)] = 300,
    images: Annotated[int, typer.Option(min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the costs of samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Simulate fewer and fewer workers; print the table."""
    rows = []
    for count in sorted({workers, max(1, workers // 10), max(1, workers // 100)}):
        part, complete = seconds_of_driver(BATCH, max(1, images // BATCH))
        row = simulate(count, models, images, seed)
        each = float(row["pieces"]) * part + models * complete
        row |= {"driver busy %": round(100 * each / (3600 * float(row["hours"])), 2)}
        row |= {"part, ms": round(1000 * part, 2), "evaluation, ms": round(1000 * complete)}
        rows.append(row)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    last = f"peak memory of this program, which holds the pieces and the costs of all samples: {memory:.2f} GiB"
    table = pd.DataFrame(rows)
    cpu = torch.device("cpu")
    timing.publish("cluster", "A large cluster, simulated", table, last, threads=1, device=cpu, out=out)


if __name__ == "__main__":
    timing.run_script(main)
