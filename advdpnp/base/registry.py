"""Registries of everything that has a name: attacks, data sets, models, methods and corruptions.

An entry is registered where it is defined. Its name is either fixed (``fgsm``) or contains one parameter in braces
(``pgd-{steps}``, ``npz:{path}``), which the builder receives as a keyword argument. Other distributions add entries
through the registry's entry point group: the entry point names a module (or any object in it), and importing the module
runs its ``register`` decorators.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal

from advdpnp.base.errors import AdvdpnpError, did_you_mean, first_line

Status = Literal["exact", "reconstruction", "ours"]
"""exact: the published algorithm, or the code of a package; reconstruction: rebuilt from a partial description; ours:
designed in this project."""


@dataclass(frozen=True)
class Entry:
    """One registered item: its name, description, source, builder and default arguments."""

    name: str
    description: str
    reference: str
    build: Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "exact"

    @property
    def pattern(self) -> re.Pattern[str]:
        """The name as a regular expression; ``{steps}`` in ``pgd-{steps}`` matches one or more characters."""
        parts = re.split(r"(\{\w+\})", self.name)
        return re.compile("".join(f"(?P<{p[1:-1]}>.+)" if p.startswith("{") else re.escape(p) for p in parts))

    def covers(self, name: str) -> bool:
        """Whether its name has a parameter of which ``name``, with or without one of its own, is a case."""
        return "{" in self.name and self.pattern.fullmatch(name) is not None


class Registry:
    """Entries of one kind, looked up by name.

    Args:
        kind: what an entry is, in the singular, as messages call it ("attack").
        group: entry point group through which other distributions add entries ("advdpnp.attacks").
        check: raises an AdvdpnpError for a name that no entry may have.

    Attributes:
        elsewhere: gives what resembles a name that is unknown here, under names that ``find`` knows.
    """

    def __init__(self, kind: str, group: str, check: Callable[[str], None] = lambda name: None) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._entries: dict[str, Entry] = {}
        self._plugins_loaded = False
        self.elsewhere: Callable[[str], list[str]] = lambda name: []

    def register(
        self,
        name: str,
        *,
        description: str,
        reference: str = "",
        defaults: Mapping[str, Any] | None = None,
        status: Status = "exact",
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A decorator for the function or class that builds the entry.

        The same definition again, such as a cell of a notebook that runs twice, replaces the entry.

        Raises:
            AdvdpnpError: another entry has the name, one of another package covers it, as ``pgd-{steps}`` does
                ``pgd-20``, or it is not allowed.
        """

        def declare(build: Callable[..., Any]) -> Callable[..., Any]:
            self._check(name)
            if name in self._entries and not _same_place(self._entries[name].build, build):
                raise AdvdpnpError(f"two {self.kind}s are both named '{name}'; rename one of them")
            for other in self._entries.values():
                covered = other.covers(name) or Entry(name, "", "", build).covers(other.name)
                if other.name != name and covered and _package(other.build) != _package(build):
                    raise AdvdpnpError(
                        f"the {self.kind} '{name}' would hide or be hidden by '{other.name}'; give it another name"
                    )
            self._entries[name] = Entry(name, description, reference, build, dict(defaults or {}), status)
            return build

        return declare

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self.group):
            try:
                point.load()
            except Exception as error:
                raise AdvdpnpError(
                    f"the {self.kind} plug-in '{point.name}' ({point.value}) fails to import: {error}; "
                    "fix or uninstall it"
                ) from error

    def __iter__(self) -> Iterator[Entry]:
        """All entries, sorted by name."""
        self._load_plugins()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """All names, sorted; parameters are in braces."""
        return [entry.name for entry in self]

    def find(self, spec: str) -> tuple[Entry, dict[str, str]]:
        """The entry that ``spec`` names, and the value of its parameter.

        Raises:
            AdvdpnpError: there is no such entry; the message suggests similar names.
        """
        self._load_plugins()
        if spec in self._entries and "{" not in spec:
            return self._entries[spec], {}
        for entry in self:
            if "{" in entry.name and (match := entry.pattern.fullmatch(spec)):
                return entry, match.groupdict()
        if not any(name.startswith(spec.lower()) for name in self.names()) and (found := self.elsewhere(spec)):
            raise AdvdpnpError(f"there is no {self.kind} of ours called '{spec}'; libraries have {' and '.join(found)}")
        written = spec.lower().replace("+", "-plus")  # papers write "MM-5" and "PMA+"
        # "pgd" is nearer to "pgd-20" than to "pgd-{steps}".
        choices = [name.replace("{steps}", "20").replace("{targets}", "9") for name in self.names()]
        if self._known(written):
            raise AdvdpnpError(f"there is no {self.kind} called '{spec}'; did you mean {written}?")
        hint = did_you_mean(written, choices, otherwise=f"known: {', '.join(self.names())}")
        raise AdvdpnpError(f"there is no {self.kind} called '{spec}'; {hint} (one of your own: --plugin FILE.py)")

    def _known(self, spec: str) -> bool:
        """Whether ``spec`` names an entry of ours; what follows a colon is written as other code writes it."""
        return ":" not in spec and any(entry.pattern.fullmatch(spec) for entry in self._entries.values())

    def make(self, spec: str, **arguments: Any) -> Any:
        """Build what ``spec`` names.

        The arguments of the builder are the entry's defaults, overridden by the parameter in ``spec``, overridden by
        ``arguments``.

        Raises:
            AdvdpnpError: there is no such entry, or its builder rejects the arguments.
        """
        entry, parameters = self.find(spec)
        try:
            return entry.build(**{**entry.defaults, **parameters, **arguments})
        except (ValueError, TypeError) as error:
            raise AdvdpnpError(f"'{spec}' cannot be built: {first_line(error)}") from error


def _package(build: Callable[..., Any]) -> str:
    return str(getattr(build, "__module__", "")).partition(".")[0]


def _same_place(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    """Whether two functions or classes are one definition, executed twice."""
    places = [(getattr(each, "__module__", None), getattr(each, "__qualname__", "<lambda>")) for each in (a, b)]
    return places[0] == places[1] and "<lambda>" not in str(places[0][1])
