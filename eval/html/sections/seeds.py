"""Several seeds of one method, and how methods differ over them."""

from collections.abc import Mapping
from typing import Any

from advdpnp.eval.html.section import Section
from advdpnp.eval.html.subject import Subject
from advdpnp.eval.seeds import seed_grids


def _gather(subject: Subject) -> Mapping[str, Any] | None:
    grids = list(seed_grids(subject.frame))
    return {"blocks": grids} if grids else None


SECTION = Section(
    "seeds",
    "Seeds",
    "Several seeds",
    "The spread between trainings of one recipe says what a difference between two nets is worth.",
    _gather,
    template="grids",
)
