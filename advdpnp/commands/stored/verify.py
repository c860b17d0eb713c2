"""``advdpnp verify``: the stored adversarial images of an evaluation, checked again."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.base.errors import AdvdpnpError
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
Replay = Annotated[
    str,
    typer.Option(
        metavar="N|all",
        help="Search so many samples of each evaluation again, those that are claimed robust first; 0: none.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Which samples these are. Choose it yourself.", show_default="drawn anew")
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
    replay: Replay = "32",
    seed: Seed = None,
    json: Json = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Check stored results against the model: every image again, and a sample of the searches; exit code 1 if a check
    fails or cannot be made.
    """
    from advdpnp.commands.support.models import ModelOptions
    from advdpnp.commands.support.verification import verify_command

    holds = verify_command(
        paths,
        checkpoints=checkpoint or [],
        specs=model or [],
        options=ModelOptions(weights or [], mean, std, weights_key, input_range, dtype),
        dataset=dataset,
        data_root=data_root,
        device=device,
        report=json,
        replay=_count(replay),
        seed=seed,
    )
    if not holds:
        raise typer.Exit(1)


def _count(text: str) -> int | None:
    """How many samples; None for all."""
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise AdvdpnpError(f"--replay is a number of samples or all, not '{text}'; write for example --replay 32")
    return int(text)
