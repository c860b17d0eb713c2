"""Recipes: everything that determines a training run, as validated data.

A recipe is resolved from four layers, later ones winning: the defaults here, the budget of the data set
(``recipes/budgets/*.yaml``: the same net, attack and epochs for every method), the method's own file
(``recipes/*.yaml``), and what the user sets.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from advdpnp.base.errors import AdvdpnpError, did_you_mean


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The net. ``head`` null: the one the method needs. ``feature_dim`` null: as wide as the backbone.

    ``radius``: length of the prototypes; ``temperature``: what a prototype head divides its inner products by.

    ``pretrained``: start the backbone from published weights (architectures of timm), which may be downloaded.
    """

    architecture: str = "small-cnn"
    feature_dim: int | None = Field(default=None, ge=1, le=1_000_000)
    head: Literal["linear", "prototype", "centre"] | None = None
    radius: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    pretrained: bool = False


class AttackSection(_Section):
    """The threat model, and the PGD that makes the training images; ``relative_step`` is its step in units of eps.

    ``mode``: whether BatchNorm uses its running statistics ("eval") or the batch's ("train") during the attack; no
    statistics are updated in either.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: str = "8/255"
    steps: int = Field(default=7, ge=1)
    relative_step: float = Field(default=0.25, gt=0)
    mode: Literal["eval", "train"] = "eval"


class OptimiserSection(_Section):
    """SGD. ``clip``: largest norm of the gradient, null for none. Prototypes may have their own decay and momentum."""

    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    prototype_weight_decay: float = Field(default=0.0, ge=0)
    prototype_momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["one-cycle", "cosine", "piecewise", "constant"] = "one-cycle"
    clip: float | None = Field(default=None, gt=0)


class Recipe(_Section):
    """A resolved training run.

    ``method`` holds the method's name and its own values; ``augmentation`` null means the data set's own;
    ``validation`` training images are held out to choose ``best``; ``validation_steps`` is the length of the PGD that
    judges it; ``awp`` is the size gamma of adversarial weight perturbation, from epoch ``awp_start`` on; ``average``
    the decay of a moving average of the weights, which is then what is judged and saved; ``extra_share`` the part of
    every batch that comes from the extra images, if there are any.
    """

    description: str = ""
    method: dict[str, Any]
    model: ModelSection = ModelSection()
    attack: AttackSection = AttackSection()
    optimiser: OptimiserSection = OptimiserSection()
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=2)
    augmentation: Literal["crop-flip", "crop", "none"] | None = None
    validation: int = Field(default=1000, ge=1)
    validation_steps: int = Field(default=10, ge=1)
    awp: float | None = Field(default=None, gt=0)
    awp_start: int = Field(default=0, ge=0)
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
        kind: what messages call such a file ("recipe").

    Raises:
        AdvdpnpError: nothing is called that; the message offers what is nearest.
    """
    if Path(spec).suffix in (".yaml", ".yml"):
        return Path(spec)
    if spec not in files:
        known = f"known: {', '.join(files)}, or the path of a .yaml file"
        hint = did_you_mean(spec, files, otherwise=known)
        raise AdvdpnpError(f"there is no {kind} called '{spec}'; {hint}")
    return files[spec]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        AdvdpnpError: no such file, or it is not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AdvdpnpError(f"cannot read {path}: {error}; check the path") from error
    except yaml.YAMLError as error:
        raise AdvdpnpError(f"{path} is not YAML ({' '.join(str(error).split())}); mend or replace it") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise AdvdpnpError(f"{path} is not a list of `key: value` lines; see those of `advdpnp list recipes`")
    return content


def resolve_recipe(
    recipe: str, dataset: str, overrides: Mapping[str, Any] | None = None, settings: list[str] | None = None
) -> Recipe:
    """Put the layers of a recipe together.

    Args:
        recipe: name of a recipe in the package, or path of a YAML file.
        dataset: canonical name of the data set; its budget is used if there is one.
        overrides: dotted paths to values, such as {"attack.eps": "4/255"}.
        settings: the same as text, "method.beta=2"; the values are read as YAML.

    Raises:
        AdvdpnpError: unknown recipe, unknown path or a value of the wrong kind.
    """
    path = named_file("recipe", recipe, recipe_files())
    values: dict[str, Any] = {}
    budget = Path(str(resources.files("advdpnp.training.recipes"))) / "budgets" / f"{dataset.partition(':')[0]}.yaml"
    if budget.is_file():
        _merge(values, read_yaml(budget))
    _merge(values, read_yaml(path))
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals:
            raise AdvdpnpError(f"'{setting}' sets nothing; write it as key=value, for example attack.steps=10")
        try:
            _set(values, key.strip(), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise AdvdpnpError(f"the value of '{setting}' cannot be read; quote it as YAML would need it") from error
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(values, key, value)
    return parse_recipe(values, str(recipe))


def parse_recipe(values: Mapping[str, Any], origin: str) -> Recipe:
    """Validate plain values as a recipe; ``origin`` is what messages call it."""
    try:
        return Recipe(**_texts(values))
    except ValidationError as error:
        raise AdvdpnpError(f"the recipe '{origin}' does not hold: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """What is wrong in a validated value, in words: "epochs = 0: input should be greater than or equal to 1"."""
    found = []
    for detail in error.errors():
        where = ".".join(map(str, detail["loc"]))
        message = (
            "there is no such value"
            if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument")
            else detail["msg"]
        )
        given = "" if isinstance(detail["input"], dict) or detail["type"] == "missing" else f" = {detail['input']!r}"
        found.append(f"{where}{given}: {message[0].lower()}{message[1:]}")
    return "; ".join(found)


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """YAML reads `eps: 0.1` as a number; a recipe keeps eps as it was written."""
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
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise AdvdpnpError(f"'{key}' names no value of a recipe: '{name}' holds no others")
    values[last] = value
