"""Option types that several commands share. A command adds its own beside its function."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.base.errors import AdvdpnpError

LARGEST_SEED = 2**63 - 1


def _check_seed(seed: int) -> int:
    if not 0 <= seed <= LARGEST_SEED:
        raise AdvdpnpError(f"--seed must be from 0 to {LARGEST_SEED}")
    return seed


DataRoot = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel="Data", help="Folder that holds the data sets.", envvar="ADVDPNP_DATA", show_default="./data"
    ),
]
Download = Annotated[
    bool, typer.Option("--download", rich_help_panel="Data", help="Download the data set if it is missing.")
]
Device = Annotated[
    str, typer.Option(rich_help_panel="Engine", help="auto, cpu or cuda; evaluations also run on mps and xpu.")
]
Seed = Annotated[int, typer.Option(callback=_check_seed, rich_help_panel="Attacks", help="Seed of all random numbers.")]

OnCluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel="Engine",
        help="Run on a Ray cluster (extra `cluster`): `local` starts one on this machine, `auto` joins its own, "
        "`ray://HOST:10001` another one.",
    ),
]
PerGpu = Annotated[int, typer.Option(min=1, rich_help_panel="Engine", help="Workers that share a GPU of the cluster.")]

# Models that are not checkpoints of this program.
Weights = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel="Models", help="Weights of the --model at the same position; `-` for none; repeatable."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Models",
        help="Mean per channel by which bare weights or a factory's net expect images normalised, comma-separated.",
    ),
]
Std = Annotated[str | None, typer.Option(rich_help_panel="Models", help="Standard deviation per channel, as --mean.")]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Models",
        help="Where the weights are in the file of --weights, for example `ema`.",
        show_default="found",
    ),
]
InputRange = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Models",
        help="Values that the --model expects for black and white: `0,255` or `-1,1`.",
        show_default="0,1",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        rich_help_panel="Models",
        help="Precision of the weights and verdicts: float32, float64, float16, bfloat16, or auto for that of each "
        "model.",
    ),
]
Checkpoints = Annotated[
    list[Path] | None, typer.Argument(metavar="CHECKPOINT", help="Run folders or .safetensors files.")
]
Name = Annotated[
    list[str] | None,
    typer.Option(rich_help_panel="Models", help="Names of the models in tables, one per model; repeatable."),
]
