"""``advdpnp train``: one training run by a recipe."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advdpnp.base.errors import AdvdpnpError, one_speaks
from advdpnp.commands.support import console
from advdpnp.commands.support.options import DataRoot, Device, Download
from advdpnp.commands.support.training import training_bar

if TYPE_CHECKING:
    from advdpnp.training.trainer import Hardware

EPILOG = "Example: `advdpnp train --recipe adv-dpnp --dataset cifar10 --set method.beta=2 --name beta2`"

Recipe = Annotated[str, typer.Option(help="A recipe of `advdpnp list recipes`, or the path of a YAML file.")]
Dataset = Annotated[str, typer.Option(help="A data set of `advdpnp list datasets`.")]
Name = Annotated[str | None, typer.Option(help="Name of the run.", show_default="DATASET-RECIPE-sSEED")]
Out = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any value of the recipe; repeatable.")
]
Architecture = Annotated[str | None, typer.Option(help="Shorthand for --set model.architecture=...")]
Epochs = Annotated[int | None, typer.Option(help="Shorthand for --set epochs=...")]
Norm = Annotated[str | None, typer.Option(help="Shorthand for --set attack.norm=...")]
Eps = Annotated[str | None, typer.Option(help="Shorthand for --set attack.eps=...")]
RecipeSeed = Annotated[int | None, typer.Option(min=0, help="Shorthand for --set seed=...")]
ExtraData = Annotated[
    str | None,
    typer.Option(help="Data set whose training images are added to each batch, such as npz:generated.npz."),
]
Devices = Annotated[int, typer.Option(min=1, help="Processes per machine, one device each.")]
Nodes = Annotated[int, typer.Option(min=1, help="Number of machines.")]
Strategy = Annotated[str, typer.Option(help="Strategy of Lightning Fabric.", show_default="ddp if several")]
Precision = Annotated[str | None, typer.Option(help="32, bf16-mixed or 64.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the training step with torch.compile.")]
LoggerName = Annotated[
    str | None, typer.Option("--logger", help="Also log every few steps: csv, tensorboard or wandb.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]


def train(
    recipe: Recipe = "adv-dpnp",
    dataset: Dataset = "cifar10",
    name: Name = None,
    out: Out = Path("runs"),
    settings: Settings = None,
    architecture: Architecture = None,
    epochs: Epochs = None,
    norm: Norm = None,
    eps: Eps = None,
    seed: RecipeSeed = None,
    extra_data: ExtraData = None,
    devices: Devices = 1,
    num_nodes: Nodes = 1,
    strategy: Strategy = "auto",
    precision: Precision = None,
    compile: Compile = False,
    resume: Resume = False,
    logger: LoggerName = None,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
) -> None:
    """Train a classifier by a recipe; writes `best`, `last`, the metrics and the resolved recipe to OUT/NAME."""
    from advdpnp.training.trainer import Hardware

    overrides = {
        "model.architecture": architecture,
        "epochs": epochs,
        "attack.norm": norm,
        "attack.eps": eps,
        "seed": seed,
        "precision": precision,
    }
    hardware = Hardware(device, devices, num_nodes, strategy, compile)
    first = console.first_process(devices * num_nodes)
    if not first:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it reports every process that joins
    with one_speaks(first), _nothing_saved(unless=resume):
        _check_name(name)
        _train(
            recipe,
            dataset,
            overrides,
            settings,
            name,
            out,
            extra_data,
            resume,
            data_root,
            download,
            hardware,
            first,
            logger,
        )


def _train(
    recipe: str,
    dataset: str,
    overrides: dict[str, str | int | None],
    settings: list[str] | None,
    name: str | None,
    out: Path,
    extra_data: str | None,
    resume: bool,
    data_root: Path | None,
    download: bool,
    hardware: "Hardware",
    first: bool,
    logger: str | None,
) -> None:
    from advdpnp.datasets import load_dataset
    from advdpnp.training.recipe import resolve_recipe
    from advdpnp.training.trainer import train as run

    resolved = resolve_recipe(recipe, dataset, overrides, settings)
    data = load_dataset(dataset, data_root=data_root, download=download, validation=resolved.validation)
    # A small data set holds out less than was asked for; the stored recipe says what was done.
    resolved = resolved.model_copy(update={"validation": len(data.validation)})
    folder = out / (name or f"{data.label}-{Path(recipe).stem}-s{resolved.seed}")
    if resume and not folder.is_dir():
        raise AdvdpnpError(f"there is no run in {folder} to resume; check --name and --out, or leave out --resume")
    extra = None if extra_data is None else load_dataset(extra_data, data_root=data_root, validation=0, test=False)
    with _kept(folder), training_bar(folder.name, shown=first) as report:
        metrics = run(
            resolved,
            data,
            folder,
            extra=extra,
            resume=resume,
            hardware=hardware,
            report=report,
            resume_command=_resume_command(),
            logger=logger,
        )
    if first:
        best = metrics.iloc[metrics.attrs["best"] - 1]
        length = f"{len(metrics)} epoch" + "s" * (len(metrics) > 1)
        console.out.print(
            f"{folder}: {length}, the best is {best['epoch']:.0f} with validation accuracy "
            f"{100 * best['validation_clean']:.1f} % clean, "
            f"{100 * min(best['validation_pgd'], best['validation_pgd_margin']):.1f} % under PGD; "
            f"evaluate it with: advdpnp eval --attacks all {folder}",
        )


def _check_name(name: str | None) -> None:
    if name is not None and not name.strip():
        raise AdvdpnpError("--name is empty; leave it out or give the run a name")
    if name and (Path(name).name != name or name == ".." or not name.isprintable()):
        raise AdvdpnpError(f"--name {name!r} is no name of one folder; --out chooses where runs are")


@contextmanager
def _nothing_saved(*, unless: bool) -> Iterator[None]:
    """What an interruption leaves of a run that has no state: nothing to resume."""
    try:
        yield
    except KeyboardInterrupt:
        if unless:
            raise
        raise AdvdpnpError("stopped before anything of this run was saved; start it again") from None


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """An interruption that takes effect at once, the second Ctrl-C, loses only the epoch that was not finished."""
    from advdpnp.training.state import STATE

    try:
        yield
    except KeyboardInterrupt:
        if not (folder / STATE).exists():
            raise
        raise AdvdpnpError(f"stopped; finished epochs are kept, continue with: {_resume_command()}") from None


def _resume_command() -> str:
    arguments = sys.argv[1:]
    return shlex.join(["advdpnp", *arguments, *([] if "--resume" in arguments else ["--resume"])])
