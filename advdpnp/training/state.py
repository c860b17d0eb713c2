"""The files of a training run: the state to resume from, the networks and the metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path, write_text
from advdpnp.models.checkpoint import save_checkpoint
from advdpnp.models.network import Network
from advdpnp.training.recipe import Recipe, parse_recipe
from advdpnp.training.schedule import PROLONGABLE

STATE = "training.pt"
VECTORS = "class_vectors.safetensors"
"""The class vectors after each finished epoch: (epochs, classes, dim)."""
RUN_FILES = ("best.safetensors", "last.safetensors", "metrics.csv", VECTORS)
"""The files of finished epochs, without the state."""

_VERSION = 2
RankState = dict[str, dict[str, Tensor]]


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the complete state of a run to one file."""
    # Through an open stream, because torch.save hides the reason of a failed write if it gets a path.
    with atomic_path(folder / STATE) as temporary, open(temporary, "wb") as stream:
        torch.save({"version": _VERSION, **state}, stream)


def load_state(folder: Path, recipe: Recipe, data: str, device: torch.device) -> dict[str, Any]:
    """Read the state that ``save_state`` wrote.

    Args:
        recipe: the state must have the same, or one of fewer epochs if its schedule can be prolonged.
        data: hash of the training images; the state must have the same hash.

    Raises:
        AdvdpnpError: the state is damaged or of another version, recipe or data, or the best network is missing.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state["version"] != _VERSION:
            raise AdvdpnpError(f"{path} was written by another version of advdpnp; train under another --name")
        missing = {"recipe", "data", "epoch", "step", "network", "average", "optimiser"} - set(state)
        if missing:
            raise KeyError(*missing)
        stored = parse_recipe(yaml.safe_load(state["recipe"]), str(path))
    except AdvdpnpError:
        raise
    except Exception as error:  # torch.load raises errors of many types on damaged files
        raise AdvdpnpError(
            f"{path} is damaged and cannot be resumed from; choose another --name, or remove the folder and train "
            "again (the best and last files, if present, still contain the networks of finished epochs)"
        ) from error
    if state["epoch"] and not (folder / "best.safetensors").exists():
        raise AdvdpnpError(
            f"{folder} has no best.safetensors; choose another --name, or remove the folder and train again"
        )
    _require_same_recipe(folder, stored, recipe, state["epoch"])
    if state["data"] != data:
        raise AdvdpnpError(f"{folder} contains a run on other training images; use the same data or another --name")
    return state


def require_no_run_files(folder: Path) -> None:
    """Check that a run without a saved state, which starts from scratch, overwrites no files of finished epochs.

    Raises:
        AdvdpnpError: the folder contains such files.
    """
    left = [name for name in RUN_FILES if (folder / name).exists()]
    if left:
        raise AdvdpnpError(
            f"{folder} contains {', '.join(left)} but no {STATE}, so there is no state to resume from; "
            "choose another --name, or remove the folder and train again"
        )


def save_epoch(
    folder: Path,
    network: Network,
    header: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    vectors: Sequence[Tensor],
    *,
    best: bool,
) -> None:
    """Write the files of a finished epoch: the network as ``last`` (and ``best``), the metrics and class vectors."""
    if best:
        save_checkpoint(folder / "best.safetensors", network, header)
    save_checkpoint(folder / "last.safetensors", network, header)
    with atomic_path(folder / VECTORS) as temporary:
        save_file({"vectors": torch.stack(list(vectors))}, temporary)
    write_text(folder / "metrics.csv", pd.DataFrame(list(metrics)).to_csv(index=False))


def gather_rank_state(fabric: Fabric, network: nn.Module, sums: dict[str, Tensor]) -> RankState:
    """State that differs between processes, with shape (processes, ...); empty for a single process.

    Processes have different BatchNorm statistics until the next forward of the training step, and the inner attack uses
    them before that.
    """
    if fabric.world_size == 1:
        return {}
    buffers = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
    return dict(fabric.all_gather({"buffers": buffers, "sums": sums}))


def restore_rank_state(
    saved: RankState, fabric: Fabric, network: nn.Module, sums: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Restore the buffers of this process and return its sums, if the number of processes is still the same."""
    local = {
        kind: {name: gathered[fabric.global_rank] for name, gathered in values.items()}
        for kind, values in saved.items()
        if all(len(gathered) == fabric.world_size for gathered in values.values())
    }
    for name, buffer in network.named_buffers():
        buffer.copy_(local.get("buffers", {}).get(name, buffer))
    return local.get("sums", sums)


def _require_same_recipe(folder: Path, old: Recipe, new: Recipe, finished: int) -> None:
    """Check that a run can go on with another recipe than its own: one that only asks for other epochs.

    Args:
        finished: number of finished epochs.
    """
    if old == new:
        return
    if old.model_copy(update={"epochs": new.epochs}) != new:
        changed = _changed_lines(old, new)
        raise AdvdpnpError(f"{folder} contains a run of another recipe ({changed}); use its values or another --name")
    if new.epochs < finished:
        raise AdvdpnpError(f"the run in {folder} has finished {_epochs(finished)}; give --epochs {finished} or more")
    schedule = new.optimiser.schedule
    if schedule not in PROLONGABLE:
        raise AdvdpnpError(
            f"the run in {folder} is planned for {_epochs(old.epochs)}, over which the schedule {schedule} spreads the "
            f"learning rate; give --epochs {old.epochs}, or train {new.epochs} from the start under another --name "
            f"(runs with optimiser.schedule={' or '.join(PROLONGABLE)} can be prolonged)"
        )


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _changed_lines(old: Recipe, new: Recipe) -> str:
    before, after = old.to_yaml().splitlines(), new.to_yaml().splitlines()
    has = [f"'{line.strip()}'" for line in before if line not in after]
    lacks = [f"'{line.strip()}'" for line in after if line not in before]
    return "; ".join(
        f"{word} {', '.join(lines[:3])}" for word, lines in (("it has", has), ("it lacks", lacks)) if lines
    )
