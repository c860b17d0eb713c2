"""Loads a model by name: a checkpoint, an architecture with weights, a RobustBench model, or a user's factory."""

import importlib
import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError, describe, did_you_mean
from advdpnp.base.randomness import isolated_rng
from advdpnp.models import MODELS, ModelConfig, Network, build_model
from advdpnp.models.checkpoint import checkpoint_file, has_header, load_checkpoint, weights_hash
from advdpnp.models.factories import find_factory, importable, is_source
from advdpnp.models.weights import load_into, read_state_dict

if TYPE_CHECKING:
    from advdpnp.datasets.base import Dataset


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be evaluated: in eval mode, in float32, on the CPU.

    Attributes:
        model: maps float32 images (n, c, h, w) in [0, 1] to logits (n, classes).
        name: the name in tables.
        weights_hash: see ``checkpoint.weights_hash``.
        architecture: the registered name, or the name of the factory or class.
        method: the training method in the header, or empty.
        parameters: number of parameters.
        header: the checkpoint's header; empty for models of other projects.
    """

    model: nn.Module
    name: str
    weights_hash: str
    architecture: str
    method: str
    parameters: int
    header: dict[str, Any]

    def metric(self, name: str) -> float | None:
        """A metric of the saved epoch ("seconds", "min_separation"), or None if the header has none of this name."""
        metrics = self.header.get("metrics")
        value = metrics.get(name) if isinstance(metrics, dict) else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe in the header, without its seed and its description."""
        recipe = self.header.get("recipe")
        described = recipe if isinstance(recipe, dict) else {}
        return {key: value for key, value in described.items() if key not in ("seed", "description")}

    @property
    def training_seed(self) -> int | None:
        """The seed of the recipe in the header, or None without one."""
        recipe = self.header.get("recipe")
        seed = recipe.get("seed") if isinstance(recipe, dict) else None
        return seed if isinstance(seed, int) else None


@dataclass(frozen=True)
class _Found:
    model: nn.Module
    name: str
    architecture: str
    header: dict[str, Any] = field(default_factory=dict)


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, for images in [0, 1]."""


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    dataset: "Dataset | None" = None,
    name: str | None = None,
    normalisation: Normalisation | None = None,
) -> LoadedModel:
    """Load the model that ``spec`` names.

    Args:
        spec: one of
            a checkpoint of this program, or a run folder that contains ``best.safetensors``;
            a registered architecture (``resnet18``, ``timm:resnet50``) with ``weights``;
            ``robustbench:NAME`` or ``robustbench:L2/NAME``, downloaded into torch's hub folder on first use;
            ``package.module:factory`` or ``folder/file.py:factory``, called without arguments; ``weights``, if given,
            replace the weights of the model that it returns.
        weights: a file of weights in any format that ``weights.read_state_dict`` reads.
        dataset: gives the shape of images and the number of classes; the model is then tested on one image.
        name: replaces the name that follows from the spec or the weights file.
        normalisation: the normalisation that the model was trained with; needed for weights of a registered
            architecture that do not contain it.

    Raises:
        AdvdpnpError: the spec names no model, a file or module is missing or damaged, the weights do not fit the
            architecture, a download failed, or the model does not fit the data set.
    """
    load = next((load for matches, load in _KINDS if matches(spec)), None)
    if load is None:
        if spec.replace("-", "").isalnum():
            try:
                MODELS.find(spec)  # perhaps a misspelt architecture: the error suggests similar names
            except AdvdpnpError as error:
                raise AdvdpnpError(f"there is no file or folder '{spec}', and {error}") from None
        raise AdvdpnpError(
            f"'{spec}' is not a checkpoint, a run folder or a known architecture; give a file, a name from "
            "`advdpnp list models`, robustbench:NAME, package.module:factory or file.py:factory"
        )
    with isolated_rng():
        found = load(spec, weights, dataset, normalisation)
        model = found.model.cpu().float().eval()
        if dataset is not None:
            _try(model, found.name, dataset)
    return LoadedModel(
        model=model,
        name=name or found.name,
        weights_hash=weights_hash(model),
        architecture=found.architecture,
        method=str(found.header.get("method", "")),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        header=found.header,
    )


def _refuse(normalisation: Normalisation | None, spec: str) -> None:
    if normalisation is not None:
        raise AdvdpnpError(f"{spec} normalises its images itself; leave out --mean and --std")


# Checkpoints of this program


def _is_path(spec: str) -> bool:
    # os.path.exists returns False for invalid file names, for which Path.exists raises.
    return Path(spec).suffix == ".safetensors" or (os.path.exists(spec) and not _is_registered(spec))


def _load_path(
    spec: str, weights: Path | None, dataset: "Dataset | None", normalisation: Normalisation | None
) -> _Found:
    _refuse(normalisation, spec)
    if weights is not None:
        raise AdvdpnpError(f"{spec} has its own weights; leave out --weights, or name an architecture instead")
    path = checkpoint_file(Path(spec))
    model, header = load_checkpoint(path)
    return _Found(model, _checkpoint_name(path), model.config.architecture, header)


def _checkpoint_name(path: Path) -> str:
    """The file's stem. Every run has a ``best`` and a ``last`` file, so these get the name of their folder."""
    folder = path.resolve().parent.name
    return {"best": folder, "last": f"{folder}-last"}.get(path.stem, path.stem)


