"""The command line. It parses, calls the library and prints; nothing here decides anything.

Importing this module must stay cheap (``advdpnp --help`` imports no torch), so every command imports what it needs.
"""

import errno
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, Exit, TyperException

from advdpnp import __version__
from advdpnp.base.errors import AdvdpnpError, AlreadyTold, one_speaks
from advdpnp.base.interrupts import interruptible

app = typer.Typer(
    name="advdpnp",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train robust image classifiers, attack any checkpoint with everything that counts, and write leaderboards "
    "that can be believed.",
    epilog="Begin with `advdpnp demo`: it trains four methods on real digits, attacks them, and shows the leaderboard.",
)

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that holds the data sets.", envvar="ADVDPNP_DATA", show_default="./data")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_LARGEST_SEED = 2**63 - 1
Seed = Annotated[int, typer.Option(min=0, max=_LARGEST_SEED, help="Seed of everything random.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"advdpnp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: `advdpnp train --recipe adv-dpnp --dataset cifar10 --set method.beta=2 --name beta2`")
def train(
    recipe: Annotated[
        str, typer.Option(help="A recipe of `advdpnp list recipes`, or the path of a YAML file.")
    ] = "adv-dpnp",
    dataset: Annotated[str, typer.Option(help="A data set of `advdpnp list datasets`.")] = "cifar10",
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="DATASET-RECIPE-sSEED")] = None,
    out: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override any value of the recipe; repeatable."),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Shorthand for --set model.architecture=...")] = None,
    epochs: Annotated[int | None, typer.Option(help="Shorthand for --set epochs=...")] = None,
    norm: Annotated[str | None, typer.Option(help="Shorthand for --set attack.norm=...")] = None,
    eps: Annotated[str | None, typer.Option(help="Shorthand for --set attack.eps=...")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Shorthand for --set seed=...")] = None,
    extra_data: Annotated[
        str | None, typer.Option(help="Data set whose training images are mixed in, such as npz:generated.npz.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes on each machine, one device each.")] = 1,
    num_nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[
        str, typer.Option(help="Strategy of Lightning Fabric.", show_default="ddp if several")
    ] = "auto",
    precision: Annotated[str | None, typer.Option(help="32, bf16-mixed or 64.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the training step with torch.compile.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
) -> None:
    """Train a classifier by a recipe; leaves `best`, `last`, the metrics and the resolved recipe in OUT/NAME."""
    from advdpnp.commands.console import first_process, training_bar
    from advdpnp.commands.console import out as console
    from advdpnp.datasets import load_dataset
    from advdpnp.training.recipe import resolve_recipe
    from advdpnp.training.trainer import Hardware
    from advdpnp.training.trainer import train as run

    overrides = {
        "model.architecture": architecture,
        "epochs": epochs,
        "attack.norm": norm,
        "attack.eps": eps,
        "seed": seed,
        "precision": precision,
    }
    first = first_process(devices * num_nodes)
    if not first:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every process that joins
    with one_speaks(first):
        resolved = resolve_recipe(recipe, dataset, overrides, settings)
        data = load_dataset(dataset, data_root=data_root, download=download, validation=resolved.validation)
        # A small data set holds out less than was asked for; the recipe that is kept tells what was done.
        resolved = resolved.model_copy(update={"validation": len(data.validation)})
        if name is not None and not name.strip():
            raise AdvdpnpError("--name is empty; leave it out or give the run a name")
        if name and (Path(name).name != name or name == ".." or not name.isprintable()):
            raise AdvdpnpError(f"--name {name!r} is no name of one folder; --out chooses where runs are")
        folder = out / (name or f"{data.label}-{Path(recipe).stem}-s{resolved.seed}")
        if resume and not folder.is_dir():
            raise AdvdpnpError(f"there is no run in {folder} to resume; check --name and --out, or leave out --resume")
        extra = None if extra_data is None else load_dataset(extra_data, data_root=data_root, validation=0, test=False)
        hardware = Hardware(device, devices, num_nodes, strategy, compile)
        with training_bar(folder.name, shown=first) as report:
            metrics = run(
                resolved,
                data,
                folder,
                extra=extra,
                resume=resume,
                hardware=hardware,
                report=report,
                resume_command=_resume_command(),
            )
    if first:
        last = metrics.iloc[-1]
        console.print(
            f"{folder}: {len(metrics)} epochs, validation accuracy {100 * last['validation_clean']:.1f} % clean, "
            f"{100 * last['validation_pgd']:.1f} % under PGD; evaluate with: advdpnp eval --attacks all {folder}"
        )


def _resume_command() -> str:
    import shlex

    arguments = sys.argv[1:]
    return shlex.join(["advdpnp", *arguments, *([] if "--resume" in arguments else ["--resume"])])


@app.command(
    "eval",
    epilog="Examples: `advdpnp eval --attacks all runs/my-run` and "
    "`advdpnp eval --dataset cifar10 --model nets:resnet --weights nets.pth --attacks fgsm,pgd-20 --limit 500`",
)
def eval_(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(metavar="CHECKPOINT...", help="Run folders or .safetensors files.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A net of your own, `package.module:factory` or `file.py:factory`, or `robustbench:NAME`, "
            "`timm:NAME`; repeatable."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights of the --model at the same place in the list; `-` for none.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Normalisation of bare weights: the mean per channel, with commas.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of bare weights: the standard deviation.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What tables call the models, one per model; repeatable.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set whose test images are used.", show_default="the checkpoint's")
    ] = None,
    attacks: Annotated[
        str, typer.Option(help="`all`, `none`, or names of `advdpnp list attacks` with commas.")
    ] = "all",
    corruptions: Annotated[
        str,
        typer.Option(
            help="`none`, `auto`, `regenerated`, `cifar10-c` or `cifar100-c`.", show_default="auto with --attacks all"
        ),
    ] = "",
    corruption_types: Annotated[
        str,
        typer.Option(help="`benchmark` (15), `all` (19), or names of `advdpnp list corruptions` with commas."),
    ] = "benchmark",
    norm: Annotated[
        str | None,
        typer.Option(help="linf or l2; l1 with --engine reference.", show_default="the checkpoint's, or linf"),
    ] = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(help="Radius, a number or 8/255; several with commas.", show_default="the checkpoint's, or 8/255"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N test images.")] = None,
    seed: Seed = 0,
    engine: Annotated[
        str, typer.Option(help="`own`, or `reference`: the same attacks of torchattacks and pyautoattack.")
    ] = "own",
    precision: Annotated[
        str,
        typer.Option(help="Of our searches: 32, tf32, bf16, or auto for the fastest; verdicts are float32 always."),
    ] = "32",
    cross_check: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Run both engines on the first N images and print every disagreement."),
    ] = None,
    transfer_from: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECKPOINT", help="Try this model's adversarial images on the others; repeatable."),
    ] = None,
    save_adversarials: Annotated[
        bool,
        typer.Option("--save-adversarials", help="Store the image of every broken sample, for `advdpnp verify`."),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most images in work at once; a call of the model may be padded to 128 (GPU: 256).",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results.", show_default="results/DATASET")] = None,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
) -> None:
    """Attack checkpoints and write verdicts, OUT/leaderboard.html (all in one page), .csv, .md and figures."""
    from advdpnp.commands.evaluate import evaluate_command

    evaluate_command(
        checkpoints=checkpoints or [],
        models=model or [],
        weights=weights or [],
        dataset=dataset,
        attacks=attacks,
        corruptions=corruptions,
        corruption_types=corruption_types,
        norm=norm,
        eps=eps or [],
        limit=limit,
        seed=seed,
        engine=engine,
        precision=precision,
        cross_check=cross_check,
        transfer_from=transfer_from or [],
        save_adversarials=save_adversarials,
        batch_size=batch_size,
        results=out,
        names=name or [],
        mean=mean,
        std=std,
        data_root=data_root,
        download=download,
        device=device,
    )


