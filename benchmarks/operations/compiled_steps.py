"""What ``torch.compile`` makes of an attack's own step, beside the model: is it worth its time?

    python -m benchmarks.operations.compiled_steps --out results/benchmarks

``tell`` of each attack, on the rows that it has in its fifth iteration; ``net us`` is a forward pass of the net on as
many. ``worth it after`` is how many iterations win back the compilation, without a cache and without the start of the
compiler.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import nn

from advdpnp.attacks import ATTACKS, search
from advdpnp.attacks.algorithms.auto_pgd import apgd_ce
from advdpnp.attacks.algorithms.square import square
from advdpnp.attacks.threat import ThreatModel
from advdpnp.datasets import load_dataset, to_float
from advdpnp.datasets.base import Split
from advdpnp.models.loading import load_model
from benchmarks import timing
from benchmarks.timing import Row

_ROWS, _CALLS, _ITERATION = 128, 300, 5


def _asked(attack: Any, model: nn.Module, data: Split) -> tuple[Any, ...]:
    """Arguments of ``attack.tell`` in one of its iterations."""
    seen, tell = list[tuple[Any, ...]](), attack.tell

    def told(*arguments: Any) -> Any:
        seen.append(arguments)
        return tell(*arguments)

    object.__setattr__(attack, "tell", told)
    index = torch.arange(_ROWS)
    for _ in search(model, attack, to_float(data.images), data.labels, index, seed=0, static_batch_size=_ROWS):
        pass
    object.__setattr__(attack, "tell", tell)
    return seen[_ITERATION]


def _microseconds(step: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    step(*arguments)
    began = time.process_time()
    for _ in range(_CALLS):
        step(*arguments)
    return (time.process_time() - began) / _CALLS * 1e6


@torch.no_grad()
def _row(name: str, attack: Any, model: nn.Module, data: Split) -> Row:
    arguments, step = _asked(attack, model, data), torch.compile(attack.tell)
    x = to_float(data.images[: len(arguments[1])])
    plain = _microseconds(attack.tell, arguments)
    began, clock = time.process_time(), time.monotonic()
    for _ in range(2):
        step(*arguments)
    spent, waited = time.process_time() - began, time.monotonic() - clock
    compiled, net = _microseconds(step, arguments), _microseconds(model, (x,))
    return {
        "part": "steps", "attack": name, "rows": len(x), "net us": round(net, 1), "plain us": round(plain, 1),
        "compiled us": round(compiled, 1), "ratio": round(plain / compiled, 2), "compile s": round(waited, 1),
        "worth it after": round(max(spent, waited) * 1e6 / (plain - compiled)) if plain > compiled else None,
    }  # fmt: skip


def main(
    checkpoint: Annotated[Path, typer.Argument(help="What is attacked.")] = Path(
        "results/checkpoints/cifar10-tiny-resnet-adv-dpnp-s0.safetensors"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Time the steps plain and compiled; print the table."""
    torch.set_num_threads(1)
    threat = ThreatModel.parse("linf", "8/255")
    attacks = {
        "square": square(threat, 10), "apgd-ce": apgd_ce(threat, 10),
        "pgd-20": ATTACKS.make("pgd-20", threat=threat, classes=10),
    }  # fmt: skip
    loaded = load_model(str(checkpoint))
    data = load_dataset(loaded.header["dataset"]).test.head(_ROWS)
    rows = list[Row]()
    torch.compile(torch.sin)(torch.ones(8))
    for name, attack in attacks.items():
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            rows.append(_row(name, attack, loaded.model.eval(), data))
    timing.publish(
        "operations.compiled_steps", "Steps of attacks, compiled", pd.DataFrame(rows), f"{checkpoint.stem}",
        threads=1, device=torch.device("cpu"), out=out,
    )  # fmt: skip


if __name__ == "__main__":
    timing.run_script(main)
