"""Time of attacks: our engine against pyautoattack and torchattacks, and where the time goes.

    python -m benchmarks.attacks --weights-folder data/checkpoints --threads 2 --out results/benchmarks

Each side of a comparison works in fresh processes of its own, in turns (ours, ours with ``--precision auto``, theirs),
on the same images, as its users would run it; imports, loading and a small warm-up are not timed. ``seconds`` is the
median over the turns, ``ratio`` the median of theirs over ours in the same turn, ``cpu ratio`` the same of the
processor's seconds of all processes: where others want the cores too, it is the steadier one. What each left robust
is beside it, for speed bought with quality is none. ``floor`` is what the processor needs for the multiplications
alone: those of every forward and backward that our rows made, over the speed of a large matrix product.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from advdpnp.attacks import ATTACKS, AttackResult, ThreatModel, search
from advdpnp.attacks.engine.precision import FLOAT32
from advdpnp.attacks.protocol import RunOptions
from advdpnp.attacks.rows import Batch
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import load_dataset, to_float
from advdpnp.eval.run.components import STATIC_BATCH_SIZES, choose_precision
from advdpnp.models.loading import load_model
from advdpnp.models.network import ModelConfig, build_model
from benchmarks import timing
from benchmarks.parity import STAGES, theirs
from benchmarks.timing import Row

OURS, AUTO, THEIRS = "advdpnp", "advdpnp auto", "package"
UNTRAINED = "resnet18"
"""A ResNet-18 with random weights: a net of usual size for times alone. Its labels are its own predictions."""
NETS = {
    "cifar_cnn_a": ("benchmarks.public_models:cifar_cnn_a", "cifar_cnn_a_adv.model", "2/255"),
    "resnet2b": ("benchmarks.public_models:resnet2b", "resnet2b.pth", "2/255"),
    "tiny-resnet": ("results/checkpoints/cifar10-tiny-resnet-adv-dpnp-s0.safetensors", None, "8/255"),
    "resnet20": ("benchmarks.public_models:resnet20", "resnet20-12fca82f.th", "8/255"),
}


@dataclass(frozen=True)
class Job:
    """One timed run in a process of its own.

    Attributes:
        attack: "autoattack" or "pgd-20".
        side: OURS, AUTO or THEIRS.
        eps: another one than that of the net; a tiny one leaves all rows robust, the longest search there is.
        stages: of our AutoAttack, time each alone on what the ones before it left.
    """

    net: str
    attack: str
    side: str
    weights_folder: str
    samples: int
    threads: int
    device: str
    eps: str | None = None
    stages: bool = False


def run_job(job: Job) -> dict[str, Any]:
    """Seconds and number of robust images."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    model, x, y, threat = _material(job)
    model.to(device)
    _attack(job, model, x[:8], y[:8], ThreatModel.parse("linf", "0.0001"), warm_up=True)
    if job.stages:
        return {"stages": list(_by_stage(job, model, x, y, threat))}
    precision = _precision(job, model, x)  # what auto measures is no part of the attack's time, and cached
    begin, processor = time.perf_counter(), _processor_seconds()
    robust = _attack(job, model, x, y, threat, precision)
    found = {"robust": robust, "precision": precision}
    if device.type == "cuda":
        torch.cuda.synchronize()
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": time.perf_counter() - begin, "processor": _processor_seconds() - processor, **found}


def _processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def _precision(job: Job, model: nn.Module, x: Tensor) -> str:
    if job.side != AUTO:
        return FLOAT32
    shape, device = (_static_batch_size(job), len(x)), torch.device(job.device)
    return choose_precision("auto", model, x[: shape[0]], shape, device).precision


def _static_batch_size(job: Job) -> int:
    return STATIC_BATCH_SIZES[torch.device(job.device).type]


def _material(job: Job) -> tuple[nn.Module, Tensor, Tensor, ThreatModel]:
    data = load_dataset("cifar10", train=False)
    if job.net == UNTRAINED:
        net = untrained()
        x = to_float(data.test.images[: job.samples])
        with torch.no_grad():
            y = torch.cat([net(part).argmax(1) for part in x.split(100)])
        return net, x, y, ThreatModel.parse("linf", job.eps or "0.00001")
    spec, weights, eps = NETS[job.net]
    loaded = load_model(spec, weights=Path(job.weights_folder) / weights if weights else None, dataset=data)
    images = to_float(data.test.images[: job.samples])
    return loaded.model.eval(), images, data.test.labels[: job.samples], ThreatModel.parse("linf", job.eps or eps)


def untrained() -> nn.Module:
    """``UNTRAINED``."""
    torch.manual_seed(0)
    return (
        build_model(ModelConfig("resnet18", 10, 3, (32, 32), None, "linear", None, (0.5,) * 3, (0.25,) * 3))
        .eval()
        .requires_grad_(False)
    )


def _attack(
    job: Job, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, precision: str = FLOAT32, *,
    warm_up: bool = False,
) -> int:  # fmt: skip
    if job.side != THEIRS:
        attack = ATTACKS.make("pgd-20" if warm_up else job.attack, threat=threat, classes=10)
        found = search(
            model,
            attack,
            x,
            y,
            torch.arange(len(x)),
            seed=0,
            static_batch_size=_static_batch_size(job),
            device=job.device,
            precision=precision,
        )
        return int((~AttackResult.concatenate(list(found)).success).sum())
    if job.attack == "autoattack":
        x, y = x.to(job.device), y.to(job.device)
        right, left = torch.ones_like(y, dtype=torch.bool), list(STAGES)[: 1 if warm_up else None]
        for stage in left:
            rows = right.nonzero()[:, 0]
            right = theirs(model, threat, x, y, stage, 0, rows, job.device).robust if len(rows) else right
        return int(right.sum())
    attack = ATTACKS.make(f"torchattacks:{job.attack.upper()}", threat=threat, classes=10)
    found = attack.run(model, Batch(x, y, torch.arange(len(x))), RunOptions(seed=0, batch_size=250, device=job.device))
    misclassified = [item.success for item in found if isinstance(item, AttackResult)]
    return int((~torch.cat(misclassified)).sum())


