"""``advdpnp verify``: the stored adversarial images of an evaluation, checked again."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.commands.support.options import DataRoot, Device, Dtype, InputRange, Mean, Std, Weights, WeightsKey

EPILOG = "Example: `advdpnp verify results/cifar10/my-run-1a2b3c4d --checkpoint runs/my-run`"

Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH", help="Folders of results or of one model, or verdict files.")
]
Checkpoint = Annotated[
    list[Path] | None,
    typer.Option(help="Run folder, .safetensors file or folder of these, of the evaluated models; repeatable."),
]
Model = Annotated[list[str] | None, typer.Option(help="Your own model, as for `advdpnp eval`; repeatable.")]
Dataset = Annotated[
    str | None, typer.Option(help="Data set of the evaluation.", show_default="the one named in the results")
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write every finding to this file.")]


def verify(
    paths: Paths,
    checkpoint: Checkpoint = None,
    model: Model = None,
    weights: Weights = None,
    mean: Mean = None,
    std: Std = None,
    weights_key: WeightsKey = None,
    input_range: InputRange = None,
    dtype: Dtype = "auto",
    dataset: Dataset = None,
    json: Json = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Re-verify stored adversarial images; exit code 1 if a check fails or cannot be made."""
    from advdpnp.commands.support.models import ModelOptions
    from advdpnp.commands.support.verification import verify_command

    holds = verify_command(
        paths,
        checkpoints=checkpoint or [],
        models=model or [],
        options=ModelOptions(weights or [], mean, std, weights_key, input_range, dtype),
        dataset=dataset,
        data_root=data_root,
        device=device,
        report=json,
    )
    if not holds:
        raise typer.Exit(1)
