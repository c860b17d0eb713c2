"""A leaderboard of hundreds of models: processor seconds, peak memory, and the size of the page.

The models are those of ``results/cifar10`` under new names and hashes, each with the verdicts of four attacks and 75
corruptions on 1,000 images. ``python -m benchmarks.many_models --models 10,100,300``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.index import INDEX, checksum
from benchmarks import timing

_SOURCE = Path(__file__).parents[2] / "results" / "cifar10"


def build(out: Path, models: int, source: Path = _SOURCE) -> None:
    """Make a results folder of so many models; verdicts are hard links where the file system has them."""
    originals = sorted(path.parent for path in source.glob("*/model.json"))
    if not originals:
        raise AdvdpnpError(f"there are no models in {source}; name a folder of results with --source")
    for number in range(models):
        original = originals[number % len(originals)]
        name = f"{original.name.rpartition('-')[0]}-{number:03d}"
        weights = sha256(f"{original.name} {number}".encode()).hexdigest()
        folder = out / f"{name}-{weights[:8]}"
        folder.mkdir(parents=True)
        model = json.loads((original / "model.json").read_text(encoding="utf-8"))
        # Else 300 nets would be many seeds of nine recipes.
        said = {"name": name, "weights_hash": weights, "recipe_hash": weights[:8], "training_seed": 0}
        (folder / "model.json").write_text(json.dumps(model | said), encoding="utf-8")
        _write_index(original / INDEX, folder / INDEX, weights)
        for path in original.glob("*.parquet"):
            try:
                os.link(path, folder / path.name)
            except OSError:
                (folder / path.name).write_bytes(path.read_bytes())


def _write_index(original: Path, path: Path, weights: str) -> None:
    content: dict[str, Any] = json.loads(original.read_text(encoding="utf-8"))
    content["weights"] = weights
    for measured in content["diagnostics"]:
        measured["weights"] = weights
    said = {name: value for name, value in content.items() if name not in ("format", "sha256")}
    path.write_text(json.dumps(content | {"sha256": checksum(said)}), encoding="utf-8")


def measure(models: int, source: Path) -> dict[str, object]:
    """One row: the command in a process of its own."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary:
        results = Path(temporary) / "results"
        build(results, models, source)
        began = time.monotonic()
        program = "import sys; from advdpnp.cli import run; sys.exit(run(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "leaderboard", str(results), "--out", f"{temporary}/table"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise AdvdpnpError(
                f"the leaderboard of {models} models fails with exit code {os.waitstatus_to_exitcode(status)}"
            )
        page = Path(temporary) / "table" / "leaderboard.html"
        return {
            "part": "advdpnp leaderboard",
            "models": models,
            "processor s": round(used.ru_utime + used.ru_stime, 1),
            "clock s": round(time.monotonic() - began, 1),
            "peak MB": round(used.ru_maxrss / 1024),
            "page MB": round(page.stat().st_size / 1e6, 2),
        }


def main(
    models: Annotated[str, typer.Option(help="Numbers with commas.")] = "10,100,300",
    source: Annotated[Path, typer.Option(help="Results whose models are copied.")] = _SOURCE,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Measure the leaderboards and print the table."""
    rows = []
    for number in (int(text) for text in models.split(",")):
        rows.append(measure(number, source))
        print(rows[-1], file=sys.stderr, flush=True)
    last = "each model: 4 attacks and 75 corruptions on 1,000 images"
    cpu = torch.device("cpu")
    timing.publish(
        "many_models", "Leaderboards of many models", pd.DataFrame(rows), last, threads=1, device=cpu, out=out
    )


if __name__ == "__main__":
    timing.run_script(main)
