"""Operations of attacks on an accelerator: our engine against pyautoattack.

    python -m benchmarks.operations --out results/benchmarks

Per forward pass and beside those of the net (a tiny ResNet trained by adv-dpnp, 8/255): ``launches`` of kernels,
``views``, which launch none, and ``waits`` of the host for the device or for memory that is copied to it. FAB-T is cut
to 20 steps and Square to 200 queries. ``--places`` adds the lines of code that wait.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from advdpnp.attacks import ThreatModel
from advdpnp.datasets import load_dataset, to_float
from advdpnp.models.loading import load_model
from benchmarks import timing
from benchmarks.operations.count import OURS, STAGES, THEIRS, measure, ours, theirs
from benchmarks.operations.device import SimulatedDevice
from benchmarks.timing import Row

NET = "results/checkpoints/cifar10-tiny-resnet-adv-dpnp-s0.safetensors"


def main(
    samples: Annotated[int, typer.Option(min=1, help="CIFAR-10 test images.")] = 24,
    stages: Annotated[str, typer.Option(help=f"Of {', '.join(STAGES)}.")] = ",".join(STAGES),
    places: Annotated[
        bool, typer.Option(help="Also print where the host waits, and which kernels are launched.")
    ] = False,
    alone: Annotated[bool, typer.Option(help="Only our side.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Count, and print the table."""
    torch.set_num_threads(1)
    data = load_dataset("cifar10", train=False)
    net = load_model(NET, dataset=data).model.eval().requires_grad_(False)
    x, y = to_float(data.test.images[:samples]), data.test.labels[:samples]
    threat, rows = ThreatModel.parse("linf", "8/255"), list[Row]()
    with SimulatedDevice() as sim:
        net.to(sim.device)
        for stage in stages.split(","):
            for name, side in ((OURS, ours), (THEIRS, theirs))[: 1 if alone else None]:
                cost = measure(sim, net, side(stage, x, y, threat))
                rows.append(
                    {
                        "part": "operations", "attack": stage, "engine": name, "launches": round(cost.launches, 1),
                        "views": round(cost.views, 1), "waits": round(cost.waits, 2), "forwards": cost.forwards,
                        "robust": cost.robust,
                    }
                )  # fmt: skip
                if places:
                    lines = [f"{count:7.2f} {what}" for what, count in list(cost.places.items())[:12]]
                    kernels = [f"{name} {count:.1f}" for name, count in list(cost.kernels.items())[:45]]
                    print(f"{stage}, {name}", *lines, ", ".join(kernels), sep="\n")
    last = f"per forward pass of a batch of {samples} images, beside the net's own operations"
    timing.publish(
        "operations", "Operations of attacks", pd.DataFrame(rows), last, threads=1, device=torch.device("cpu"), out=out
    )


if __name__ == "__main__":
    timing.run_script(main)