@app.command(epilog="Example: `advdpnp leaderboard results/cifar10 --out table`")
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(help="Folders with verdicts, searched to any depth.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the tables and figures go.", show_default="the first folder")
    ] = None,
    mce_baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Add the mCE: errors on corruptions relative to this model's.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="robustbench", help="Put what RobustBench publishes beside ours, marked as published."),
    ] = None,
) -> None:
    """Make the leaderboard, its page and the figures again from the verdicts of any number of evaluations."""
    from advdpnp.commands.evaluate import leaderboard_command

    leaderboard_command(folders, out or folders[0], mce_baseline, compare)


@app.command(epilog="Example: `advdpnp compare cifar10-adv-dpnp-s0 cifar10-pgd-at-s0 results/cifar10`")
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Name of a model in the tables.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Name of the model it is compared with.")],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Folders with verdicts of both.", show_default="results"),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Compare only these, such as clean,autoattack.", show_default="all of both")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as CSV to this file too.")] = None,
) -> None:
    """Compare two models on the same images: difference with a paired interval, and the exact McNemar test."""
    from advdpnp.commands.compare import compare_command

    compare_command(first, second, folders or [Path("results")], columns=columns, out=out)


@app.command(epilog="Example: `advdpnp verify results/cifar10/my-run-1a2b3c4d --checkpoint runs/my-run`")
def verify(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders of results or of one model, or verdict files.")
    ],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder, .safetensors file or folder of such, of the models; repeatable."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A net of your own, as `advdpnp eval` takes it.")] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights of the --model at the same place in the list; `-` for none.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of bare weights: the mean.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of bare weights: the standard deviation.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set that was evaluated on.", show_default="as the results say")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that was found to a file too.")] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Judge every stored adversarial image again, in float32, and say what holds; exit code 1 if anything does not."""
    from advdpnp.commands.verify import verify_command

    holds = verify_command(
        paths,
        checkpoints=checkpoint or [],
        models=model or [],
        weights=weights or [],
        mean=mean,
        std=std,
        dataset=dataset,
        data_root=data_root,
        device=device,
        report=json,
    )
    if not holds:
        raise typer.Exit(1)


@app.command(epilog="Example: `advdpnp geometry runs/my-run --limit 1000`")
def geometry(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder or a .safetensors file.")],
    dataset: Annotated[
        str | None, typer.Option(help="Whose test images are used.", show_default="the checkpoint's")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Use only the first N test images.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Where JSON and figures go.", show_default="results/DATASET/geometry/NAME")
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Measure the geometry of a net: angles between its classes, how tight and how separate their features are."""
    from advdpnp.commands.geometry import geometry_command

    geometry_command(checkpoint, dataset=dataset, limit=limit, results=out, data_root=data_root, device=device)


