"""Recipes: everything that determines a training run, as validated data.

A recipe is merged from four layers, each of which overrides the ones before: the defaults in this module, the budget of
the data set (``recipes/budgets/*.yaml``: the same model, attack and epochs for every method), the file of the method
(``recipes/*.yaml``), before which comes the recipe that it ``extends``, and the user's settings.
"""

from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from advdpnp.base.errors import AdvdpnpError, did_you_mean, with_known_options
from advdpnp.base.untrusted.files import LARGEST_YAML, describe_fault, parse_yaml, read_bounded
from advdpnp.base.untrusted.text import LONGEST_NAME, printable, shown

_SPELLINGS = {"optimizer": "optimiser"}  # as torch writes it; stored recipes have the other


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The model.

    Attributes:
        architecture: a backbone of `advdpnp list models`.
        width: channels of its first stage, if it has that choice (`resnet18`); None for its own.
        activation: its non-linearity, if it has that choice ("relu" leaves the others as they are).
        feature_dim: dimension of the features; None keeps the backbone's width.
        head: None for the head that the method needs.
        radius: length of the prototypes.
        temperature: divisor of a prototype head's inner products.
        subclasses: neurons per class of a +-ED-WTA head.
        winner: how a +-ED-WTA head makes one logit of the scores of a class.
        normalise: normalise images by the mean and standard deviation of the training images; False leaves them in
            [0, 1], so that prototypes of the architecture "pixels" are images.
        pretrained: start the backbone from published weights (architectures of timm), downloaded if necessary.
        weights: checkpoint of this program, or run folder, whose normalisation, backbone and projection the network
            starts from; the head starts anew.
        frozen: train the head alone; needs ``weights`` or ``pretrained``.
    """

    architecture: str = Field(default="small-cnn", max_length=LONGEST_NAME)
    width: int | None = Field(default=None, ge=1, le=4096)
    activation: Literal["relu", "silu"] = "relu"
    feature_dim: int | None = Field(default=None, ge=1, le=1_000_000)
    head: Literal["linear", "prototype", "centre", "ed-wta"] | None = None
    radius: float = Field(default=1.0, gt=0, le=1e6)
    temperature: float = Field(default=1.0, gt=0, le=1e9)
    subclasses: int = Field(default=6, ge=1, le=10_000)
    winner: Literal["max", "logsumexp"] = "max"
    normalise: bool = True
    pretrained: bool = False
    weights: str | None = Field(default=None, max_length=4096)
    frozen: bool = False


class AttackSection(_Section):
    """The threat model, and the PGD attack that generates adversarial training images.

    Attributes:
        norm: norm of the threat model.
        eps: the radius of the threat model, for images in [0, 1]; a number or a fraction.
        steps: number of PGD steps.
        relative_step: step size in units of eps.
        mode: whether BatchNorm uses its running statistics ("eval") or those of the batch ("train") during the attack,
            which never updates the running statistics.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: str = Field(default="8/255", max_length=100)
    steps: int = Field(default=7, ge=1, le=100_000)
    relative_step: float = Field(default=0.25, gt=0, le=1e6)
    mode: Literal["eval", "train"] = "eval"


class OptimiserSection(_Section):
    """SGD and its learning-rate schedule; prototypes may have their own weight decay and momentum.

    Files and settings may also spell the section ``optimizer``.

    Attributes:
        lr: the largest learning rate of the schedule.
        momentum: momentum of SGD, for all weights but the prototypes.
        nesterov: Nesterov's momentum, where there is momentum.
        weight_decay: weight decay of all weights but the prototypes.
        prototype_weight_decay: weight decay of the prototypes.
        prototype_momentum: momentum of the prototypes.
        schedule: how the learning rate changes (see ``advdpnp.training.schedule``).
        beta_lr: learning rate of the scale beta of a +-ED-WTA head, which has neither momentum nor weight decay.
        decay: factor of the learning rates per epoch in the schedule "exponential".
        clip: largest norm of the gradient; None for no clipping.
    """

    lr: float = Field(default=0.1, gt=0, le=1e6)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0, le=1e6)
    prototype_weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    prototype_momentum: float = Field(default=0.9, ge=0, lt=1)
    beta_lr: float = Field(default=1e-4, gt=0, le=1e6)
    schedule: Literal["one-cycle", "cosine", "piecewise", "constant", "exponential"] = "one-cycle"
    decay: float = Field(default=0.95, gt=0, le=1)
    clip: float | None = Field(default=None, gt=0)


