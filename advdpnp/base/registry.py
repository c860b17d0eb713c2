"""Registries: everything with a name (attack, data set, model, method, corruption) is declared where it is defined.

An entry's name is either fixed (``fgsm``) or holds one parameter in braces (``pgd-{steps}``, ``npz:{path}``), which
reaches the builder as a keyword argument. Other distributions add entries through the entry point group of the
registry: the entry point names a module (or any object of it), and importing it runs its ``register`` decorators.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal

from advdpnp.base.errors import AdvdpnpError, first_line

Status = Literal["exact", "reconstruction", "ours"]
"""The published algorithm (or the package's own code); rebuilt from a partial description; this project's own."""


@dataclass(frozen=True)
class Entry:
    """One declared thing: what it is called, what it does, where it comes from and how it is made."""

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


class Registry:
    """Entries of one kind, looked up by name.

    Args:
        kind: what the entries are, in the singular, as messages call them ("attack").
        group: entry point group under which other distributions offer theirs ("advdpnp.attacks").
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {}
        self._plugins_loaded = False

    def register(
        self,
        name: str,
        *,
        description: str,
        reference: str = "",
        defaults: Mapping[str, Any] | None = None,
        status: Status = "exact",
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate the function or class that builds the entry."""

        def declare(build: Callable[..., Any]) -> Callable[..., Any]:
            if name in self._entries:
                raise AdvdpnpError(f"two {self.kind}s are both named '{name}'; rename one of them")
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
                    "mend or uninstall it"
                ) from error

    def __iter__(self) -> Iterator[Entry]:
        """All entries, sorted by name."""
        self._load_plugins()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """All names, sorted; a parameter stands in braces."""
        return [entry.name for entry in self]

    def find(self, spec: str) -> tuple[Entry, dict[str, str]]:
        """The entry that ``spec`` names, and the value of its parameter.

        Raises:
            AdvdpnpError: nothing is called that; the message offers what is nearest.
        """
        self._load_plugins()
        if spec in self._entries and "{" not in spec:
            return self._entries[spec], {}
        for entry in self:
            if "{" in entry.name and (match := entry.pattern.fullmatch(spec)):
                return entry, match.groupdict()
        close = difflib.get_close_matches(spec, self.names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(self.names())}"
        raise AdvdpnpError(f"there is no {self.kind} called '{spec}'; {hint}")

    def make(self, spec: str, **arguments: Any) -> Any:
        """Build what ``spec`` names: its defaults, overridden by its parameter, overridden by ``arguments``."""
        entry, parameters = self.find(spec)
        try:
            return entry.build(**{**entry.defaults, **parameters, **arguments})
        except (ValueError, TypeError) as error:
            raise AdvdpnpError(f"'{spec}' cannot be made: {first_line(error)}") from error