@app.command(epilog="Example: `advdpnp study dimensions`, or two halves at once with `--shard 0/2` and `--shard 1/2`")
def study(
    name: Annotated[str, typer.Argument(help="A study of `advdpnp list studies`, or the path of a YAML file.")],
    out: Annotated[Path, typer.Option(help="Where table and figure go.")] = Path("results/studies"),
    runs: Annotated[Path, typer.Option(help="Folder that holds the trainings.")] = Path("runs/studies"),
    shard: Annotated[str, typer.Option(help="Do only this share of the trainings, such as 0/2.")] = "0/1",
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Train one recipe with values changed, over several seeds, and tabulate; judged on held-out training images."""
    from advdpnp.commands.study import study_command

    study_command(name, results=out, folder=runs, shard=shard, data_root=data_root, device=device)


@app.command(epilog="Example: `advdpnp demo --out /tmp/demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")] = Path("demo"),
    seed: Seed = 0,
    limit: Annotated[int, typer.Option(min=1, help="Number of test images to attack.")] = 200,
    device: Device = "auto",
) -> None:
    """Train ce, dpnp, pgd-at and adv-dpnp on real digits, attack them with everything, show the leaderboard."""
    from advdpnp.commands.demo import run_demo

    run_demo(out, seed=seed, limit=limit, device=device)


@app.command(epilog="Example: `advdpnp corrupt --dataset cifar10 --out data/cifar10-c-regenerated`")
def corrupt(
    out: Annotated[Path, typer.Option(help="Folder for TYPE.npy and labels.npy.")],
    dataset: Annotated[str, typer.Option(help="A data set of `advdpnp list datasets`.")] = "cifar10",
    types: Annotated[
        str, typer.Option(help="`all`, `benchmark`, or names with commas (`advdpnp list corruptions`).")
    ] = "all",
    limit: Annotated[int | None, typer.Option(min=1, help="Corrupt only the first N test images.")] = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Write corrupted test images in the layout of the official CIFAR-10-C files, for other tools to read."""
    from advdpnp.commands.corrupt import corrupt_command

    corrupt_command(dataset, out, types=types, limit=limit, seed=seed, data_root=data_root, download=download)


@app.command("list", epilog="Example: `advdpnp list attacks`")
def list_(
    kind: Annotated[str, typer.Argument(help="attacks, corruptions, datasets, methods, models, recipes or studies.")],
) -> None:
    """Print what there is of one kind: names, what they are, and where they come from."""
    from advdpnp.commands.console import print_records
    from advdpnp.commands.listing import catalogue

    print_records(kind, *catalogue(kind))


@app.command(epilog="Example: `advdpnp doctor`")
def doctor(
    mend: Annotated[bool, typer.Option("--mend", help="Run the commands that mend what is wrong.")] = False,
) -> None:
    """Check versions, devices and the reference packages, and print the command that mends each finding."""
    from advdpnp.commands.console import out as console
    from advdpnp.commands.doctor import diagnose
    from advdpnp.commands.doctor import mend as mend_all

    checks = mend_all() if mend else diagnose()
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]!![/]"
        console.print(f"{mark}  {check.name:<24} {check.value}")
        if not check.ok:
            console.print(f"      {check.finding}\n      mend with: {check.remedy}", markup=False)
    if not all(check.ok for check in checks):
        raise typer.Exit(2)


