"""Loggers of other programs: a CSV file of every few steps, TensorBoard, and Weights & Biases.

The first two are those of Lightning Fabric, which has none for the third.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from advdpnp.base.errors import AdvdpnpError, describe, did_you_mean
from advdpnp.base.files import write_text
from advdpnp.training.recipe import Recipe

LOGGERS = ("csv", "tensorboard", "wandb")
_WANDB_ID = "wandb-id"  # the file that a resumed run finds its page by


class Logger(Protocol):
    """What a run calls; the loggers of Lightning Fabric and of Lightning have these methods."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values of a step, counted from the start of the run."""
        ...

    def finalize(self, status: str) -> None:
        """The run has ended: "success" or "aborted"."""
        ...


def make_logger(name: str, folder: Path, recipe: Recipe, step: int) -> Logger:
    """A logger that writes to the folder of a run.

    Args:
        name: one of ``LOGGERS``.
        step: the first step that it will see, 0 for a new run.

    Raises:
        AdvdpnpError: there is no such logger, or it cannot start.
    """
    require_logger(name)
    if name == "wandb":
        return _WeightsAndBiases(folder, recipe)
    from lightning_fabric import loggers

    if name == "csv":  # every time that a run is resumed, a file of its own: csv/version_1/metrics.csv
        made: Logger = loggers.CSVLogger(folder, name="csv", flush_logs_every_n_steps=1)
    else:  # what a killed run logged after its last saved state is written again, and replaces what was there
        made = loggers.TensorBoardLogger(folder, name="tensorboard", version="", purge_step=step or None)
    return made


def require_logger(name: str) -> None:
    """Check the name of a logger, and that its package is installed.

    Raises:
        AdvdpnpError: there is no such logger, or its package is missing.
    """
    if name not in LOGGERS:
        hint = did_you_mean(name, LOGGERS, otherwise=f"choose {', '.join(LOGGERS)}")
        raise AdvdpnpError(f"there is no logger called '{name}'; {hint}")
    if name == "csv":
        return
    try:
        __import__("wandb" if name == "wandb" else "torch.utils.tensorboard")
    except ImportError as error:
        raise AdvdpnpError(f"--logger {name} needs the package {name}; pip install 'advdpnp[{name}]'") from error


class _WeightsAndBiases:
    """A run of Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE, ...) say where it goes."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        import wandb

        known = folder / _WANDB_ID
        if not known.is_file():
            write_text(known, secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "advdpnp"),
                name=folder.name,
                id=known.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                config=recipe.model_dump(mode="json"),
            )
        except Exception as error:  # of many types: no account, no network, no right to the project
            raise AdvdpnpError(
                f"Weights & Biases does not start: {describe(error)}; run `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)


class Recorder:
    """Gives a logger the values of steps under ``train/`` and those of finished epochs under ``epoch/``."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._steps, self._means = 0, dict[str, float]()  # of the epoch, at the last call

    def steps(self, step: int, steps: int, means: Mapping[str, float], lr: float, images_per_second: float) -> None:
        """Record the mean of each loss term over the steps since the last call.

        Args:
            step: number of finished steps of the run.
            steps: number of finished steps of the epoch.
            means: mean of each term over these.
        """
        before, new = self._steps, steps - self._steps
        recent = {
            f"train/{name}": (mean * steps - self._means.get(name, 0.0) * before) / new for name, mean in means.items()
        }
        self._logger.log_metrics({**recent, "train/lr": lr, "train/images_per_second": images_per_second}, step=step)
        self._steps, self._means = steps, dict(means)

    def epoch(self, step: int, row: Mapping[str, Any]) -> None:
        """Record the metrics of a finished epoch."""
        self._steps, self._means = 0, {}
        self._logger.log_metrics({f"epoch/{name}": float(value) for name, value in row.items()}, step=step)

    def close(self, *, finished: bool) -> None:
        """The run has ended."""
        self._logger.finalize("success" if finished else "aborted")
