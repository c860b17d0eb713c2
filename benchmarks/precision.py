"""What a search in low precision changes: the same attack on the same images, searched in float32 and in bf16 or tf32.

    python -m benchmarks.precision --weights-folder data/checkpoints --samples 200 --out results/benchmarks
    python -m benchmarks.precision --weights-folder data/checkpoints --speed --out precision-speed.csv

``--speed`` times a forward and backward pass to the image on one thread instead, as ``--precision auto`` does.
Both searches count a success in float32 only. ``refused`` are successes of the low-precision search that float32 took
back (their rows went on); ``only 32 breaks`` and ``only low breaks`` are the images on which the two end differently,
``p`` is McNemar's exact test on them. The difference between two seeds of one search is of the same kind.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor, nn

from advdpnp.attacks import ATTACKS, AttackResult, ThreatModel, search
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.precision import FLOAT32, check_precision, fastest_precision
from advdpnp.base.devices import single_threaded
from advdpnp.base.statistics import mcnemar
from advdpnp.datasets import load_dataset, to_float
from advdpnp.eval.run.components import STATIC_BATCH_SIZES
from advdpnp.models.loading import load_model
from benchmarks import timing
from benchmarks.attacks import NETS, UNTRAINED, untrained

SHARED = NETS | {"cifar_wide": ("benchmarks.public_models:cifar_wide", "cifar_wide.pth", "2/255")}


def compare(net: str, attack: str, low: str, weights_folder: Path, samples: int, device: str) -> Iterator[timing.Row]:
    """Two lines: searched in float32, and in the precision ``low``."""
    eps, data = SHARED[net][2], load_dataset("cifar10", train=False)
    model = _model(net, weights_folder).to(device)
    x, y, threat = to_float(data.test.images[:samples]), data.test.labels[:samples], ThreatModel.parse("linf", eps)
    broken: dict[str, Tensor] = {}
    for precision in (FLOAT32, low):
        begin = time.perf_counter()
        method = ATTACKS.make(attack, threat=threat, classes=10)
        settings = {"seed": 0, "static_batch_size": STATIC_BATCH_SIZES["cpu"], "device": device, "precision": precision}
        found = AttackResult.concatenate(list(search(model, method, x, y, torch.arange(len(x)), **settings)))
        seconds = time.perf_counter() - begin
        broken[precision] = found.success[found.sample.argsort()]
        row: timing.Row = {
            "part": attack, "case": f"{net}, {threat.label}", "variant": f"{precision} search", "images": len(x),
            "robust": f"{100 * float((~found.success).double().mean()):.2f}",
            "forwards": int(found.forwards.sum()), "seconds": seconds,
        }  # fmt: skip
        if precision != FLOAT32:
            only = [int((broken[a] & ~broken[b]).sum()) for a, b in ((FLOAT32, low), (low, FLOAT32))]
            row |= {"refused": int(found.refused.sum()), "only 32 breaks": only[0], "only low breaks": only[1]}
            row |= {"p": mcnemar(*only)}
        yield row


def speed(net: str, weights_folder: Path, device: torch.device) -> Iterator[timing.Row]:
    """A line for each number of rows: milliseconds of processor time in each precision, and what auto takes."""
    model, x = _model(net, weights_folder), to_float(load_dataset("cifar10", train=False).test.images[:128])
    for rows in (32, 128):
        with evaluation_mode(model.to(device)), single_threaded():
            choice = fastest_precision(model, x, rows, device)
        times = choice.milliseconds
        row: timing.Row = {"part": "speed", "case": net, "rows": choice.rows, "auto takes": choice.precision}
        for name in times:
            row |= {f"ms in {name}": times[name]} | ({} if name == FLOAT32 else {name: times[FLOAT32] / times[name]})
        yield row


def _model(net: str, weights_folder: Path) -> nn.Module:
    if net == UNTRAINED:
        return untrained()
    spec, weights, _ = SHARED[net]
    data = load_dataset("cifar10", train=False)
    loaded = load_model(spec, weights=weights_folder / weights if weights else None, dataset=data)
    return loaded.model.eval().requires_grad_(False)


def main(
    weights_folder: Annotated[Path, typer.Option(help="Where the weights of the public nets are.")] = Path(
        "data/checkpoints"
    ),
    nets: Annotated[str, typer.Option(help=f"Of {', '.join(SHARED)}.")] = ",".join(SHARED),
    attack: Annotated[str, typer.Option(help="As advdpnp eval takes it.")] = "autoattack",
    precision: Annotated[str, typer.Option(help="bf16 or tf32.")] = "bf16",
    samples: Annotated[int, typer.Option(min=8, help="CIFAR-10 test images.")] = 200,
    device: str = "cpu",
    times: Annotated[bool, typer.Option("--speed", help="Time passes instead of searching.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Compare on every net, and print the largest difference in the last line."""
    low, place = check_precision(precision, torch.device(device)), torch.device(device)
    rows: list[timing.Row] = []
    if times:
        for net in nets.split(","):
            rows += speed(net, weights_folder, place)
        last = "Two columns of each lower precision: milliseconds, and how many times as fast it is"
        timing.publish(
            "precision", "Speed of low precision", pd.DataFrame(rows), last, threads=1, device=place, out=out
        )
        return
    for net in nets.split(","):
        rows += compare(net, attack, low, weights_folder, samples, device)
        print(pd.DataFrame(rows[-2:]).to_string(index=False), flush=True)
    frame = pd.DataFrame(rows)
    robust = frame["robust"].astype(float).to_numpy().reshape(-1, 2)
    last = f"largest difference: {abs(robust[:, 0] - robust[:, 1]).max():.2f} points, smallest p {frame['p'].min():.2f}"
    timing.publish(
        "precision", "Searches in low precision", frame, last, threads=torch.get_num_threads(),
        device=torch.device(device), out=out,
    )  # fmt: skip


if __name__ == "__main__":
    timing.run_script(main)
