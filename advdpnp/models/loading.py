"""Loads a model by name: a checkpoint, an architecture with weights, a RobustBench model, or a user's factory."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advdpnp.base.errors import AdvdpnpError, describe, with_known_options
from advdpnp.base.randomness import isolated_rng
from advdpnp.base.untrusted.text import LONGEST_NAME, printable
from advdpnp.models import MODELS
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.classifier import InputRange, as_classifier, dtype_name, to_dtype
from advdpnp.models.network import Normalisation
from advdpnp.models.sources.checkpoints import is_path, is_registered, load_path, load_registered
from advdpnp.models.sources.factories import is_factory, is_source, load_factory, normalised
from advdpnp.models.sources.hugging_face import is_hugging_face, load_hugging_face
from advdpnp.models.sources.programs import is_program, load_program
from advdpnp.models.sources.request import Found, Request
from advdpnp.models.sources.robustbench import is_robustbench, load_robustbench

if TYPE_CHECKING:
    from advdpnp.datasets.base import Dataset


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be evaluated: in eval mode, on the CPU. It can be called like its ``model``.

    Attributes:
        model: maps float32 images (n, c, h, w) in [0, 1] to logits (n, classes); the net for other libraries.
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

    def __post_init__(self) -> None:
        for field in ("name", "architecture", "method"):  # a file's name may hold signs that no table can show
            object.__setattr__(self, field, printable(getattr(self, field), LONGEST_NAME))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1]."""
        logits: Tensor = self.model(x)
        return logits

    @property
    def dtype(self) -> str:
        """Precision of the weights, in which verdicts are made: "float32", "bfloat16"..."""
        return dtype_name(self.model)

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


@with_known_options(dict.fromkeys(("mean", "std"), "write normalisation=((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))"))
def load_model(
    spec: str | Path,
    *,
    weights: Path | None = None,
    dataset: "Dataset | None" = None,
    name: str | None = None,
    normalisation: Normalisation | None = None,
    weights_key: str | None = None,
    input_range: InputRange | None = None,
    dtype: str | None = None,
) -> LoadedModel:
    """Load the model that ``spec`` names.

    Args:
        spec: one of
            a checkpoint of this program, or a run folder that contains ``best.safetensors``;
            a registered architecture (``resnet18``, ``timm:resnet50``) with ``weights``;
            ``robustbench:NAME`` or ``robustbench:L2/NAME``, downloaded into torch's hub folder on first use;
            ``hf:NAME_OR_FOLDER``, an image classifier of Hugging Face with its processor (the extra ``hf``);
            ``torchscript:FILE`` or ``export:FILE``, a program of ``torch.jit.save`` or ``torch.export.save``, which
            can run any code when it is loaded;
            ``package.module:factory`` or ``folder/file.py:factory``, called without arguments; ``weights``, if given,
            replace the weights of the model that it returns.
        weights: a file of weights in any format that ``weights.read_state_dict`` reads.
        dataset: gives the shape of images and the number of classes; the model is then tested on one image.
        name: replaces the name that follows from the spec or the weights file.
        normalisation: the normalisation that the model was trained with; needed for weights of a registered
            architecture that do not contain it. A factory's net gets it as its first layer.
        weights_key: where the weights are in their file ("ema"); None finds the usual places.
        input_range: the values that the model expects for black and white, if not (0, 1): (0, 255), (-1, 1).
        dtype: evaluate with weights of this precision ("float32", "bfloat16"); None leaves them as they are.

    Raises:
        AdvdpnpError: the spec names no model, a file or module is missing or damaged, the weights do not fit the
            architecture, a download failed, or the model does not fit the data set.

    Example:
        >>> loaded = advdpnp.load_model("runs/my-run")  # doctest: +SKIP
        >>> loaded(images).argmax(1), loaded.name, loaded.model  # doctest: +SKIP
    """
    spec = str(spec)
    with isolated_rng():
        found = _loader(spec)(Request(spec, weights, dataset, normalisation, weights_key))
        if found.header:
            _refuse_range(found.name, input_range)
        net = to_dtype(as_classifier(found.model).net, dtype)
        classifier = as_classifier(net, input_range).cpu().eval()
        if dataset is not None:
            _try(classifier, found.name, dataset)
    model = classifier.simplest
    return LoadedModel(
        model=model,
        name=name or found.name,
        weights_hash=weights_hash(model),
        architecture=found.architecture,
        method=str(found.header.get("method", "")),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        header=found.header,
    )


