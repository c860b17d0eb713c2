"""A part of the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from advdpnp.eval.html.subject import Subject


@dataclass(frozen=True)
class Section:
    """One part of the page, with an entry in its menu.

    Attributes:
        key: anchor in the page.
        menu: its entry there.
        title: heading.
        lead: one or two sentences that say how to read it.
        gather: what the template shows, as its variables; None where the results have nothing of it.
        narrow: of one block alone, it may stand beside another narrow one.
        template: its name, without ending; the key if it has one of its own.
    """

    key: str
    menu: str
    title: str
    lead: str
    gather: Callable[[Subject], Mapping[str, Any] | None]
    narrow: bool = False
    template: str = ""