_STOPPED = "stopped; what was finished is kept, the same command continues from there (train: with --resume)"
_INTERRUPTED = 130  # what typer makes of Ctrl-C


def _fail(sentence: str) -> int:
    with suppress(OSError):  # the terminal may have gone, or the disk with the log be full
        print(f"advdpnp: {sentence}", file=sys.stderr)
    return 2


def _fail_once(sentence: str) -> int:
    """What all processes of a command meet alike is told by the first of them."""
    from advdpnp.commands.console import first_process

    return _fail(sentence) if first_process() else 2


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 with one sentence on standard error, or 1 of ``verify``.

    Ctrl-C, SIGTERM and SIGHUP end it with such a sentence too, after all that was found has been written.
    """
    if not os.environ.get("ADVDPNP_DEBUG"):
        warnings.simplefilter("ignore")  # libraries warn their own developers
    with interruptible() as asked:
        try:
            result: Any = app(arguments, standalone_mode=False)
            code = result if isinstance(result, int) else 0
            return _fail_once(_STOPPED) if code == _INTERRUPTED else code
        except AlreadyTold:
            return 2
        except AdvdpnpError as error:
            return _fail(str(error))
        except (Abort, KeyboardInterrupt):
            return _fail_once(_STOPPED)
        except TyperException as error:
            sentence = error.format_message().rstrip(".")
            return _fail_once(f"{sentence}; see `advdpnp --help` and `advdpnp COMMAND --help`")
        except Exit as leave:
            return leave.exit_code
        except Exception as error:
            # A library that is interrupted may make an error of its own of it.
            return _fail_once(_STOPPED) if asked() else _explain(error)


def _explain(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its exit
        return 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _fail("the disk is full; free some space and run the same command again")
    if isinstance(error, ImportError):
        from advdpnp.commands.doctor import broken_links

        broken = broken_links(Path(__file__).parent)
        what = (
            f"the parts {', '.join(broken)} of the package are missing"
            if broken
            else f"something does not import: {error}"
        )
        return _fail(f"{what}; `advdpnp doctor` says what is wrong and the command that mends it")
    if isinstance(error, MemoryError):
        return _fail(f"out of memory ({error}); use a smaller --batch-size or a smaller net")
    return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """A bug. The user gets one sentence; whoever mends it sets ADVDPNP_DEBUG=1."""
    if os.environ.get("ADVDPNP_DEBUG"):
        traceback.print_exception(error)
    sentence = " ".join(str(error).split())
    return _fail(f"unexpected {type(error).__name__}: {sentence}; this is a bug, ADVDPNP_DEBUG=1 shows where")


def main() -> None:
    """Entry point of the ``advdpnp`` command."""
    sys.exit(run())