def as_loaded(
    model: Callable[..., Any],
    name: str | None = None,
    input_range: InputRange | None = None,
    normalisation: Normalisation | None = None,
) -> LoadedModel:
    """A caller's own model as one that was loaded, with its modes, on its device.

    Args:
        model: a module or a function, or what ``load_model`` returned.
        name: in tables; None takes that of a loaded model, or "model".
        input_range: as for ``load_model``.
        normalisation: that the model was trained with and does not do itself; for a model that was loaded it is an
            option of ``load_model``.

    Raises:
        AdvdpnpError: it is no model, its weights have no gradients, the range is none, or it would normalise twice.
    """
    if normalisation is not None and isinstance(model, LoadedModel):
        raise AdvdpnpError(
            f"load_model has settled how '{model.name}' normalises its images; leave out mean and std, or give "
            "normalisation=(mean, std) to load_model, which knows whether it needs one"
        )
    net = net_of(model if normalisation is None else normalised(model, normalisation), input_range)
    if isinstance(model, LoadedModel):
        return replace(model, model=net, weights_hash=weights_hash(net), name=name or model.name)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    inner = as_classifier(model).net
    kind = type(inner).__name__
    return LoadedModel(net, name or "model", weights_hash(net), kind, "", parameters, {})


def net_of(model: Callable[..., Any], input_range: InputRange | None = None) -> nn.Module:
    """A caller's own model, or one that was loaded, as a module that maps images in [0, 1] to logits.

    Raises:
        AdvdpnpError: it is no model, its weights have no gradients, or the range is none or that of a checkpoint.
    """
    if isinstance(model, LoadedModel) and model.header:
        _refuse_range(model.name, input_range)
    classifier = as_classifier(model.model if isinstance(model, LoadedModel) else model, input_range)
    tensors = (*classifier.parameters(), *classifier.buffers())
    if any(is_lazy(tensor) for tensor in tensors):
        raise AdvdpnpError("the model has lazy layers, whose weights its first forward makes; call it once on images")
    if any(tensor.is_meta for tensor in tensors):
        raise AdvdpnpError("the model is on the device meta, which holds no weights; load them")
    if any(tensor.is_inference() for tensor in tensors):
        raise AdvdpnpError("the model was made inside torch.inference_mode, which has no gradients; make it outside")
    return classifier.simplest


def _refuse_range(name: str, input_range: InputRange | None) -> None:
    if input_range is not None:
        raise AdvdpnpError(f"the checkpoint '{name}' takes images in [0, 1]; leave out the input range")


def _loader(spec: str) -> Callable[[Request], Found]:
    if is_source(spec):
        raise AdvdpnpError(f"{spec} is a Python file; write {spec}:FUNCTION, the function that builds the model")
    load = next((load for matches, load in _KINDS if matches(spec)), None)
    if load is not None:
        return load
    if spec.replace("-", "").isalnum():
        try:
            MODELS.find(spec)  # perhaps a misspelt architecture: the error suggests similar names
        except AdvdpnpError as error:
            raise AdvdpnpError(f"there is no file or folder '{spec}', and {error}") from None
    raise AdvdpnpError(
        f"'{spec}' is not a checkpoint, a run folder or a known architecture; give a file, a name from "
        "`advdpnp list models`, robustbench:NAME, hf:NAME, torchscript:FILE, export:FILE, package.module:factory or "
        "file.py:factory"
    )


def _try(model: nn.Module, name: str, dataset: "Dataset") -> None:
    shape = (dataset.channels, *dataset.image_size)
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *shape))
    except Exception as error:
        size = "x".join(map(str, shape))
        remedy = "" if isinstance(error, AdvdpnpError) else "; choose the data set it was made for, or fix its forward"
        raise AdvdpnpError(
            f"the model '{name}' does not accept the images of {dataset.name} ({size}): {describe(error)}{remedy}"
        ) from error
    if not isinstance(logits, Tensor):
        raise AdvdpnpError(
            f"the model '{name}' returns a {type(logits).__name__}; wrap it in a module that returns only the logits"
        )
    if logits.dim() != 2 or len(logits) != 1:
        raise AdvdpnpError(
            f"the model '{name}' returns a tensor of shape {tuple(logits.shape)} for one image; make its forward "
            "return logits (n, classes) for n images, for n = 1 too"
        )
    if logits.shape[1] != dataset.classes:
        raise AdvdpnpError(
            f"the model '{name}' has {logits.shape[1]} classes, but {dataset.name} has {dataset.classes}; choose the "
            "data set it was made for"
        )


_KINDS: tuple[tuple[Callable[[str], bool], Callable[[Request], Found]], ...] = (
    (is_path, load_path),
    (is_registered, load_registered),
    (is_robustbench, load_robustbench),
    (is_hugging_face, load_hugging_face),
    (is_program, load_program),
    (is_factory, load_factory),
)
"""The kinds of specs, in the order they are tried: whether a spec is of the kind, and how to load it."""