def _by_stage(job: Job, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Iterator[Row]:
    """Our stages one by one: seconds, model evaluations and the least they can take."""
    forward, backward = _operations(model, x[:1])
    peak = _peak(torch.device(job.device))
    rows = torch.arange(len(x))
    for stage, build in STAGES.items():
        begin = time.perf_counter()
        found = search(
            model,
            build(threat, 10),
            x[rows],
            y[rows],
            rows,
            seed=0,
            static_batch_size=_static_batch_size(job),
            device=job.device,
        )
        findings = AttackResult.concatenate(list(found))
        seconds = time.perf_counter() - begin
        operations = float((findings.forwards * forward + findings.backwards * backward).sum())
        yield {
            "variant": stage, "images": len(rows), "seconds": seconds, "forwards": int(findings.forwards.sum()),
            "backwards": int(findings.backwards.sum()), "floor": operations / peak,
            "floor / seconds": operations / peak / seconds,
        }  # fmt: skip
        rows = findings.sample[~findings.success].sort().values
        if not len(rows):
            return


def _operations(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Floating point operations of a forward and of a backward to the image, for one image."""
    x = x.to(next(model.parameters()).device)
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as both:
        model(x.requires_grad_()).sum().backward()
    return float(counter.get_total_flops()), float(both.get_total_flops() - counter.get_total_flops())


def _peak(device: torch.device, size: int = 1536) -> float:
    """Operations per second of a matrix product in float32, the best of some."""
    a = torch.rand(size, size, device=device)
    turns = [timing.time_calls(lambda: a @ a, 3).wall / 3 for _ in range(6)]
    return 2 * size**3 / min(turns)


def in_process(job: Job) -> dict[str, Any]:
    """Run a job in a fresh process.

    Raises:
        AdvdpnpError: it failed; the message is its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.attacks", "--job", json.dumps(asdict(job))], capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise AdvdpnpError(f"{job.side} fails on {job.net} with {job.attack}: {reason}")
    return dict(json.loads(lines[-1]))


def compare(net: str, attack: str, settings: dict[str, Any], repeats: int) -> Iterator[Row]:
    """Three lines: ours in float32, ours as ``auto`` chooses, and theirs."""
    sides = (OURS, AUTO, THEIRS)
    turns = [{side: in_process(Job(net, attack, side, **settings)) for side in sides} for _ in range(repeats)]
    package = "pyautoattack" if attack == "autoattack" else "torchattacks"
    for side in sides:
        first, seconds = turns[0][side], [turn[side]["seconds"] for turn in turns]
        name = {AUTO: f"{AUTO} ({first['precision']})", THEIRS: package}.get(side, side)
        row = {
            "part": attack, "case": f"{net}, {settings['eps']}" if settings["eps"] else net, "variant": name,
            "images": settings["samples"], "robust": first["robust"], "seconds": statistics.median(seconds),
            "lowest": min(seconds), "highest": max(seconds), "peak GiB": first.get("peak_gib", float("nan")),
        }  # fmt: skip
        for column, of in (("ratio", "seconds"), ("cpu ratio", "processor")):
            ratio = statistics.median(turn[THEIRS][of] / turn[side][of] for turn in turns)
            row[column] = float("nan") if side == THEIRS else ratio
        yield row


def main(
    weights_folder: Annotated[Path, typer.Option(help="Where the weights of the public nets are.")] = Path(
        "data/checkpoints"
    ),
    nets: Annotated[str, typer.Option(help=f"Of {', '.join(NETS)} and {UNTRAINED}.")] = ",".join(NETS),
    attack: Annotated[str, typer.Option(help="autoattack or pgd-20.")] = "autoattack",
    samples: Annotated[int, typer.Option(min=8, help="CIFAR-10 test images.")] = 200,
    eps: Annotated[str | None, typer.Option(help="For all nets; a tiny one leaves every row robust.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    device: str = "cpu",
    stages: Annotated[bool, typer.Option(help="Also the time of each stage, and its floor.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the tables.")] = None,
    job: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare, print the tables, and the ratios in the last line."""
    if job is not None:
        print(json.dumps(run_job(Job(**json.loads(job)))))
        return
    settings: dict[str, Any] = {"weights_folder": str(weights_folder), "samples": samples, "threads": threads}
    settings |= {"device": device, "eps": eps}
    rows: list[Row] = []
    for net in nets.split(","):
        rows += compare(net, attack, settings, repeats)
        print(pd.DataFrame(rows[-3:]).to_string(index=False), flush=True)
        if stages and attack == "autoattack":
            found = in_process(Job(net, attack, OURS, **settings, stages=True))["stages"]
            rows += [{"part": "stages of ours", "case": net, **row} for row in found]
    frame = pd.DataFrame(rows)
    ratios = [f"{row['case']} {row['variant']} {row['ratio']:.2f}" for row in rows if row.get("ratio", 0) > 0]
    last = f"ratios (theirs / ours): {', '.join(ratios)}"
    timing.publish("attacks", "Time of attacks", frame, last, threads=threads, device=torch.device(device), out=out)


if __name__ == "__main__":
    timing.run_script(main)
