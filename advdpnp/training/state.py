"""The files of a training run: the state that a stopped run continues from, the networks and the metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path, write_text
from advdpnp.models.checkpoint import save_checkpoint
from advdpnp.models.network import Network

STATE = "training.pt"
VECTORS = "class_vectors.safetensors"
"""How prototypes moved: (epochs, classes, dim), one entry per finished epoch."""
RUN_FILES = ("best.safetensors", "last.safetensors", "metrics.csv", VECTORS)
"""What finished epochs leave beside the state."""

_VERSION = 2
RankState = dict[str, dict[str, Tensor]]


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write everything that the next step depends on, in one file."""
    # Through an open stream: torch.save given a path hides why it could not write.
    with atomic_path(folder / STATE) as temporary, open(temporary, "wb") as stream:
        torch.save({"version": _VERSION, **state}, stream)


def load_state(folder: Path, recipe: str, data: str, device: torch.device) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Args:
        recipe: as YAML; the state must be of the same.
        data: hash of the training images; the state must be of the same.

    Raises:
        AdvdpnpError: the state is damaged, of another version, recipe or data, or the best network is gone.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if state["version"] != _VERSION:
            raise AdvdpnpError(f"{path} was written by another version of advdpnp; train under another --name")
        missing = {"recipe", "data", "epoch", "step", "network", "average", "optimiser"} - set(state)
        if missing:
            raise KeyError(*missing)
    except AdvdpnpError:
        raise
    except Exception as error:  # torch.load raises whatever the unpickler meets in a damaged file
        raise AdvdpnpError(
            f"{path} is damaged and cannot be resumed from; choose another --name, or remove the folder and train "
            "again (best and last, if they are there, still hold the networks of finished epochs)"
        ) from error
    if state["epoch"] and not (folder / "best.safetensors").exists():
        raise AdvdpnpError(
            f"{folder} has lost its best.safetensors; choose another --name, or remove the folder and train again"
        )
    if state["recipe"] != recipe:
        changed = _changed_lines(state["recipe"], recipe)
        raise AdvdpnpError(f"{folder} holds a run of another recipe ({changed}); use its values or another --name")
    if state["data"] != data:
        raise AdvdpnpError(f"{folder} holds a run on other training images; use the same data or another --name")
    return state


def require_no_run_files(folder: Path) -> None:
    """A run without a saved state starts again, and would overwrite the files of finished epochs.

    Raises:
        AdvdpnpError: the folder holds such files.
    """
    left = [name for name in RUN_FILES if (folder / name).exists()]
    if left:
        raise AdvdpnpError(
            f"{folder} holds {', '.join(left)} but no {STATE}, so there is nothing to continue from; "
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
    """Write the files of a finished epoch: the network as ``last``, and as ``best`` if it is; metrics and vectors."""
    if best:
        save_checkpoint(folder / "best.safetensors", network, header)
    save_checkpoint(folder / "last.safetensors", network, header)
    with atomic_path(folder / VECTORS) as temporary:
        save_file({"vectors": torch.stack(list(vectors))}, temporary)
    write_text(folder / "metrics.csv", pd.DataFrame(list(metrics)).to_csv(index=False))


def gather_rank_state(fabric: Fabric, network: nn.Module, sums: dict[str, Tensor]) -> RankState:
    """What processes do not share between two steps, (processes, ...) each; empty if there is one process.

    Each has its own BatchNorm statistics until the next forward, and the inner attack comes before that.
    """
    if fabric.world_size == 1:
        return {}
    buffers = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
    return dict(fabric.all_gather({"buffers": buffers, "sums": sums}))


def restore_rank_state(
    saved: RankState, fabric: Fabric, network: nn.Module, sums: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Give this process its own buffers and return its own sums, if as many processes continue as were stopped."""
    mine = {
        kind: {name: each[fabric.global_rank] for name, each in values.items()}
        for kind, values in saved.items()
        if all(len(each) == fabric.world_size for each in values.values())
    }
    for name, buffer in network.named_buffers():
        buffer.copy_(mine.get("buffers", {}).get(name, buffer))
    return mine.get("sums", sums)


def _changed_lines(old: str, new: str) -> str:
    before, after = old.splitlines(), new.splitlines()
    has = [f"'{line.strip()}'" for line in before if line not in after]
    lacks = [f"'{line.strip()}'" for line in after if line not in before]
    if not has and not lacks:
        return "its values are in another order"
    return "; ".join(
        f"{word} {', '.join(lines[:3])}" for word, lines in (("it has", has), ("it lacks", lacks)) if lines
    )
