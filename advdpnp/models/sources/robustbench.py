"""Models of the RobustBench model zoo."""

import importlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from advdpnp.base.errors import AdvdpnpError, describe, did_you_mean
from advdpnp.models.sources.request import Found, Request

PREFIX = "robustbench:"


def is_robustbench(spec: str) -> bool:
    """Whether a spec names a model of the zoo."""
    return spec.startswith(PREFIX)


def load_robustbench(request: Request) -> Found:
    """``robustbench:NAME`` or ``robustbench:L2/NAME``, downloaded into torch's hub folder on first use."""
    request.refuse_normalisation()
    from advdpnp.base.compat import import_robustbench

    request.refuse_weights()
    import_robustbench()
    utils = importlib.import_module("robustbench.utils")
    threat, _, name = request.spec.removeprefix(PREFIX).rpartition("/")
    dataset = None if request.dataset is None else request.dataset.name
    benchmark, threat = _benchmark(name, threat, utils.all_models, dataset)
    folder = Path(torch.hub.get_dir()) / "robustbench"
    try:
        with redirect_stdout(sys.stderr):  # it prints while it downloads
            model = utils.load_model(name, model_dir=folder, dataset=benchmark, threat_model=threat)
    except Exception as error:  # any error of the network, Google Drive or the files
        raise AdvdpnpError(
            f"the RobustBench model '{name}' cannot be loaded ({describe(error)}); check the network connection, or "
            f"put its weights into {folder / benchmark / threat}"
        ) from error
    return Found(model, name, type(model).__name__)


def _benchmark(name: str, threat: str, models: Any, dataset: str | None) -> tuple[str, str]:
    """The (data set, threat model) that RobustBench lists ``name`` under; prefers ``dataset``, then Linf over L2."""
    listings = [
        (benchmark.value, kind.value)
        for benchmark, kinds in models.items()
        for kind, names in kinds.items()
        if name in names and threat.lower() in ("", kind.value.lower())
    ]
    if not listings:
        known = {known for kinds in models.values() for names in kinds.values() for known in names}
        hint = did_you_mean(name, sorted(known), otherwise="robustbench.github.io lists them")
        raise AdvdpnpError(f"RobustBench has no model called '{name}'{f' for {threat}' * bool(threat)}; {hint}")
    order = ("Linf", "L2", "corruptions", "corruptions_3d")
    return min(listings, key=lambda listing: (listing[0] != dataset, order.index(listing[1])))