class Recipe(_Section):
    """A resolved recipe.

    Attributes:
        description: a line for `advdpnp list recipes`.
        method: the method's name and its own values.
        epochs: passes over the training images.
        batch_size: images per step, over all processes.
        augmentation: None for the data set's default.
        validation: number of training images held out to select the best epoch.
        validation_steps: number of PGD steps of the validation attacks.
        awp: the size gamma of adversarial weight perturbation; None for none.
        awp_start: number of epochs before the perturbation begins.
        average: decay of a moving average of the weights, which is then validated and saved; None for none. It is
            lower in the first steps, so the average soon forgets the random start.
        extra_share: share of extra images in every batch, if there are any.
        precision: precision of the training step; bf16-mixed keeps weights in float32.
        seed: determines everything that is drawn.
    """

    description: str = Field(default="", max_length=10_000)
    method: dict[str, Any]
    model: ModelSection = ModelSection()
    attack: AttackSection = AttackSection()
    optimiser: OptimiserSection = OptimiserSection()
    epochs: int = Field(default=30, ge=1, le=1_000_000)
    batch_size: int = Field(default=128, ge=2, le=1_000_000)
    augmentation: Literal["crop-flip", "crop", "none", "autoaugment", "idbh", "cutmix"] | None = None
    validation: int = Field(default=1000, ge=1, le=10**9)
    validation_steps: int = Field(default=10, ge=1, le=100_000)
    awp: float | None = Field(default=None, gt=0, le=1e6)
    awp_start: int = Field(default=0, ge=0, le=1_000_000)
    average: float | None = Field(default=None, ge=0, lt=1)
    extra_share: float = Field(default=0.5, gt=0, lt=1)
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("precision", mode="before")
    @classmethod
    def _short_names(cls, value: Any) -> Any:
        return {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}.get(str(value), value)

    def to_yaml(self) -> str:
        """The recipe as YAML that ``resolve_recipe`` reads back to the same recipe."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def recipe_files() -> dict[str, Path]:
    """The recipes of the package, by name."""
    return packaged_files("advdpnp.training.recipes")


def packaged_files(package: str) -> dict[str, Path]:
    """The YAML files of a package, by name."""
    folder = Path(str(resources.files(package)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def named_file(kind: str, spec: str, files: Mapping[str, Path]) -> Path:
    """The file that ``spec`` names: one of ``files``, or the path of a YAML file, which need not exist.

    Args:
        kind: the word for such a file in messages ("recipe").

    Raises:
        AdvdpnpError: there is no such file; the message suggests similar names.
    """
    if Path(spec).suffix in (".yaml", ".yml"):
        return Path(spec)
    if spec not in files:
        known = f"known: {', '.join(files)}, or the path of a .yaml file"
        hint = did_you_mean(spec, files, otherwise=known)
        raise AdvdpnpError(f"there is no {kind} called '{spec}'; {hint}")
    return files[spec]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        AdvdpnpError: the file does not exist, is too large, is not YAML, names a key twice or is not a mapping.
    """
    try:
        content = parse_yaml(read_bounded(path, LARGEST_YAML).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AdvdpnpError(f"cannot read {path}: {describe_fault(error)}; check the path") from error
    except ValueError as error:
        raise AdvdpnpError(f"{path} is not YAML ({describe_fault(error)}); fix or replace it") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise AdvdpnpError(f"{path} is not a list of `key: value` lines; see the examples of `advdpnp list recipes`")
    return content


@with_known_options({})
def resolve_recipe(
    recipe: str, dataset: str, overrides: Mapping[str, Any] | None = None, settings: list[str] | None = None
) -> Recipe:
    """Merge the layers of a recipe.

    Args:
        recipe: name of a recipe in the package, or path of a YAML file.
        dataset: canonical name of the data set, whose budget is used if there is one.
        overrides: values by dotted path, such as {"attack.eps": "4/255"}; None leaves a value as it is.
        settings: the same as text, "method.beta=2", with values in YAML.

    Raises:
        AdvdpnpError: there is no such recipe or path, or a value is invalid.
    """
    values: dict[str, Any] = {}
    budget = Path(str(resources.files("advdpnp.training.recipes"))) / "budgets" / f"{dataset.partition(':')[0]}.yaml"
    if budget.is_file():
        _merge(values, read_yaml(budget))
    _merge(values, _read_recipe(recipe))
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals:
            raise AdvdpnpError(f"'{setting}' sets no value; write it as key=value, for example attack.steps=10")
        try:
            _set(values, key.strip(), parse_yaml(text))
        except ValueError as error:
            raise AdvdpnpError(f"the value of {shown(setting)} cannot be read; quote it as YAML requires") from error
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(values, key, value)
    return parse_recipe(values, str(recipe))


def _read_recipe(spec: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe's file, merged into those of the recipe that it ``extends``.

    Args:
        spec: name of a recipe in the package, or path of a YAML file.
        above: the files that extend this one.
    """
    path = named_file("recipe", spec, recipe_files())
    read = read_yaml(path)
    for spelling, name in _SPELLINGS.items():
        if spelling in read and name in read:
            raise AdvdpnpError(f"the recipe {path} has both '{spelling}' and '{name}', which are the same; keep one")
    values = {_SPELLINGS.get(key, key): value for key, value in read.items()}
    base = values.pop("extends", None)
    if base is None:
        return values
    if path.resolve() in above or not isinstance(base, str):
        problem = "extends itself" if isinstance(base, str) else f"extends {base!r}"
        raise AdvdpnpError(f"the recipe {path} {problem}; name one recipe that it builds on, such as `extends: pgd-at`")
    if Path(base).suffix in (".yaml", ".yml"):
        base = str(path.parent / base)  # as the file says it, wherever the command runs
    merged = _read_recipe(base, (*above, path.resolve()))
    names = [each["method"].get("name") for each in (merged, values) if isinstance(each.get("method"), dict)]
    if len(names) == 2 and names[1] not in (None, names[0]):
        del merged["method"]  # the values of another method mean nothing here
    _merge(merged, values)
    return merged


def parse_recipe(values: Mapping[str, Any], origin: str) -> Recipe:
    """Validate plain values as a recipe; ``origin`` is its name in messages."""
    try:
        return Recipe(**_texts(values))
    except ValidationError as error:
        raise AdvdpnpError(f"the recipe '{origin}' is invalid: {explain(error, _names(Recipe))}") from error


def _names(section: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted keys of a section."""
    found = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found += _names(field.annotation, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return found


def explain(error: ValidationError, known: Collection[str] = ()) -> str:
    """The problems of an invalid value in words: "epochs = 0: input should be greater than or equal to 1".

    Args:
        known: the names that a recipe or a method has, for a hint.
    """
    found = []
    for detail in error.errors():
        where = printable(".".join(map(str, detail["loc"])), LONGEST_NAME)
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            nested = [name for name in known if name.endswith(f".{where}")]
            near = did_you_mean(where, nested or known, otherwise="see `advdpnp list recipe-keys`")
            hint = f"did you mean {' or '.join(nested)}?" if nested else near if known else ""
            message = f"there is no such value; {hint}".removesuffix("; ")
        told = isinstance(detail["input"], dict) or detail["type"] == "missing"
        given = "" if told else f" = {shown(detail['input'])}"
        found.append(f"{where}{given}: {message[0].lower()}{message[1:]}")
    return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an eps that YAML read as a number (`eps: 0.1`) to text, because a recipe keeps eps as text."""
    attack = values.get("attack")
    if isinstance(attack, Mapping) and isinstance(attack.get("eps"), int | float):
        return {**values, "attack": {**attack, "eps": str(attack["eps"])}}
    return dict(values)


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    top, dot, rest = key.partition(".")
    *path, last = f"{_SPELLINGS.get(top, top)}{dot}{rest}".split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise AdvdpnpError(f"'{key}' is not a value of a recipe: '{name}' has no values of its own")
    values[last] = value
