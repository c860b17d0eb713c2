"""``advdpnp geometry``: angles between the classes of a model, and how tight and separate its features are."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.commands.support import console
from advdpnp.commands.support.options import DataRoot, Device

if TYPE_CHECKING:
    from advdpnp.models.network import Network

EPILOG = "Example: `advdpnp geometry runs/my-run --limit 1000`"

Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder or a .safetensors file.")]
DatasetName = Annotated[
    str | None, typer.Option(help="Data set whose test images are used.", show_default="the checkpoint's")
]
Limit = Annotated[int, typer.Option(min=2, help="Use only the first N test images.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of JSON and figures.", show_default="results/DATASET/geometry/NAME")
]


_FEATURES = (
    "mean_angle_to_own", "mean_angle_to_nearest_rival", "mean_distance_to_own", "mean_distance_to_nearest_rival",
    "within", "between", "separation_ratio", "silhouette",
)  # fmt: skip
_CENTRES = ("n", "norm", "nearest_image", "own_class_mean", "nearest_is_own_class")
_CLASSES = 20  # more get no table of their own


def geometry(
    checkpoint: Checkpoint,
    dataset: DatasetName = None,
    limit: Limit = 1000,
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Measure and draw the geometry of a model: angles of classes, spread of features, what prototypes stand for."""
    import torch

    from advdpnp.attacks.threat import ThreatModel
    from advdpnp.datasets import load_dataset
    from advdpnp.eval.diagnostics.centres import measure_centres
    from advdpnp.eval.diagnostics.geometry import measure_geometry
    from advdpnp.eval.report.figures.centres import draw_centres
    from advdpnp.eval.report.figures.geometry import draw_geometry
    from advdpnp.eval.run.device import choose_device
    from advdpnp.models.ed_wta import EDWTAHead
    from advdpnp.models.loading import load_model
    from advdpnp.models.network import Network
    from advdpnp.models.prototypes import class_vectors

    chosen = choose_device(device)
    own = checkpoint.suffix == ".py" or (":" in str(checkpoint) and not checkpoint.exists())
    loaded = None if own else load_model(str(checkpoint))
    if loaded is None or not isinstance(loaded.model, Network):
        raise AdvdpnpError(
            f"geometry measures checkpoints of this program, whose features it knows, and {checkpoint} is none; give a "
            "run folder or a .safetensors file"
        )
    network, header = loaded.model, loaded.header
    name = dataset or str(header.get("dataset", ""))
    if not name:
        raise AdvdpnpError(f"{checkpoint} does not tell what it was trained on; choose the images with --dataset")
    data = load_dataset(name, data_root=data_root, train=False)
    attack: dict[str, Any] = header.get("recipe", {}).get("attack", {})
    threat = ThreatModel.parse(attack.get("norm", "linf"), attack.get("eps", "8/255"))
    report, features = measure_geometry(network.to(chosen), data.test.head(limit), threat)
    report |= _drift(checkpoint)
    centres = measure_centres(features[0], network.head)
    report["centres"] = [each.describe() for each in centres]
    folder = out or Path("results") / data.label / "geometry" / loaded.name
    head = network.head
    places = head.positive.detach().to("cpu", torch.float64) if isinstance(head, EDWTAHead) else None
    vectors = class_vectors(head).detach().to("cpu", torch.float64)
    figures = draw_geometry(loaded.name, features, vectors, data.class_names, folder, places)
    figures.append(draw_centres(loaded.name, centres, folder / "geometry-centres.png"))
    drawn = _prototypes(loaded.name, network, name, data_root, folder)
    if drawn is not None:
        report["prototypes"], path = drawn
        figures.append(path)
    write_text(folder / "geometry.json", json.dumps({"model": loaded.name, "dataset": data.name, **report}, indent=1))
    _print(loaded.name, report, data.class_names)
    console.out.print(f"\n{folder / 'geometry.json'} and {len(figures)} figures")


def _drift(checkpoint: Path) -> dict[str, Any]:
    """How far class vectors turned from epoch to epoch, if the run folder tells."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from advdpnp.eval.diagnostics.geometry import drift
    from advdpnp.training.state import VECTORS

    history = checkpoint / VECTORS
    if not (checkpoint.is_dir() and history.exists()):
        return {}
    try:
        return {"drift": drift(load_file(history)["vectors"])}
    except (SafetensorError, KeyError) as error:
        raise AdvdpnpError(f"{history} is damaged; delete it, and drift is left out") from error


def _prototypes(
    name: str, network: "Network", dataset: str, data_root: Path | None, folder: Path
) -> tuple[dict[str, Any], Path] | None:
    """What prototypes stand for, with its figure; None for heads without prototypes."""
    from advdpnp.datasets import load_dataset
    from advdpnp.eval.diagnostics.prototypes import measure_prototypes
    from advdpnp.eval.report.figures.prototypes import draw_prototypes
    from advdpnp.models.prototypes import learned_prototypes

    if learned_prototypes(network.head) is None:
        return None
    try:
        data = load_dataset(dataset, data_root=data_root, validation=0)
    except AdvdpnpError as error:
        console.err.print(f"prototypes are not compared with training images: {error}", style="yellow")
        return None
    found = measure_prototypes(network, data.train)
    path = draw_prototypes(name, found, data.class_names, folder / "geometry-prototypes.png")
    return found.describe(), path


def _print(name: str, report: dict[str, Any], classes: Sequence[str]) -> None:
    found = report["vectors"]
    reach = "" if found["bound_can_be_reached"] else ", which so few dimensions cannot reach"
    console.out.print(
        f"{name}: MinSep {found['min_separation']:.2f} degrees, {found['below_bound']:.2f} below the simplex "
        f"bound of {found['simplex_bound']:.2f}{reach}; class vectors are {found['what']}",
    )
    _table("images", _FEATURES, report["features"])
    _table("medians in feature space", _CENTRES, report["centres"])
    about = report.get("prototypes", {})
    if "difference_ratio" in about and len(classes) <= _CLASSES:
        rows = [
            [label, *(f"{of(ratio):.3g}" for of in (min, median, max)), str(sum(count > 0 for count in won))]
            for label, ratio, won in zip(classes, about["difference_ratio"], about["images_won"], strict=True)
        ]
        console.print_records("", rows, ["|w+ - w-| / |w+|", "smallest", "median", "largest", "sub-classes that win"])


def _table(title: str, keys: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """One line per record, named by its kind; what it lacks is a dash."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    rows = [[record["kind"], *(cell(record.get(key)) for key in keys)] for record in records]
    console.print_records("", rows, [title, *(key.replace("_", " ") for key in keys)])
