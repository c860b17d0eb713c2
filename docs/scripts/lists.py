"""Reference lists, made from what the package declares: registries, flags, commands, public names.

Each function returns Markdown. The cost of an attack is counted, not written down: one image that it cannot break,
on a net of one layer, by the counter of every evaluation.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any

import torch
import typer
from torch import Tensor, nn

import advdpnp
import advdpnp.attacks
from advdpnp.attacks import ATTACKS, ThreatModel
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.base.registry import Entry
from advdpnp.cli import app
from advdpnp.corruption import BENCHMARK, CORRUPTIONS, EXTRA, find_corruption
from advdpnp.datasets import DATASETS
from advdpnp.eval.detection.library import SCORES
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.models import MODELS
from advdpnp.training.methods import METHODS
from advdpnp.training.recipe import read_yaml, recipe_files
from advdpnp.training.recipe_keys import recipe_keys as all_keys

_EXAMPLES = {"pgd-{steps}": "pgd-20", "mm-{targets}": "mm-5", "torchattacks:{attack}": "torchattacks:PGD-20"}
_SKIPPED = {
    "pyautoattack:{stage}": "as its stage", "foolbox:{attack}": "as in foolbox", "adv-lib:{attack}": "as in adv-lib",
    "art:{attack}": "as in ART",
}  # fmt: skip
"""Attacks whose cost is told elsewhere."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [columns, [":--"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def attacks() -> str:
    """Names, sources and the most that one image can cost."""
    made = {entry.name: _made(_EXAMPLES.get(entry.name, entry.name)) for entry in ATTACKS if entry.name not in _SKIPPED}
    costs = _costs(made)
    rows = []
    for entry in ATTACKS:
        head = [f"`{entry.name}`", _described(entry), entry.status]
        if entry.name in _SKIPPED:
            rows.append([*head, "", *[_SKIPPED[entry.name]] * 2])
            continue
        attack = made[entry.name]
        note = "" if attack.name == entry.name else f" (`{attack.name}`)"
        rows.append([*head, ", ".join(attack.norms), *(f"{count:,}{note}" for count in costs[attack.name])])
    return table(["name", "what it is, paper", "status", "norms", "forwards", "backwards"], rows)


def _described(entry: Entry) -> str:
    return f"{entry.description}<br>*{entry.reference}*" if entry.reference else entry.description


def _made(name: str) -> Any:
    for norm in ("linf", "l2"):
        with suppress(advdpnp.AdvdpnpError):
            return ATTACKS.make(name, threat=ThreatModel.parse(norm, "8/255"), classes=10)
    raise AssertionError(f"{name} searches under no norm")


