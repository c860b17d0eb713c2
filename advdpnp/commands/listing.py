"""``advdpnp list``: the registries as tables."""

import importlib
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Annotated

import typer

from advdpnp.base.errors import AdvdpnpError, did_you_mean
from advdpnp.base.libraries import offered
from advdpnp.commands.support import console
from advdpnp.commands.support.declared import Declared, constants, declared, source_file

EPILOG = "Example: `advdpnp list attacks`"

Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND", help="attacks, corruptions, datasets, methods, models, recipe-keys, recipes, scores or studies."
    ),
]

#: Kind to (module, registry). Modules are imported only where their source does not tell all.
_REGISTRIES = {
    "attacks": ("advdpnp.attacks", "ATTACKS"),
    "corruptions": ("advdpnp.corruption", "CORRUPTIONS"),
    "datasets": ("advdpnp.datasets", "DATASETS"),
    "methods": ("advdpnp.training.methods", "METHODS"),
    "models": ("advdpnp.models", "MODELS"),
    "scores": ("advdpnp.eval.detection.library", "SCORES"),
}

_APART = {"BENCHMARK": "", "EXTRA": " (extra)"}


def list_(kind: Kind = None) -> None:
    """Print everything there is of one kind: names, descriptions and sources."""
    if kind is None:
        raise AdvdpnpError(f"say what to list: advdpnp list {' | '.join(_kinds())}")
    console.print_records(kind, *catalogue(kind))


def _kinds() -> list[str]:
    return sorted([*_REGISTRIES, "recipe-keys", "recipes", "studies"])


def catalogue(kind: str) -> tuple[list[list[str]], list[str]]:
    """Rows and column names of everything of one kind.

    Raises:
        AdvdpnpError: there is no such kind.
    """
    if kind == "recipe-keys":
        from advdpnp.training.recipe_keys import recipe_keys

        return [[key.key, key.default, key.range, key.meaning] for key in recipe_keys()], [
            "key", "default", "range", "meaning",
        ]  # fmt: skip
    if kind == "recipes":
        from advdpnp.training.recipe import read_yaml, recipe_files

        rows = [[name, str(read_yaml(path).get("description", ""))] for name, path in recipe_files().items()]
        return rows, ["name", "what it is"]
    if kind == "studies":
        from advdpnp.training.recipe import packaged_files, read_yaml

        files = packaged_files("advdpnp.training.studies")
        return [[name, str(read_yaml(path)["description"])] for name, path in files.items()], ["name", "what it asks"]
    if kind not in _REGISTRIES:
        hint = did_you_mean(kind, _kinds(), otherwise=f"choose one of {', '.join(_kinds())}")
        hint = "--norm takes linf, l2, l1 and l0" if kind in ("norm", "norms") else hint
        raise AdvdpnpError(f"there is no list of '{kind}'; {hint}")
    entries = _entries(kind)
    cited = zip(entries, _sources(entries), strict=True)
    if kind == "corruptions":
        rows = [[entry.name, _group(entry), entry.description, source] for entry, source in cited]
        return rows, ["name", "group", "what it is", "source"]
    rows = [[entry.name, entry.description, source] for entry, source in cited]
    if kind == "attacks":
        rows += [[f"{library}:...", ", ".join(names), "as installed"] for library, names in offered().items()]
    return rows, ["name", "what it is", "source"]


def _entries(kind: str) -> list[Declared]:
    """As our source declares them; as registered where a distribution adds some, or --plugin has imported torch."""
    module, registry = _REGISTRIES[kind]
    added = "torch" in sys.modules or entry_points(group=f"advdpnp.{kind}")
    if not added and (found := declared(module.removesuffix(".library"))):
        return found
    made = getattr(importlib.import_module(module), registry)
    groups = {each.name: made.make(each.name).group for each in made} if kind == "corruptions" else {}
    return [Declared(each.name, each.description, each.reference, groups.get(each.name, "")) for each in made]


def _sources(entries: Iterable[Declared]) -> Iterator[str]:
    """The sources of entries; one that has been told before is named by what stands before its title."""
    told = set()
    for entry in entries:
        yield f"{entry.reference.partition(',')[0]} (above)" if entry.reference in told else entry.reference
        told |= {entry.reference} - {""}


def _group(corruption: Declared) -> str:
    """Of a corruption, and whether it is outside the 15 types of the mean."""
    types = constants(source_file("advdpnp.corruption.types"))
    apart = next((word for key, word in _APART.items() if corruption.name in types[key]), " (own)")
    return f"{corruption.group}{apart}"
