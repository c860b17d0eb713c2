"""``advdpnp detect``: how well scores tell outliers and adversarial images from clean ones."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advdpnp.base.errors import AdvdpnpError
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
    Seed,
    Std,
    Weights,
    WeightsKey,
)

if TYPE_CHECKING:
    from advdpnp.datasets import Dataset
    from advdpnp.eval.detection.run import DetectionConfig
    from advdpnp.models.loading import LoadedModel

EPILOG = "Example: `advdpnp detect runs/my-run --outliers cifar10,noise:uniform,corruption:fog-3 --attacks pgd-20`"

Model = Annotated[list[str] | None, typer.Option(help="Your own model, as for `advdpnp eval`; repeatable.")]
DatasetName = Annotated[
    str | None, typer.Option(help="Data set whose test images are normal.", show_default="the checkpoint's")
]
Outliers = Annotated[
    list[str] | None,
    typer.Option(
        help="Data sets, `noise:uniform`, `noise:gaussian` or `corruption:TYPE-SEVERITY`, comma-separated; repeatable."
    ),
]
Attacks = Annotated[
    str, typer.Option(help="`none` for outliers alone, or names of `advdpnp list attacks`, comma-separated.")
]
Scores = Annotated[str, typer.Option(help="`all`, or names of `advdpnp list scores`, comma-separated.")]
Norm = Annotated[str | None, typer.Option(help="linf or l2.", show_default="the checkpoint's, or linf")]
Eps = Annotated[str | None, typer.Option(help="Radius, a number or 8/255.", show_default="the checkpoint's, or 8/255")]
AdaptiveSteps = Annotated[
    int, typer.Option(min=0, help="Steps of the attack that knows the score, per restart; 0 leaves it out.")
]
Restarts = Annotated[int, typer.Option(min=1, help="Restarts of the attack that knows the score.")]
FalseAlarms = Annotated[float, typer.Option(help="Percent of clean images that may be flagged.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N test images and outliers.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of tables and figures.", show_default="results/detection/DATASET")
]


def detect(
    checkpoints: Checkpoints = None,
    model: Model = None,
    weights: Weights = None,
    mean: Mean = None,
    std: Std = None,
    weights_key: WeightsKey = None,
    input_range: InputRange = None,
    dtype: Dtype = "auto",
    name: Name = None,
    dataset: DatasetName = None,
    outliers: Outliers = None,
    attacks: Attacks = "pgd-20",
    scores: Scores = "all",
    norm: Norm = None,
    eps: Eps = None,
    adaptive_steps: AdaptiveSteps = 40,
    restarts: Restarts = 2,
    false_alarms: FalseAlarms = 5.0,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = None,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
) -> None:
    """Measure how well scores tell outliers and adversarial images from clean ones, also by an attack on the score."""
    from advdpnp.commands.support.models import ModelOptions, choose_threat, load_models
    from advdpnp.eval.detection.adaptive import AdaptiveAttack
    from advdpnp.eval.detection.images import outlier_sets
    from advdpnp.eval.detection.run import DetectionConfig
    from advdpnp.eval.detection.scores import choose_scores
    from advdpnp.eval.run.device import choose_device

    chosen = choose_scores(scores)
    if not 0 < false_alarms < 100:
        raise AdvdpnpError(f"--false-alarms {false_alarms:g} is no percentage between 0 and 100; 5 is usual")
    paths = [str(path) for path in checkpoints or []]
    if not paths and not model:
        raise AdvdpnpError("there is no model; give a run folder, a .safetensors file or --model")
    of_models = ModelOptions(weights or [], mean, std, weights_key, input_range, dtype)
    loaded, data = load_models(paths, model or [], of_models, name or [], dataset, data_root, download)
    threat, resolved = _attacks(attacks, *choose_threat(loaded, norm, [eps] if eps is not None else []), data)
    specs = [spec.strip() for item in outliers or [] for spec in item.split(",") if spec.strip()]
    sets = outlier_sets(specs, data, limit=limit, seed=seed, data_root=data_root, download=download)
    adaptive = AdaptiveAttack(threat, adaptive_steps, restarts, seed) if resolved and adaptive_steps else None
    if not sets and not resolved:
        raise AdvdpnpError("there is nothing to detect; give --outliers or --attacks")
    config = DetectionConfig(
        scores=tuple(chosen),
        outliers=tuple(sets),
        attacks=tuple(resolved),
        adaptive=adaptive,
        false_alarms=false_alarms / 100,
        seed=seed,
        device=choose_device(device),
    )
    facts = {"dataset": data.label, "norm": threat.norm, "eps": threat.text, "false_alarms": false_alarms, "seed": seed}
    folder = out or Path("results") / "detection" / data.label
    _run(loaded, data, config, facts, limit, folder, {"data_root": data_root, "download": download})


def _attacks(text: str, norm: str, radii: list[str], data: "Dataset") -> tuple[Any, list[Any]]:
    """The threat model and the attacks."""
    from advdpnp.attacks import resolve_attacks
    from advdpnp.attacks.threat import ThreatModel

    if len(radii) != 1:
        raise AdvdpnpError(f"--eps takes one radius here, not {', '.join(radii)}; run the command once for each")
    threat = ThreatModel.parse(norm, radii[0])
    return threat, resolve_attacks(text, threat, data.classes)


def _run(
    models: "list[LoadedModel]",
    data: "Dataset",
    config: "DetectionConfig",
    facts: dict[str, Any],
    limit: int | None,
    out: Path,
    where: dict[str, Any],
) -> None:
    from advdpnp.base.files import folder_lock
    from advdpnp.base.versions import command_line
    from advdpnp.datasets import load_dataset
    from advdpnp.eval.detection.run import Found
    from advdpnp.eval.detection.run import detect as run
    from advdpnp.eval.detection.table import to_frame
    from advdpnp.eval.report.detection import detection_grids, write_detection
    from advdpnp.eval.report.figures.detection import draw_detection

    @cache
    def whole(held_out: int | None) -> "Dataset":
        """The data set with the same images held out as in training, which chooses them by their number alone."""
        options: dict[str, Any] = {} if held_out is None else {"validation": held_out}
        return load_dataset(data.name, **where, **options)

    def data_of(loaded: "LoadedModel") -> "Dataset":
        held_out = loaded.recipe.get("validation")
        return whole(held_out if isinstance(held_out, int) else None)

    steps, found, early = len(models) * config.steps, Found([], []), ""
    with folder_lock(out), console.counting_bar(f"detection, {data.label}", steps) as count:
        try:
            run(models, data_of, data.test.head(limit), config, count, found)
        except (AdvdpnpError, KeyboardInterrupt) as error:
            if not found.detections:
                raise
            early = str(error) or "stopped"
            out = out / "unfinished"  # a complete table of an earlier run stays as it is
        frame = to_frame(found.detections, seed=config.seed, facts=facts)
        paths = write_detection(frame, found.notes, command_line(), out)
        figures = draw_detection(found.detections, out)
    if early:
        raise AdvdpnpError(
            f"{early}; {paths[0]} has the scores that were finished ({len(found.detections)}); measure the others with "
            "--scores, or without the models that are done, into another --out"
        )
    for grid in detection_grids(frame, intervals=False):
        console.print_records(grid.caption, grid.rows, grid.heads)
        console.out.print("")
    for note in found.notes:
        console.out.print(note)
    console.out.print(f"{paths[0]}, .md and {len(figures)} figures")
