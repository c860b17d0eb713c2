"""The training loop, which turns a recipe and a data set into a folder with networks and metrics.

The loop is independent of methods, and methods are independent of devices, precision and schedules. All randomness is a
function of the recipe's seed, the epoch and the step, so an interrupted run that is resumed ends with the same weights,
bit for bit on the CPU.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric

from advdpnp.base.devices import keep_freed_memory
from advdpnp.base.errors import AdvdpnpError, first_line, with_known_options
from advdpnp.base.files import folder_lock, write_text
from advdpnp.base.interrupts import deferred_interrupts
from advdpnp.base.randomness import isolated_rng
from advdpnp.datasets.base import Dataset
from advdpnp.training.recipe import Recipe
from advdpnp.training.state import STATE, require_no_run_files
from advdpnp.training.training_run import TrainingRun
from advdpnp.training.watch.loggers import Logger, Recorder, make_logger, require_logger
from advdpnp.training.watch.pace import Pace

_ROUND = 10  # steps between reports, and with several processes between checks for an interruption


@dataclass(frozen=True)
class Hardware:
    """The hardware of a run; it changes results only by rounding.

    Attributes:
        device: "auto", "cpu" or "cuda".
        devices: number of processes on each machine, with one device each.
        num_nodes: number of machines.
        strategy: strategy of Lightning Fabric: "auto", or "ddp" for several processes.
        compile: compile the network of the training step with torch.compile.
    """

    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    compile: bool = False

    def fabric(self, precision: str) -> Fabric:
        """Lightning Fabric for this hardware.

        Raises:
            AdvdpnpError: there is no such device, or torchrun started another number of processes.
        """
        if self.device not in ("auto", "cpu", "cuda"):
            raise AdvdpnpError(f"there is no device called '{self.device}'; choose auto, cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise AdvdpnpError("torch finds no CUDA device; run `advdpnp doctor`, or use --device cpu")
        processes = self.devices * self.num_nodes
        if torch.distributed.is_torchelastic_launched() and os.environ["WORLD_SIZE"] != str(processes):
            # Otherwise every process would train alone and write to the same folder.
            raise AdvdpnpError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, but --devices times --num-nodes is "
                f"{processes}; set --devices to the number of processes per machine"
            )
        strategy = "ddp" if self.strategy == "auto" and processes > 1 else self.strategy
        try:
            return Fabric(
                accelerator=self.device,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=strategy,
                precision=precision,
            )
        except (ValueError, RuntimeError) as error:
            sentence = " ".join(str(error).split())
            raise AdvdpnpError(f"this hardware cannot be used: {sentence}; see `advdpnp doctor`") from error


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        epoch, epochs: number of finished epochs, and of all epochs.
        step, steps: number of finished steps, and of all steps of the run.
        terms: means of the loss terms over the epoch so far.
        lr: the learning rate of the last step.
        images_per_second: training images; validations do not count.
        seconds_left: to the end of the run.
        metrics: metrics of the last finished epoch; empty before the first.
        warnings: a sentence for each problem of the last and the best network, with its first and worst epoch.
        about: what is trained, on how many images and where, in words.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    terms: dict[str, float]
    lr: float = 0.0
    images_per_second: float = 0.0
    seconds_left: float = math.inf
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    about: str = ""


@with_known_options(
    dict.fromkeys(
        ("epochs", "seed", "eps", "lr"), 'it is a value of the recipe: resolve_recipe(..., settings=["epochs=5"])'
    )
)
def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path | str,
    *,
    extra: Dataset | None = None,
    resume: bool = False,
    hardware: Hardware = Hardware(),
    report: Callable[[Progress], None] = lambda progress: None,
    resume_command: str = "the same command with --resume",
    logger: str | Logger | None = None,
) -> pd.DataFrame:
    """Train with ``recipe`` and write the networks ``best`` and ``last``, the metrics and the recipe to ``folder``.

    For methods that train on adversarial images, ``best`` is the epoch with the highest robust accuracy on the
    validation split, under the stronger of PGD on cross-entropy and PGD on the margin. For other methods it is the
    epoch with the highest clean accuracy, because their robust accuracy is close to zero and mostly noise.

    Args:
        extra: a data set whose training images make up ``recipe.extra_share`` of every batch.
        resume: continue the run in ``folder``, if there is one.
        hardware: devices, processes and compilation.
        report: called by the first process every few steps and at the end of every epoch.
        resume_command: the command that the message after an interruption recommends.
        logger: "csv", "tensorboard" or "wandb", or a logger of Lightning Fabric or of Lightning; the first process
            gives it the means of the loss terms every few steps and the metrics of every epoch.

    Returns:
        The metrics, one row per epoch; ``attrs["best"]`` is the number of the epoch that is saved as ``best``.

    Raises:
        AdvdpnpError: the folder already contains a run and ``resume`` is not set; the run in the folder has another
            recipe or no state; the loss is no longer finite; the run was interrupted (its state is saved).
    """
    folder = Path(folder)
    if isinstance(logger, str):
        require_logger(logger)
    keep_freed_memory()
    fabric = hardware.fabric(recipe.precision)
    fabric.launch()
    with ExitStack() as stack:
        stack.enter_context(isolated_rng())
        interrupted = stack.enter_context(deferred_interrupts())
        if hardware.compile:
            stack.enter_context(_compiler_errors())
        if fabric.world_size > 1:
            stack.enter_context(_lost_processes())
        run = TrainingRun(recipe, dataset, extra, folder, fabric, compiled=hardware.compile)
        if fabric.is_global_zero:
            stack.enter_context(folder_lock(folder))  # only now, so that an invalid recipe creates no folder
        _begin_or_resume(run, resume=resume)
        observer = _Observer(run, report, logger)
        stack.callback(observer.close)
        while run.epoch < recipe.epochs:
            for _ in run.steps_of_epoch():
                _between_steps(run, interrupted, observer, resume_command)
            run.end_epoch()
            observer.epoch_ended()
        return _table_of(run)


def _table_of(run: TrainingRun) -> pd.DataFrame:
    metrics = pd.DataFrame(run.metrics)
    metrics.attrs["best"] = run.best_epoch()
    return metrics


def _begin_or_resume(run: TrainingRun, *, resume: bool) -> None:
    if (run.folder / STATE).exists():
        if not resume:
            raise AdvdpnpError(
                f"{run.folder} already contains a run; add --resume to continue it or choose another --name"
            )
        run.load()
    elif resume:
        require_no_run_files(run.folder)
        run.begin()
    else:
        run.begin()
    if run.fabric.is_global_zero:
        write_text(run.folder / "recipe.yaml", run.recipe.to_yaml())


def _between_steps(
    run: TrainingRun, interrupted: Callable[[], bool], observer: "_Observer", resume_command: str
) -> None:
    """Stop if the run was interrupted, otherwise report the first step and then every few.

    Raises:
        AdvdpnpError: the run was interrupted; its state is saved.
    """
    several = run.fabric.world_size > 1
    if several and run.step % _ROUND != 0 and run.step != run.batches.steps:
        return  # all processes must stop at the same step, and synchronising them takes time
    if run.any_process(interrupted()):
        run.save()
        place = f"epoch {run.epoch + 1} of {run.recipe.epochs}"
        raise AdvdpnpError(f"stopped in {place} and saved; continue with: {resume_command}")
    observer.step_ended()


class _Observer:
    """Tells the progress of a run, in its first process."""

    def __init__(
        self, run: TrainingRun, report: Callable[[Progress], None], logger: str | Logger | None = None
    ) -> None:
        self.run, self.report, self.speaks = run, report, run.fabric.is_global_zero
        self.seen = run.step  # steps of this epoch that the pace knows
        self.pace = Pace(
            run.recipe,
            steps=run.batches.steps,
            images=run.batches.size,
            validated=len(run.validation_split),
            adversarial=run.method.adversarial,
        )
        if isinstance(logger, str) and self.speaks:
            logger = make_logger(logger, run.folder, run.recipe, run.epoch * run.batches.steps + run.step)
        self.recorder = None if logger is None or isinstance(logger, str) else Recorder(logger)
        if self.speaks:
            report(self._progress())

    def step_ended(self) -> None:
        first = self.pace.images_per_second() == 0
        if self.speaks and (first or self.run.step % _ROUND == 0 or self.run.step == self.run.batches.steps):
            terms = self.run.means()  # waits for the device, so that the clock can be read
            self.pace.trained(self.run.step - self.seen)
            self.seen = self.run.step
            progress = self._progress(terms)
            if self.recorder is not None:
                self.recorder.steps(
                    progress.step, self.run.step, terms, lr=progress.lr, images_per_second=progress.images_per_second
                )
            self.report(progress)

    def epoch_ended(self) -> None:
        self.pace.validated()
        self.seen = 0
        if self.speaks:
            progress = self._progress()
            if self.recorder is not None:
                self.recorder.epoch(progress.step, progress.metrics)
            self.report(progress)

    def close(self) -> None:
        if self.speaks and self.recorder is not None:
            self.recorder.close(finished=self.run.epoch == self.run.recipe.epochs)

    def _progress(self, terms: dict[str, float] | None = None) -> Progress:
        run, steps = self.run, self.run.batches.steps
        return Progress(
            epoch=run.epoch,
            epochs=run.recipe.epochs,
            step=run.epoch * steps + run.step,
            steps=steps * run.recipe.epochs,
            terms=terms or {},
            lr=run.training_step.optimiser.param_groups[0]["lr"],
            images_per_second=self.pace.images_per_second(),
            seconds_left=self.pace.seconds_left(run.epoch, run.step),
            metrics=run.metrics[-1] if run.metrics else {},
            warnings=run.warnings(),
            about=run.in_words(),
        )


@contextmanager
def _compiler_errors() -> Iterator[None]:
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        need = f"torch.compile needs a working C++ compiler ({first_line(error.inner_exception)})"
        raise AdvdpnpError(f"{need}; install g++, or leave out --compile") from error


@contextmanager
def _lost_processes() -> Iterator[None]:
    """Explain the connection errors that the remaining processes raise if one process ends."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(word in text for word in ("gloo", "NCCL", "Connection closed", "Connection reset")):
            raise
        raise AdvdpnpError(
            "another process of this run has ended; if no message above says why, set ADVDPNP_DEBUG=1 and run again: "
            "every process then prints its errors"
        ) from error
