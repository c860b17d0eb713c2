"""The JSON header of a checkpoint: the one schema that it is read through."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from advdpnp.base.untrusted.files import STRICT, Name, Text, parse_json, validated
from advdpnp.base.untrusted.text import shown
from advdpnp.models.network import ModelConfig

FORMAT = 1
"""Version of the header; a reader rejects newer versions than its own."""

LARGEST = 2**22
"""Bytes of a header: 20,000 classes with long names have a quarter of that."""


def _check_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of any version: its values are hashed, and these are used."""
    if any(isinstance(value, float) and not math.isfinite(value) for value in _values(recipe)):
        raise ValueError("a recipe has finite numbers alone")
    seed, attack = recipe.get("seed"), recipe.get("attack", {})
    if isinstance(seed, bool) or not (seed is None or (isinstance(seed, int) and 0 <= seed < 2**63)):
        raise ValueError(f"seed = {shown(seed)} is no seed")
    if not isinstance(attack, dict):
        raise ValueError(f"attack = {shown(attack)} is no mapping")
    for name in ("norm", "eps"):
        value = attack.get(name, "")
        if isinstance(value, bool) or not isinstance(value, str | int | float) or len(str(value)) > 100:
            raise ValueError(f"attack.{name} = {shown(value)} is neither a number nor a word")
    return recipe


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each)
    else:
        yield value


class Header(BaseModel):
    """What is read of a header; all else in it is passed over.

    Attributes:
        format: see ``FORMAT``.
        model: what ``build_model`` is given.
        name: of the run.
        dataset: spec of the data set that the model was trained on.
        class_names: in the order of the logits.
        method: the training method.
        recipe: all that determined the training; {} if unknown.
        metrics: of the saved epoch.
        versions: of the software.
    """

    model_config = STRICT | ConfigDict(extra="ignore", allow_inf_nan=True)  # a metric may be NaN

    format: Annotated[int, Field(ge=1, le=FORMAT)]
    model: ModelConfig
    name: Text = ""
    dataset: Annotated[str, Field(max_length=4096)] = ""
    class_names: Annotated[list[Text], Field(max_length=1_000_000)] = []
    method: Text = ""
    recipe: Annotated[dict[str, Any], AfterValidator(_check_recipe)] = {}
    metrics: Annotated[dict[Name, float | int | str | None], Field(max_length=1_000)] = {}
    versions: Annotated[dict[Name, Text], Field(max_length=1_000)] = {}


_HEADER = TypeAdapter(Header)


class NewerFormat(ValueError):
    """The header is of a version that this program does not know."""


def parse_header(text: str) -> Header:
    """The header of a checkpoint.

    Raises:
        NewerFormat: its format is newer than ``FORMAT``.
        ValueError: it is damaged; the message names the field.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} characters, more than {LARGEST:,}")
    content = parse_json(text)
    if isinstance(content, dict) and isinstance(number := content.get("format"), int) and number > FORMAT:
        raise NewerFormat(f"format {shown(number)}, this one reads up to {FORMAT}")
    return validated(_HEADER, content)
