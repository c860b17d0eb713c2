"""``advdpnp geometry``: angles between the classes of a model, and how tight and separate its features are."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.commands.support import console
from advdpnp.commands.support.options import DataRoot, Device

EPILOG = "Example: `advdpnp geometry runs/my-run --limit 1000`"

Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run folder or a .safetensors file.")]
DatasetName = Annotated[
    str | None, typer.Option(help="Data set whose test images are used.", show_default="the checkpoint's")
]
Limit = Annotated[int, typer.Option(min=2, help="Use only the first N test images.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of JSON and figures.", show_default="results/DATASET/geometry/NAME")
]


def geometry(
    checkpoint: Checkpoint,
    dataset: DatasetName = None,
    limit: Limit = 1000,
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Measure the geometry of a model on clean and attacked images: angles between classes, spread of features."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from advdpnp.attacks.threat import ThreatModel
    from advdpnp.datasets import load_dataset
    from advdpnp.eval.diagnostics.geometry import drift, measure_geometry
    from advdpnp.eval.report.figures.geometry import draw_geometry
    from advdpnp.eval.run.device import choose_device
    from advdpnp.models.loading import load_model
    from advdpnp.models.network import Network
    from advdpnp.models.prototypes import class_vectors
    from advdpnp.training.state import VECTORS

    chosen = choose_device(device)
    loaded = load_model(str(checkpoint))
    network, header = loaded.model, loaded.header
    if not isinstance(network, Network):
        raise AdvdpnpError(f"{checkpoint} is no checkpoint of this program; give a run folder or a .safetensors file")
    name = dataset or str(header.get("dataset", ""))
    if not name:
        raise AdvdpnpError(f"{checkpoint} does not tell what it was trained on; choose the images with --dataset")
    data = load_dataset(name, data_root=data_root, train=False)
    attack: dict[str, Any] = header.get("recipe", {}).get("attack", {})
    threat = ThreatModel.parse(attack.get("norm", "linf"), attack.get("eps", "8/255"))
    report, features = measure_geometry(network.to(chosen), data.test.head(limit), threat)
    history = checkpoint / VECTORS
    if checkpoint.is_dir() and history.exists():
        try:
            report["drift"] = drift(load_file(history)["vectors"])
        except (SafetensorError, KeyError) as error:
            raise AdvdpnpError(f"{history} is damaged; delete it, and drift is left out") from error
    folder = out or Path("results") / data.label / "geometry" / loaded.name
    write_text(folder / "geometry.json", json.dumps({"model": loaded.name, "dataset": data.name, **report}, indent=1))
    vectors = class_vectors(network.head).detach().to("cpu", torch.float64)
    figures = draw_geometry(loaded.name, features, vectors, data.class_names, folder)
    found = report["vectors"]
    reach = "" if found["bound_can_be_reached"] else ", which so few dimensions cannot reach"
    console.out.print(
        f"{loaded.name}: MinSep {found['min_separation']:.2f} degrees, {found['below_bound']:.2f} below the simplex "
        f"bound of {found['simplex_bound']:.2f}{reach}",
        markup=False,
    )
    keys = ("mean_angle_to_own", "mean_angle_to_nearest_rival", "within", "between", "separation_ratio", "silhouette")
    rows = [[f["kind"], *("-" if f[key] is None else f"{f[key]:.3f}" for key in keys)] for f in report["features"]]
    console.print_records("", rows, ["images", *(key.replace("_", " ") for key in keys)])
    console.out.print(f"\n{folder / 'geometry.json'} and {len(figures)} figures", markup=False)
