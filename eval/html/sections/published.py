"""What RobustBench publishes of the same data and threat models."""

from collections.abc import Mapping
from typing import Any

from advdpnp.eval.html.section import Section
from advdpnp.eval.html.subject import Subject
from advdpnp.eval.published import published_grids


def _gather(subject: Subject) -> Mapping[str, Any] | None:
    grids = list(published_grids(subject.everything))
    return {"blocks": grids} if grids else None


SECTION = Section(
    "published",
    "Published",
    "Beside published models",
    "Other people's numbers, over other numbers of images: nothing here is tested or marked as best.",
    _gather,
    template="grids",
)
