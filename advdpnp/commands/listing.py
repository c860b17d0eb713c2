"""``advdpnp list``: the registries as tables."""

import importlib
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from advdpnp.base.errors import AdvdpnpError, did_you_mean
from advdpnp.base.registry import Entry
from advdpnp.commands.support import console

EPILOG = "Example: `advdpnp list attacks`"

Kind = Annotated[
    str | None,
    typer.Argument(
        metavar="KIND", help="attacks, corruptions, datasets, methods, models, recipe-keys, recipes, scores or studies."
    ),
]

#: Kind to (module, registry). Modules are imported only when asked for.
_REGISTRIES = {
    "attacks": ("advdpnp.attacks", "ATTACKS"),
    "corruptions": ("advdpnp.corruption", "CORRUPTIONS"),
    "datasets": ("advdpnp.datasets", "DATASETS"),
    "methods": ("advdpnp.training.methods", "METHODS"),
    "models": ("advdpnp.models", "MODELS"),
    "scores": ("advdpnp.eval.detection.library", "SCORES"),
}


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
        from advdpnp.training.study import read_study, study_files

        return [[name, read_study(name).description] for name in study_files()], ["name", "what it asks"]
    if kind not in _REGISTRIES:
        hint = did_you_mean(kind, _kinds(), otherwise=f"choose one of {', '.join(_kinds())}")
        hint = "--norm takes linf, l2, l1 and l0" if kind in ("norm", "norms") else hint
        raise AdvdpnpError(f"there is no list of '{kind}'; {hint}")
    module, registry = _REGISTRIES[kind]
    entries = getattr(importlib.import_module(module), registry)
    if kind == "corruptions":
        rows = [[entry.name, _group(entry.name), entry.description, source] for entry, source in _cited_once(entries)]
        return rows, ["name", "group", "what it is", "source"]
    rows = [[entry.name, entry.description, source] for entry, source in _cited_once(entries)]
    if kind == "attacks":
        from advdpnp.attacks.packages.offered import offered

        rows += [[f"{library}:...", ", ".join(names), "as installed"] for library, names in offered().items()]
    return rows, ["name", "what it is", "source"]


def _cited_once(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """The entries with their sources; one that has been told before is named by what stands before its title."""
    told = set()
    for entry in entries:
        yield entry, f"{entry.reference.partition(',')[0]} (above)" if entry.reference in told else entry.reference
        told |= {entry.reference} - {""}


def _group(name: str) -> str:
    """Of a corruption, and whether it is outside the 15 types of the mean."""
    from advdpnp.corruption import BENCHMARK, EXTRA, find_corruption

    apart = "" if name in BENCHMARK else " (extra)" if name in EXTRA else " (own)"
    return f"{find_corruption(name).group}{apart}"