def _costs(made: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Forwards and backwards of one image that is not broken, by attack, as the engine counts them."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    names = {attack.name for attack in made.values()}
    ensembles = [attack for attack in made.values() if isinstance(attack, AttackEnsemble)]
    stages = {attack.name: [stage.name for stage in attack.stages] for attack in ensembles}
    summed = {name: parts for name, parts in stages.items() if set(parts) <= names}
    costs: dict[str, tuple[int, int]] = {}
    for norm in sorted({attack.threat.norm for attack in made.values()}):
        run = [attack.name for attack in made.values() if attack.threat.norm == norm and attack.name not in summed]
        # The second label makes ten classes; its image is a clean mistake, which costs nothing.
        verdicts = advdpnp.evaluate(_Unbreakable(), x, [0, 9], norm=norm, attacks=run).verdicts
        most = verdicts.groupby("attack")[["forwards", "backwards"]].max()
        costs |= {attack: (int(forwards), int(backwards)) for attack, forwards, backwards in most.itertuples()}
    for name, parts in summed.items():  # what survives one stage enters the next
        costs[name] = sum(costs[part][0] for part in parts), sum(costs[part][1] for part in parts)
    return costs


class _Unbreakable(nn.Module):
    """Ten classes; the first wins whatever the image, and the gradients are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 10)
        weight = torch.randn(10, 192, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.linear.weight.copy_(weight / 1000)
            self.linear.bias.copy_(torch.eye(10)[0] * 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def methods() -> str:
    """Methods with the values that the recipes of the same name set."""
    recipes = {name: read_yaml(path)["method"] for name, path in recipe_files().items()}
    rows = []
    for entry in METHODS:
        values = {each.name: each.default for each in fields(entry.build) if each.default is not MISSING}
        values = {name: getattr(value, "default", value) for name, value in values.items()} | recipes.get(
            entry.name, {}
        )
        values.pop("name", None)
        shown = ", ".join(f"`{name}={value}`" for name, value in values.items())
        images = "clean and adversarial" if entry.build.adversarial else "clean"
        rows.append([f"`{entry.name}`", _described(entry), entry.status, images, shown])
    return table(["name", "what it is, paper", "status", "images", "values in its recipe"], rows)


def recipe_keys() -> str:
    """Every key of a recipe."""
    rows = [[f"`{key.key}`", f"`{key.default}`" if key.default else "", key.range, key.meaning] for key in all_keys()]
    return table(["key", "default", "range", "meaning"], rows)


def datasets() -> str:
    """Data sets."""
    return table(
        ["name", "what it is", "source"], [[f"`{e.name}`", e.description, e.reference or "your own"] for e in DATASETS]
    )


def models() -> str:
    """Architectures."""
    rows = [[f"`{e.name}`", e.description, e.reference, e.status, _defaults(e)] for e in MODELS]
    return table(["name", "what it is", "paper", "status", "defaults"], rows)


def _defaults(entry: Entry) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in entry.defaults.items())


def corruptions() -> str:
    """Corruptions with their constants."""
    rows = []
    for name in (*BENCHMARK, *EXTRA):
        entry, corruption = CORRUPTIONS.find(name)[0], find_corruption(name)
        constants = "; ".join(", ".join(f"{value:g}" for value in each) for each in corruption.constants)
        part = "benchmark" if name in BENCHMARK else "extra"
        rows.append([f"`{name}`", corruption.group, part, entry.description, entry.status, constants])
    return table(["name", "group", "part", "what it is", "status", "constants, severity 1 to 5"], rows)


def scores() -> str:
    """Scores of images."""
    return table(["name", "what it is, paper", "status"], [[f"`{e.name}`", _described(e), e.status] for e in SCORES])


def flags() -> str:
    """What each flag means and what to do."""
    return table(["flag", "meaning", "remedy"], [[f"`{code}`", *meaning] for code, meaning in FLAGS.items()])


def commands() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and "--help" not in each.opts]
    usage = " ".join(["advdpnp", name, *(["[OPTIONS]"] if options else []), *(map(_place, arguments))])
    parts = [f"## {name}", inspect.cleandoc(command.help or ""), f"```text\n{usage}\n```"]
    if arguments:
        parts.append(table(["argument", "meaning"], [[f"`{_place(each)}`", each.help or ""] for each in arguments]))
    if options:
        rows = [[f"`{' '.join(each.opts)}`", each.help or "", _default(each)] for each in options]
        parts.append(table(["option", "meaning", "default"], rows))
    return "\n\n".join([*parts, command.epilog or ""])


def _place(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper()) + "..." * (argument.nargs == -1)


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return option.show_default
    return "" if option.default in (None, "", False, []) else f"`{option.default}`"


def python() -> str:
    """Directives of mkdocstrings for the public names of the package and of its attacks."""
    return _documented(advdpnp)


def python_attacks() -> str:
    """The same for ``advdpnp.attacks``."""
    return _documented(advdpnp.attacks)


def _documented(module: Any) -> str:
    parts = []
    for name in module.__all__:
        found = getattr(module, name)
        if not name.startswith("_"):
            home = f"{found.__module__}.{name}" if inspect.isclass(found) or inspect.isroutine(found) else None
            parts.append(f"::: {home or f'{module.__name__}.{name}'}")
    return "\n\n".join(parts)


LISTS: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        attacks,
        methods,
        recipe_keys,
        datasets,
        models,
        corruptions,
        scores,
        flags,
        commands,
        python,
        python_attacks,
    )
}
