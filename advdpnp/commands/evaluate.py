"""``advdpnp eval``: models attacked, verdicts stored, tables and figures written."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advdpnp.base.errors import AdvdpnpError, one_speaks
from advdpnp.commands.stored.leaderboard import show
from advdpnp.commands.support import console
from advdpnp.commands.support.options import (
    Checkpoints,
    DataRoot,
    Device,
    Download,
    Dtype,
    InputRange,
    Mean,
    Name,
    OnCluster,
    PerGpu,
    Seed,
    Std,
    Weights,
    WeightsKey,
)

if TYPE_CHECKING:
    from advdpnp.models.loading import LoadedModel

EPILOG = (
    "Examples: `advdpnp eval --attacks all runs/my-run` and "
    "`advdpnp eval --dataset cifar10 --model nets:resnet --weights nets.pth --attacks fgsm,pgd-20 --limit 500`"
)

Model = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel="Models",
        help="Your own model, `package.module:factory` or `file.py:factory`, or `robustbench:NAME`, `timm:NAME`, "
        "`hf:NAME`, `torchscript:FILE`, `export:FILE`; repeatable.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(rich_help_panel="Data", help="Data set whose test images are used.", show_default="the checkpoint's"),
]
Attacks = Annotated[
    str,
    typer.Option(rich_help_panel="Attacks", help="`all`, `none`, or names of `advdpnp list attacks`, comma-separated."),
]
Corruptions = Annotated[
    str,
    typer.Option(
        rich_help_panel="Data",
        help="`none`, `auto`, `regenerated`, `cifar10-c` or `cifar100-c`.",
        show_default="auto with --attacks all",
    ),
]
CorruptionTypes = Annotated[
    str,
    typer.Option(
        rich_help_panel="Data",
        help="`benchmark` (15), `all` (19), or names of `advdpnp list corruptions`, comma-separated.",
    ),
]
Norm = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Attacks", help="linf, l2, l1 or l0 (changed pixels).", show_default="the checkpoint's, or linf"
    ),
]
Eps = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel="Attacks",
        help="Radius, a number or 8/255; several are comma-separated.",
        show_default="the checkpoint's, or 8/255",
    ),
]
EpsCurve = Annotated[
    bool,
    typer.Option(
        "--eps-curve",
        rich_help_panel="Attacks",
        help="Eight radii, from a quarter of eps to twice eps, and a curve through them.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, rich_help_panel="Data", help="Use only the first N test images.")]
Budget = Annotated[
    int | None,
    typer.Option(
        metavar="PASSES",
        rich_help_panel="Attacks",
        help="Most forwards and backwards of an image in an attack; what they do not break counts as robust, and the "
        "column says `(at most PASSES passes)`.",
    ),
]
UntilHalfWidth = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        rich_help_panel="Data",
        help="Use only as many of the first images as it takes until the 95 % interval of worst_case is at most POINTS "
        "to each side, the same for all models.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        rich_help_panel="Engine", help="`own`, or `reference`: the same attacks of torchattacks and pyautoattack."
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        rich_help_panel="Engine",
        help="Precision of the searches: 32, tf32, bf16, or auto for the fastest; verdicts are the model's own.",
    ),
]
CrossCheck = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel="Engine",
        help="Run both engines on the first N images and print every disagreement.",
    ),
]
TransferFrom = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CHECKPOINT",
        rich_help_panel="Attacks",
        help="Test adversarial images of this model on the other models; repeatable.",
    ),
]
SaveAdversarials = Annotated[
    bool,
    typer.Option(
        "--save-adversarials",
        rich_help_panel="Output",
        help="Store the image of every misclassified sample, for `advdpnp verify`.",
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Attacks",
        help="Targeted attacks: least-likely, random or next; for fgsm, pgd-N, cw, apgd-ce, apgd-dlr, cw-l2, fab-t, "
        "pma.",
    ),
]
NoSanity = Annotated[
    bool,
    typer.Option(
        "--no-sanity",
        rich_help_panel="Engine",
        help="Skip the measurements that most flags rest on; rows then say `unmeasured`.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel="Engine",
        help="Largest number of images processed at once; model calls may still be padded to 128 rows (GPU: 256).",
    ),
]
Out = Annotated[
    Path | None, typer.Option(rich_help_panel="Output", help="Folder of the results.", show_default="results/DATASET")
]


def evaluate(
    checkpoints: Checkpoints = None,
    model: Model = None,
    weights: Weights = None,
    mean: Mean = None,
    std: Std = None,
    weights_key: WeightsKey = None,
    input_range: InputRange = None,
    dtype: Dtype = "auto",
    name: Name = None,
    dataset: Dataset = None,
    attacks: Attacks = "all",
    corruptions: Corruptions = "",
    corruption_types: CorruptionTypes = "benchmark",
    norm: Norm = None,
    eps: Eps = None,
    eps_curve: EpsCurve = False,
    limit: Limit = None,
    budget: Budget = None,
    until_half_width: UntilHalfWidth = None,
    seed: Seed = 0,
    engine: Engine = "own",
    precision: Precision = "32",
    cross_check: CrossCheck = None,
    transfer_from: TransferFrom = None,
    save_adversarials: SaveAdversarials = False,
    targets: Targets = None,
    no_sanity: NoSanity = False,
    batch_size: BatchSize = None,
    cluster: OnCluster = None,
    per_gpu: PerGpu = 1,
    out: Out = None,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
) -> None:
    """Attack checkpoints; writes verdicts, OUT/leaderboard.html (everything on one page), .csv, .md and figures."""
    from advdpnp.commands.support.models import ModelOptions, choose_threat, curve_radii, load_models
    from advdpnp.models.loading import load_model

    on = _place(cluster, per_gpu)
    paths = [str(path) for path in checkpoints or []]
    if not paths and not model:
        raise AdvdpnpError("there is nothing to evaluate; give a run folder, a .safetensors file or --model")
    of_models = ModelOptions(weights or [], mean, std, weights_key, input_range, dtype)
    loaded, data = load_models(paths, model or [], of_models, name or [], dataset, data_root, download)
    norm, radii = choose_threat(loaded, norm, eps or [])
    radii = curve_radii(norm, radii) if eps_curve else radii
    sources = [load_model(spec, dataset=data) for spec in transfer_from or []]
    common = {"norm": norm, "eps": radii, "seed": seed, "batch_size": batch_size, "device": device, "cluster": on}
    options = {
        "limit": limit,
        "corruptions": corruptions or ("auto" if attacks == "all" else "none"),
        "corruption_types": corruption_types,
        "data_root": data_root,
        "engine": engine, "precision": precision, "transfer_from": sources, "save_adversarials": save_adversarials,
        "targets": targets, "sanity": not no_sanity, "budget": budget, "until_half_width": until_half_width,
    }  # fmt: skip
    _run(loaded, data, attacks, out or Path("results") / data.label, common, options, cross_check)


def _place(address: str | None, per_gpu: int) -> Any:
    """The cluster, or None for this machine.

    Raises:
        AdvdpnpError: torchrun or srun has started several processes, which would all do the same work; one says it.
    """
    from advdpnp.eval.run.cluster.connection import Cluster

    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        count = os.environ.get(world, "")
        if count.isdigit() and int(count) > 1:
            with one_speaks(os.environ.get(rank, "0") == "0"):
                raise AdvdpnpError(
                    f"an evaluation is started once, not {count} times: for several GPUs or machines, "
                    "pip install 'advdpnp[cluster]' and add --cluster local or auto (docs/tutorials/cluster.md)"
                )
    return None if address is None else Cluster(address, per_gpu)


def _run(
    models: "Sequence[LoadedModel]",
    data: Any,
    attacks: str,
    results: Path,
    common: dict[str, Any],
    options: dict[str, Any],
    cross_check: int | None,
) -> None:
    from advdpnp.base.files import write_text
    from advdpnp.eval.api import evaluate_models
    from advdpnp.eval.audit.cross_check import cross_check as run_cross_check
    from advdpnp.eval.audit.cross_check import in_words
    from advdpnp.eval.run.progress import following

    with following(True) as progress:
        frame = evaluate_models(models, data, out=results, attacks=attacks, progress=progress, **common, **options)
        if cross_check is not None:
            beside = results.with_name(f"{results.name}-cross-check")
            compared = run_cross_check(models, data, attacks, beside, limit=cross_check, progress=progress, **common)
    show(frame, results)
    if options.get("until_half_width") is not None:
        most = min(options.get("limit") or len(data.test), len(data.test))
        console.out.print(f"first {frame['n'].min():,} of {most:,} images")
    if cross_check is not None:
        for line in in_words(compared):
            console.out.print(line)
        from advdpnp.eval.report.csv import to_csv

        table = beside / "cross-check.csv"
        write_text(table, to_csv(compared, float_format="%.4g"))
        console.out.print(f"{table}")
