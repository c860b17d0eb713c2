"""What the modules of a package register, read from their source: importing them would take seconds, for torch.

Entries of other distributions are not here. A test holds what is read to what the registries say.
"""

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import advdpnp

_ROOT = Path(advdpnp.__file__).parent


@dataclass(frozen=True)
class Declared:
    """What an entry says of itself; ``group`` is that of a corruption."""

    name: str
    description: str
    reference: str = ""
    group: str = ""


def declared(module: str) -> list[Declared]:
    """Entries that the modules of a package under ``advdpnp`` register by decorators, sorted by name."""
    files = sorted(source_file(module).parent.rglob("*.py"))
    return sorted((each for path in files for each in _entries(path)), key=lambda entry: entry.name)


def source_file(module: str) -> Path:
    """The source of a module or package."""
    path = _ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _entries(path: Path) -> Iterator[Declared]:
    for node in _tree(path).body:
        for call in getattr(node, "decorator_list", []):
            options = {each.arg: each.value for each in getattr(call, "keywords", [])}
            if "description" in options:  # ATTACKS.register("fgsm", description=...)
                names = constants(path)
                told = {key: options[key] for key in ("description", "reference", "group") if key in options}
                yield Declared(**{key: _value(each, names) for key, each in {"name": call.args[0], **told}.items()})


@cache
def constants(path: Path) -> Mapping[str, Any]:
    """Literals that a module assigns to names, and those that it imports from other modules of ours."""
    found: dict[str, Any] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(ValueError):
                found[node.targets[0].id] = ast.literal_eval(node.value)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("advdpnp."):
            wanted = [alias.name for alias in node.names if alias.name.isupper()]
            theirs = constants(source_file(str(node.module))) if wanted else {}
            found |= {name: theirs[name] for name in wanted if name in theirs}
    return found


def _value(node: ast.expr, names: Mapping[str, Any]) -> str:
    """A text: a literal, a constant, or an f-string of these."""
    if isinstance(node, ast.Name):
        return str(names[node.id])
    if isinstance(node, ast.JoinedStr):
        return "".join(_value(part, names) for part in node.values)
    return _value(node.value, names) if isinstance(node, ast.FormattedValue) else str(ast.literal_eval(node))
