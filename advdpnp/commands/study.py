"""``advdpnp study``: one recipe trained with values changed, over several seeds."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.commands.support.options import DataRoot, Device, OnCluster, PerGpu

EPILOG = "Example: `advdpnp study dimensions`, or two halves at once with `--shard 0/2` and `--shard 1/2`"

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A study of `advdpnp list studies`, or the path of a YAML file.")
]
Out = Annotated[Path, typer.Option(help="Folder of the table and the figure.")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the training runs.")]
Shard = Annotated[str, typer.Option(help="Do only this share of the training runs, such as 0/2.")]


def study(
    name: Name,
    out: Out = Path("results/studies"),
    runs: Runs = Path("runs/studies"),
    shard: Shard = "0/1",
    cluster: OnCluster = None,
    per_gpu: PerGpu = 1,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Train variants of a recipe over several seeds and tabulate them, evaluated on held-out training images."""
    from advdpnp.commands.support.studies import study_command
    from advdpnp.eval.run.cluster.connection import Cluster

    on = None if cluster is None else Cluster(cluster, per_gpu)
    study_command(name, results=out, folder=runs, shard=shard, data_root=data_root, device=device, cluster=on)
