"""Robust image classifiers: training, attack and evaluation.

The names below are loaded on first use, so that ``import advdpnp`` and ``advdpnp --help`` import no torch.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from advdpnp.base.errors import AdvdpnpError
    from advdpnp.datasets import load_dataset
    from advdpnp.eval.api import Evaluation, evaluate
    from advdpnp.eval.attack import attack, perturb
    from advdpnp.eval.images import AdversarialImages
    from advdpnp.models.loading import load_model
    from advdpnp.training.recipe import resolve_recipe
    from advdpnp.training.trainer import train

_PLACES = {
    "AdvdpnpError": "advdpnp.base.errors",
    "AdversarialImages": "advdpnp.eval.images",
    "Evaluation": "advdpnp.eval.api",
    "attack": "advdpnp.eval.attack",
    "evaluate": "advdpnp.eval.api",
    "load_dataset": "advdpnp.datasets",
    "load_model": "advdpnp.models.loading",
    "perturb": "advdpnp.eval.attack",
    "resolve_recipe": "advdpnp.training.recipe",
    "train": "advdpnp.training.trainer",
}

__all__ = [
    "AdvdpnpError", "AdversarialImages", "Evaluation", "__version__", "attack", "evaluate", "load_dataset",
    "load_model", "perturb", "resolve_recipe", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'advdpnp' has no attribute '{name}'")
    with _without_display():
        return getattr(importlib.import_module(_PLACES[name]), name)


@contextmanager
def _without_display() -> Iterator[None]:
    """Figures need no window: matplotlib is imported without ``MPLBACKEND``, as it refuses one that is not there.

    Where it can be had, the caller's own figures have it afterwards.
    """
    before, asked = "matplotlib" in sys.modules, os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
            if not before and "matplotlib" in sys.modules:
                with suppress(ValueError):
                    sys.modules["matplotlib"].rcParams["backend"] = asked


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
