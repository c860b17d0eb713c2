"""Checkpoints of this program, and registered architectures with weights of any source."""

import os
from pathlib import Path

from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import MODELS, ModelConfig, Network, build_model
from advdpnp.models.checkpoint import checkpoint_file, has_header, load_checkpoint
from advdpnp.models.sources.request import Found, Request
from advdpnp.models.weights import load_into, read_state_dict, without_prefix


def is_path(spec: str) -> bool:
    """Whether a spec names a file or a folder."""
    # os.path.exists returns False for invalid file names, for which Path.exists raises.
    return Path(spec).suffix == ".safetensors" or (os.path.exists(spec) and not is_registered(spec))


def load_path(request: Request) -> Found:
    """The model of a checkpoint or a run folder."""
    request.refuse_normalisation()
    request.refuse_weights()
    path = checkpoint_file(Path(request.spec))
    model, header = load_checkpoint(path)
    return Found(model, _checkpoint_name(path), model.config.architecture, header)


def _checkpoint_name(path: Path) -> str:
    """The file's stem. Every run has a ``best`` and a ``last`` file, so these get the name of their folder."""
    folder = path.resolve().parent.name
    return {"best": folder, "last": f"{folder}-last"}.get(path.stem, path.stem)


def is_registered(spec: str) -> bool:
    """Whether a spec names a registered architecture."""
    try:
        MODELS.find(spec)
    except AdvdpnpError:
        return False
    return True


def load_registered(request: Request) -> Found:
    """A registered architecture with the weights of a checkpoint or of another program."""
    spec, weights = request.spec, request.weights
    if weights is None:
        raise AdvdpnpError(f"'{spec}' is an architecture without weights; add --weights FILE, or give a checkpoint")
    if has_header(weights):
        request.refuse_normalisation(weights)
        model, header = load_checkpoint(weights)
        if model.config.architecture != spec:
            raise AdvdpnpError(f"{weights} contains a {model.config.architecture}, not a {spec}; give the file alone")
        return Found(model, _checkpoint_name(weights), spec, header)
    return _load_bare_weights(request, weights)


def _load_bare_weights(request: Request, weights: Path) -> Found:
    """Load weights without a header: the data set gives the shapes, the file or the caller the normalisation.

    The normalisation is never guessed, because a wrong one changes both clean and robust accuracy.
    """
    dataset = request.dataset
    if dataset is None:
        raise AdvdpnpError(f"{weights} does not say what it classifies; name the data set, or give a factory")
    state_dict = read_state_dict(weights, request.weights_key)
    stored = [state_dict.get(f"normalise.{name}") for name in ("mean", "std")]
    if stored[0] is not None and stored[1] is not None:
        request.refuse_normalisation(weights)
        mean, std = (tuple(tensor.flatten().tolist()) for tensor in stored if tensor is not None)
    elif request.normalisation is not None:
        mean, std = request.normalisation
    else:
        raise AdvdpnpError(
            f"{weights} does not say how its model normalises images; add --mean and --std (0 and 1 for none), one "
            "value per channel with commas, or give package.module:factory, whose model normalises by itself"
        )
    config = ModelConfig(
        architecture=request.spec,
        classes=dataset.classes,
        channels=dataset.channels,
        image_size=dataset.image_size,
        feature_dim=None,
        head="linear",
        radius=None,
        mean=mean,
        std=std,
    )
    model = build_model(config)
    load_into(model, _as_network(state_dict, model, weights), weights)
    return Found(model, weights.stem, request.spec)


def _as_network(state_dict: dict[str, Tensor], model: Network, path: Path) -> dict[str, Tensor]:
    """Rename the tensors of a bare model to those of ``model``; names not in the backbone belong to the head."""
    own = model.backbone.state_dict()
    state_dict = without_prefix(state_dict, [f"backbone.{name}" for name in own], path)
    if any(name.startswith("backbone.") for name in state_dict):
        return state_dict
    state_dict = without_prefix(state_dict, own, path)
    renamed = {f"backbone.{name}": tensor for name, tensor in state_dict.items() if name in own}
    rest = [name for name in state_dict if name not in own]
    one_layer = len({name.rpartition(".")[0] for name in rest}) == 1
    for name in rest:
        renamed[f"head.{name.rpartition('.')[2]}" if one_layer else name] = state_dict[name]
    return {**renamed, "normalise.mean": model.normalise.mean, "normalise.std": model.normalise.std}
