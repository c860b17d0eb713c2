"""Option types that several commands share. A command adds its own beside its function."""

from pathlib import Path
from typing import Annotated

import typer

LARGEST_SEED = 2**63 - 1

DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data sets.", envvar="ADVDPNP_DATA", show_default="./data"),
]
Download = Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; evaluations also run on mps and xpu.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of all random numbers.")]

# Models that are not checkpoints of this program.
Weights = Annotated[
    list[str] | None,
    typer.Option(help="Weights of the --model at the same position; `-` for none; repeatable."),
]
Mean = Annotated[
    str | None, typer.Option(help="Mean per channel by which bare weights expect images normalised, comma-separated.")
]
Std = Annotated[str | None, typer.Option(help="Standard deviation per channel, as --mean.")]
WeightsKey = Annotated[
    str | None,
    typer.Option(help="Where the weights are in the file of --weights, for example `ema`.", show_default="found"),
]
InputRange = Annotated[
    str | None,
    typer.Option(help="Values that the --model expects for black and white: `0,255` or `-1,1`.", show_default="0,1"),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the weights and verdicts: float32, float64, float16, bfloat16, or auto for that of each "
        "model."
    ),
]
Checkpoints = Annotated[
    list[Path] | None, typer.Argument(metavar="CHECKPOINT", help="Run folders or .safetensors files.")
]
Name = Annotated[list[str] | None, typer.Option(help="Names of the models in tables, one per model; repeatable.")]
