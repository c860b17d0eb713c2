"""A part of the page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from advdpnp.eval.report.html.context import PageContext
from advdpnp.eval.report.tables import Grid


@dataclass(frozen=True)
class Section:
    """One part of the page, with an entry in its menu.

    Attributes:
        key: anchor in the page.
        menu: its entry there.
        title: heading.
        lead: one or two sentences that say how to read it.
        gather: what the template shows, as its variables; None where the results have nothing of it.
        narrow: whether it may share a line with another narrow section, if it has one block only.
        template: its name, without ending; the key if it has one of its own.
    """

    key: str
    menu: str
    title: str
    lead: str
    gather: Callable[[PageContext], Mapping[str, Any] | None]
    narrow: bool = False
    template: str = ""


def section_of_grids(
    key: str, menu: str, title: str, lead: str, grids: Callable[[PageContext], Iterable[Grid]]
) -> Section:
    """A section of plain tables, left out where there are none."""

    def gather(context: PageContext) -> Mapping[str, Any] | None:
        found = list(grids(context))
        return {"blocks": found} if found else None

    return Section(key, menu, title, lead, gather, template="grids")
