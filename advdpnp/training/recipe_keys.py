"""Every key of a recipe with its default, range and meaning, read from the models that validate them."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from advdpnp.training.methods import METHODS
from advdpnp.training.methods.base import Common
from advdpnp.training.recipe import Recipe

_SECTION = re.compile(r"^Attributes:\n((?:[ ]+.*\n?|\n)*)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", re.MULTILINE)

_AS_WRITTEN = {"None": "null", "False": "false", "True": "true"}  # in YAML


@dataclass(frozen=True)
class RecipeKey:
    """One key, as ``--set`` and a recipe file take it.

    Attributes:
        default: as YAML; "" where a value must be given.
        range: the values that are valid, in words.
        meaning: what it does; of a method's value, after the methods that have it.
    """

    key: str
    default: str
    range: str
    meaning: str


def recipe_keys() -> list[RecipeKey]:
    """All keys in the order of a recipe, with those of the methods in place of ``method``."""
    return list(_keys(Recipe, ""))


def _keys(section: type[BaseModel], prefix: str) -> Iterator[RecipeKey]:
    meanings = attributes(section)
    for name, field in section.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        elif name == "method":
            yield RecipeKey("method.name", "", ", ".join(METHODS.names()), "the training method")
            yield from _method_keys()
        else:
            yield _key(prefix + name, field, meanings[name])


def _method_keys() -> list[RecipeKey]:
    """The values of methods: first those that all have, then the others with the methods that have them so."""
    common: Mapping[str, FieldInfo] = Common.__pydantic_fields__  # type: ignore[attr-defined]
    everywhere = {name: _key(f"method.{name}", field, attributes(Common)[name]) for name, field in common.items()}
    own: dict[RecipeKey, list[str]] = {}
    for entry in METHODS:
        meanings = attributes(entry.build) if inspect.isclass(entry.build) else {}
        for name, field in getattr(entry.build, "__pydantic_fields__", {}).items():
            key = _key(f"method.{name}", field, meanings.get(name, ""))
            if key != everywhere.get(name):
                own.setdefault(key, []).append(entry.name)
    rows = [replace(key, meaning=f"{', '.join(methods)}: {key.meaning}") for key, methods in own.items()]
    return [*everywhere.values(), *sorted(rows, key=lambda row: row.key)]


def _key(key: str, field: FieldInfo, meaning: str) -> RecipeKey:
    default = "" if field.is_required() else yaml.safe_dump(field.get_default()).splitlines()[0]
    return RecipeKey(key, default, _range(field.annotation, field.metadata), meaning)


def _range(annotation: Any, bounds: list[Any]) -> str:
    """The valid values in words: "ce, kl", "1 to 4096", "above 0, or null"."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, parts))
    if type(None) in parts:
        (inner,) = (part for part in parts if part is not type(None))
        return f"{_range(inner, bounds)}, or null"
    if annotation is bool:
        return "true, false"
    limits = {name: getattr(each, name) for each in bounds for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounded = " and ".join(f"{words[name]} {_number(limit)}" for name, limit in limits.items())
    return bounded or {str: "text", int: "whole number", float: "number"}.get(annotation, "text")


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value}"


def attributes(documented: type) -> dict[str, str]:
    """The attributes that the docstrings of a class and its bases describe, by name, with values as YAML has them."""
    found: dict[str, str] = {}
    for each in reversed(documented.__mro__):
        section = _SECTION.search(inspect.cleandoc(each.__dict__.get("__doc__") or "") + "\n")
        for names, text in _ATTRIBUTE.findall(section[1]) if section else []:
            meaning = " ".join(text.split()).replace("``", "`").removesuffix(".")
            for python, written in _AS_WRITTEN.items():
                meaning = re.sub(rf"\b{python}\b", written, meaning)
            found |= dict.fromkeys(names.replace(" ", "").split(","), meaning)
    return found
