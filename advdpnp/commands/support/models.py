"""Which models, which data set and which threat model the options of ``eval``, ``detect`` and ``verify`` mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, load_dataset
from advdpnp.eval.choice import default_threat
from advdpnp.models.classifier import InputRange, check_input_range
from advdpnp.models.loading import LoadedModel, load_model
from advdpnp.models.network import to_normalisation


@dataclass(frozen=True)
class ModelOptions:
    """What the command line says about models, besides their names: the options of the same names as text.

    All but ``dtype`` are for the models of ``--model``.
    """

    weights: Sequence[str] = ()
    mean: str | None = None
    std: str | None = None
    weights_key: str | None = None
    input_range: str | None = None
    dtype: str = "auto"

    @property
    def dtype_name(self) -> str | None:
        """As ``load_model`` takes it."""
        return None if self.dtype == "auto" else self.dtype

    @property
    def range(self) -> InputRange | None:
        """``--input-range`` as numbers.

        Raises:
            AdvdpnpError: it is no range.
        """
        return None if self.input_range is None else check_input_range(tuple(self.input_range.split(",")))


def load_models(
    paths: Sequence[str],
    models: Sequence[str],
    options: ModelOptions,
    names: Sequence[str],
    dataset: str | None,
    data_root: Path | None,
    download: bool,
) -> tuple[list[LoadedModel], Dataset]:
    """The checkpoints, then the models of ``--model``, each tried on an image; and the data set, without its training
    images."""
    own = [load_model(path) for path in paths]
    data = choose_dataset(dataset, own, data_root, download)
    # now tried on an image of this data set
    own = [load_model(path, dataset=data, dtype=options.dtype_name) for path in paths]
    others = foreign_models(models, options, data)
    return name_models([*own, *others], names), data


def choose_threat(models: Sequence[LoadedModel], norm: str | None, eps: Sequence[str]) -> tuple[str, list[str]]:
    """Norm and radii: as given, otherwise those of ``default_threat``."""
    radii = [text.strip() for item in eps for text in item.split(",") if text.strip()]
    if eps and not radii:
        raise AdvdpnpError("--eps is empty; write it as 0.03 or 8/255, several with commas")
    norm, usual = default_threat(models, norm)
    return norm, radii or [usual]


def curve_radii(norm: str, eps: Sequence[str]) -> list[str]:
    """The radii of a curve: a quarter of eps to twice eps in steps of a quarter, as texts; one eps must be given.

    Linf leaves out radii above 1, and L0 rounds to whole pixels.
    """
    if len(eps) != 1:
        raise AdvdpnpError("--eps-curve goes from a quarter of one eps to twice that; give one --eps, or none")
    threat = ThreatModel.parse(norm, eps[0])
    numerator, slash, denominator = threat.text.partition("/")
    radii = {}
    for quarters in range(1, 9):
        value = float(numerator) * quarters / 4
        value = max(1, round(value)) if norm == "l0" else value
        text = threat.text if quarters == 4 else f"{value:.6g}{slash}{denominator}"
        if norm != "linf" or threat.eps * quarters / 4 <= 1:
            radii[ThreatModel.parse(norm, text).eps] = text
    return [radii[value] for value in sorted(radii)]


def choose_dataset(name: str | None, own: Sequence[LoadedModel], data_root: Path | None, download: bool) -> Dataset:
    """The named data set; without a name, the one that all checkpoints were trained on."""
    named = {str(model.header["dataset"]) for model in own if model.header.get("dataset")}
    if name is None and len(named) != 1:
        found = (
            f"the checkpoints were trained on {' and '.join(sorted(named))}"
            if named
            else "nothing says what it was trained on"
        )
        raise AdvdpnpError(f"{found}; choose the test images with --dataset")
    return load_dataset(name or named.pop(), data_root=data_root, download=download, train=False)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of ``--mean`` or ``--std``."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise AdvdpnpError(f"{option} '{text}' is not a list of numbers; write 0.49,0.48,0.45 or one number") from None


def foreign_models(models: Sequence[str], options: ModelOptions, data: Dataset) -> list[LoadedModel]:
    """The models of ``--model``."""
    weights = options.weights
    mean, std = _numbers("--mean", options.mean), _numbers("--std", options.std)
    normalisation = to_normalisation(mean, std, data.channels)
    if weights and len(weights) != len(models):
        raise AdvdpnpError(
            f"there are {len(models)} --model and {len(weights)} --weights; give one per --model, in the same order, "
            "`-` for none"
        )
    if normalisation is not None and not models:
        raise AdvdpnpError("--mean and --std are for bare weights; checkpoints normalise their images by themselves")
    if options.input_range is not None and not models:
        raise AdvdpnpError("--input-range is for the models of --model; checkpoints take images in [0, 1]")
    if options.weights_key is not None and not weights:
        raise AdvdpnpError("--weights-key says where the weights are in the file of --weights; give both")
    paths = [None if text == "-" else Path(text) for text in weights] or [None] * len(models)
    return [
        load_model(
            spec, weights=path, dataset=data, normalisation=normalisation, weights_key=options.weights_key,
            input_range=options.range, dtype=options.dtype_name,
        )
        for spec, path in zip(models, paths, strict=True)
    ]  # fmt: skip


def name_models(loaded: Sequence[LoadedModel], names: Sequence[str]) -> list[LoadedModel]:
    """The models under the names of ``--name``; two different models of one name are refused."""
    if any(not name.strip() for name in names):
        raise AdvdpnpError("--name is empty; give the name that tables show")
    if odd := next((name for name in names if not name.isprintable()), None):
        raise AdvdpnpError(f"--name {odd!r} has line breaks or other signs that no table can show; leave them out")
    if names and len(names) != len(loaded):
        raise AdvdpnpError(
            f"there are {len(loaded)} models and {len(names)} --name; give one per model, in the same order"
        )
    named = [replace(model, name=name) for model, name in zip(loaded, names, strict=True)] if names else list(loaded)
    seen: dict[str, str] = {}
    for model in named:
        if seen.setdefault(model.name, model.weights_hash) != model.weights_hash:
            raise AdvdpnpError(
                f"two different models are called '{model.name}'; tell them apart with --name, one per model"
            )
    return named
