"""What the loaders of models are given and what they return."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models.network import Normalisation

if TYPE_CHECKING:
    from advdpnp.datasets.base import Dataset


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Keep these libraries from logging inside the block: what matters they raise, and an error is one sentence."""
    loggers = [logging.getLogger(name) for name in libraries]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class Request:
    """A model that the user asks for.

    Attributes:
        spec: what names it; see ``load_model``.
        weights, dataset, normalisation, weights_key: as for ``load_model``.
    """

    spec: str
    weights: Path | None = None
    dataset: "Dataset | None" = None
    normalisation: Normalisation | None = None
    weights_key: str | None = None

    def refuse_weights(self) -> None:
        """Raises an AdvdpnpError if there are weights for a spec that has its own."""
        if self.weights is not None:
            raise AdvdpnpError(f"{self.spec} has its own weights; leave out --weights, or name an architecture instead")

    def refuse_normalisation(self, what: object = None) -> None:
        """Raises an AdvdpnpError if there is a normalisation for a model that has its own."""
        if self.normalisation is not None:
            raise AdvdpnpError(f"{what or self.spec} normalises its images itself; leave out mean and std")


@dataclass(frozen=True)
class Found:
    """A model that was loaded.

    Attributes:
        model: a module or a function, on any device, in any mode.
        name: its name in tables.
        architecture: the registered name, or the name of the factory or class.
        header: the checkpoint's header; empty for models of other projects.
    """

    model: Callable[..., Any]
    name: str
    architecture: str
    header: dict[str, Any] = field(default_factory=dict)