# Registered architectures with weights of any source


def _is_registered(spec: str) -> bool:
    try:
        MODELS.find(spec)
    except AdvdpnpError:
        return False
    return True


def _load_registered(
    spec: str, weights: Path | None, dataset: "Dataset | None", normalisation: Normalisation | None
) -> _Found:
    if weights is None:
        raise AdvdpnpError(f"'{spec}' is an architecture without weights; add --weights FILE, or give a checkpoint")
    if has_header(weights):
        _refuse(normalisation, str(weights))
        model, header = load_checkpoint(weights)
        if model.config.architecture != spec:
            raise AdvdpnpError(f"{weights} contains a {model.config.architecture}, not a {spec}; give the file alone")
        return _Found(model, _checkpoint_name(weights), spec, header)
    return _load_bare_weights(spec, weights, dataset, normalisation)


def _load_bare_weights(
    architecture: str, weights: Path, dataset: "Dataset | None", normalisation: Normalisation | None
) -> _Found:
    """Load weights without a header: the data set gives the shapes, the file or the caller the normalisation.

    The normalisation is never guessed, because a wrong one changes both clean and robust accuracy.
    """
    if dataset is None:
        raise AdvdpnpError(f"{weights} does not say what it classifies; name the data set, or give a factory")
    state_dict = read_state_dict(weights)
    stored = [state_dict.get(f"normalise.{name}") for name in ("mean", "std")]
    if stored[0] is not None and stored[1] is not None:
        _refuse(normalisation, str(weights))
        mean, std = (tuple(tensor.flatten().tolist()) for tensor in stored if tensor is not None)
    elif normalisation is not None:
        mean, std = normalisation
    else:
        raise AdvdpnpError(
            f"{weights} does not say how its model normalises images; add --mean and --std (0 and 1 for none), one "
            "value per channel with commas, or give package.module:factory, whose model normalises by itself"
        )
    config = ModelConfig(
        architecture=architecture,
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
    load_into(model, _as_network(state_dict, model), weights)
    return _Found(model, weights.stem, architecture)


def _as_network(state_dict: dict[str, Tensor], model: Network) -> dict[str, Tensor]:
    """Rename the tensors of a bare model to those of ``model``; names not in the backbone belong to the head."""
    if any(name.startswith("backbone.") for name in state_dict):
        return state_dict
    own = model.backbone.state_dict()
    renamed = {f"backbone.{name}": tensor for name, tensor in state_dict.items() if name in own}
    rest = [name for name in state_dict if name not in own]
    one_layer = len({name.rpartition(".")[0] for name in rest}) == 1
    for name in rest:
        renamed[f"head.{name.rpartition('.')[2]}" if one_layer else name] = state_dict[name]
    return {**renamed, "normalise.mean": model.normalise.mean, "normalise.std": model.normalise.std}


# The RobustBench model zoo


def _is_robustbench(spec: str) -> bool:
    return spec.startswith("robustbench:")


def _load_robustbench(
    spec: str, weights: Path | None, dataset: "Dataset | None", normalisation: Normalisation | None
) -> _Found:
    _refuse(normalisation, spec)
    from advdpnp.base.compat import import_robustbench

    if weights is not None:
        raise AdvdpnpError(f"{spec} has its own weights; leave out --weights")
    import_robustbench()
    utils = importlib.import_module("robustbench.utils")
    threat, _, name = spec.removeprefix("robustbench:").rpartition("/")
    benchmark, threat = _benchmark(name, threat, utils.all_models, None if dataset is None else dataset.name)
    folder = Path(torch.hub.get_dir()) / "robustbench"
    try:
        with redirect_stdout(sys.stderr):  # it prints while it downloads
            model = utils.load_model(name, model_dir=folder, dataset=benchmark, threat_model=threat)
    except Exception as error:  # any error of the network, Google Drive or the files
        raise AdvdpnpError(
            f"the RobustBench model '{name}' cannot be loaded ({describe(error)}); check the network connection, or "
            f"put its weights into {folder / benchmark / threat}"
        ) from error
    return _Found(model, name, type(model).__name__)


def _benchmark(name: str, threat: str, models: Any, dataset: str | None) -> tuple[str, str]:
    """The (data set, threat model) that RobustBench lists ``name`` under; prefers ``dataset``, then Linf over L2."""
    listings = [
        (benchmark.value, kind.value)
        for benchmark, kinds in models.items()
        for kind, names in kinds.items()
        if name in names and threat.lower() in ("", kind.value.lower())
    ]
    if not listings:
        known = {known for kinds in models.values() for names in kinds.values() for known in names}
        hint = did_you_mean(name, sorted(known), otherwise="robustbench.github.io lists them")
        raise AdvdpnpError(f"RobustBench has no model called '{name}'{f' for {threat}' * bool(threat)}; {hint}")
    order = ("Linf", "L2", "corruptions", "corruptions_3d")
    return min(listings, key=lambda listing: (listing[0] != dataset, order.index(listing[1])))


# Factories of the user


def _is_factory(spec: str) -> bool:
    module, _, attribute = spec.rpartition(":")
    named = attribute if is_source(module) else f"{module}.{attribute}"
    return all(part.isidentifier() for part in named.split("."))


def _load_factory(
    spec: str, weights: Path | None, dataset: "Dataset | None", normalisation: Normalisation | None
) -> _Found:
    _refuse(normalisation, spec)
    module, _, attribute = spec.rpartition(":")
    # Like ``python -m module`` and ``python file.py``; console scripts have neither folder on their import path.
    with importable(Path(module).parent if is_source(module) else Path()):
        factory = find_factory(module, attribute)
        try:
            model = factory()
        except (Exception, SystemExit) as error:
            raise AdvdpnpError(f"{spec} fails when called without arguments: {describe(error)}; fix it") from error
    if not isinstance(model, nn.Module):
        raise AdvdpnpError(f"{spec} returns a {type(model).__name__}, not a torch.nn.Module; make it return the model")
    if weights is not None:
        load_into(model, read_state_dict(weights), weights)
    return _Found(model, attribute if weights is None else weights.stem, attribute)


def _try(model: nn.Module, name: str, dataset: "Dataset") -> None:
    shape = (dataset.channels, *dataset.image_size)
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *shape))
    except Exception as error:
        size = "x".join(map(str, shape))
        raise AdvdpnpError(
            f"the model '{name}' does not accept the images of {dataset.name} ({size}): {describe(error)}; "
            "choose the data set it was made for"
        ) from error
    if not isinstance(logits, Tensor):
        raise AdvdpnpError(
            f"the model '{name}' returns a {type(logits).__name__}; wrap it in a module that returns only the logits"
        )
    if logits.shape != (1, dataset.classes):
        returned = tuple(logits.shape[1:])
        raise AdvdpnpError(
            f"the model '{name}' returns logits of shape {returned} per image, but {dataset.name} has "
            f"{dataset.classes} classes; choose the data set it was made for"
        )


_Loader = Callable[[str, Path | None, "Dataset | None", Normalisation | None], _Found]

_KINDS: tuple[tuple[Callable[[str], bool], _Loader], ...] = (
    (_is_path, _load_path),
    (_is_registered, _load_registered),
    (_is_robustbench, _load_robustbench),
    (_is_factory, _load_factory),
)
"""The kinds of specs, in the order they are tried: whether a spec is of the kind, and how to load it."""
