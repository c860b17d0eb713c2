"""Time per training step: against the plain public way, of every method, and of the rival search of DPNP.

    python -m benchmarks.training --threads 2 --out results/benchmarks
    python -m benchmarks.training --parts step --quality     # is the speed bought with quality?

``benchmarks/timing.py`` explains the columns, ``benchmarks/training_baselines.py`` the code that is compared with.
"""

import copy
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import nn

from advdpnp.attacks.engine.precision import computes_bf16
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import isolated_rng
from advdpnp.datasets.base import Dataset, Split
from advdpnp.training.recipe import Recipe, resolve_recipe
from advdpnp.training.trainer import Hardware
from benchmarks import timing
from benchmarks import training_baselines as ways
from benchmarks.timing import Row, Turns, Work
from benchmarks.training_baselines import OurWay, PublicWay

METHODS = ("ce", "center", "dpp", "dpnp", "fgsm-rs", "pgd-at", "trades", "mart", "adv-dpnp")
EPOCH_IMAGES = 49_000  # CIFAR-10 without the 1,000 images held out
PUBLIC, PUBLIC_LAST = "torchattacks", "torchattacks, channels-last"
OURS, COMPILED = "advdpnp fp32", "advdpnp compiled"
LOADED, LOADER = "torchattacks, DataLoader with {} workers", "DataLoader alone, {} workers"
OURS_LOADED, OURS_DATA = "advdpnp fp32, crop and flip", "crop and flip of advdpnp alone"
PARTS = ("step", "data", "methods", "rivals")


@dataclass(frozen=True)
class Quality:
    """How long both ways train before their nets are attacked."""

    images: int = 10_000
    epochs: int = 3
    held_out: int = 1_000


@dataclass(frozen=True)
class Settings:
    """What is measured and how often.

    Attributes:
        steps: training steps that are timed as one; fewer where they are slow.
        repeats: turns.
        workers: of the public way's DataLoader, each a row of its own.
        compile: try torch.compile.
        classes, dims: of the heads on which the rival search is timed.
        quality: None leaves the comparison of quality out.
    """

    parts: tuple[str, ...] = PARTS
    architectures: tuple[str, ...] = ("small-cnn", "tiny-resnet")
    batch: int = 256
    steps: int = 5
    repeats: int = 5
    threads: int = 2
    device: str = "auto"
    workers: tuple[int, ...] = (0, 2)
    compile: bool = True
    classes: tuple[int, ...] = (10, 100, 1000)
    dims: tuple[int, ...] = (128, 512)
    quality: Quality | None = None

    @property
    def images(self) -> int:
        """Training images that one turn needs."""
        return self.batch * self.steps


@dataclass
class Bench:
    """Settings and images, and what measures them."""

    settings: Settings
    dataset: Dataset
    rows: list[Row] = field(default_factory=list)

    def recipe(self, name: str, architecture: str, **changes: Any) -> Recipe:
        """A recipe of the package at this batch size, with a small constant learning rate: time is all that matters."""
        values: dict[str, Any] = {
            "model.architecture": architecture,
            "batch_size": self.settings.batch,
            "optimiser.schedule": "constant",
            "optimiser.lr": 0.01,
        }
        return resolve_recipe(name, "cifar10", {**values, **changes})

    def _pgd_recipe(self, architecture: str, **changes: Any) -> Recipe:
        attack = {"attack.steps": ways.STEPS, "attack.eps": "8/255", "attack.relative_step": ways.ALPHA / ways.EPS}
        return self.recipe("pgd-at", architecture, **{**attack, **changes})

    def _ours(self, recipe: Recipe, dataset: Dataset | None = None) -> OurWay:
        return OurWay(recipe, dataset or self.dataset, self.settings.device)

    def _at_hand(self, public: PublicWay) -> Work:
        return public.at_hand(self.dataset.train.head(self.settings.images), self.settings.batch)

    def _in_turns(self, works: Mapping[str, Work], per_call: Mapping[str, int] | None = None) -> Turns:
        return timing.in_turns(works, self.settings.steps, self.settings.repeats, per_call)

    def steps(self, architecture: str) -> None:
        """A PGD-10 step of the public way and of ours without data (though ours picks and converts its images)."""
        recipe = self._pgd_recipe(architecture, augmentation="none")
        half = self._pgd_recipe(architecture, augmentation="none", precision="bf16-mixed")
        ours = self._ours(recipe)
        start = copy.deepcopy(ours.run.network)
        bf16 = "advdpnp bf16" if computes_bf16(ours.run.fabric.device) else "advdpnp bf16 emulated"
        works: dict[str, Work] = {
            PUBLIC: self._at_hand(PublicWay(start, recipe)),
            PUBLIC_LAST: self._at_hand(PublicWay(start, recipe, channels_last=True)),
            OURS: ours,
            bf16: self._ours(half),
        }
        compiled, note = None, "left out"
        if self.settings.compile:
            compiled, note = ways.compiled_way(recipe, self.dataset, self.settings.device)
        if compiled is not None:
            works[COMPILED] = compiled
        found = self._in_turns(works)
        self.rows += timing.table_rows("step", architecture, found, PUBLIC, {COMPILED: {"note": note}})

    def data(self, architecture: str) -> None:
        """What loading costs in the public way, and augmenting in ours.

        The share of a DataLoader without workers, and of our augmentation, is its own time over that of the step. With
        workers, which work beside the training, it is by how much the loader lengthens the step.
        """
        recipe = self._pgd_recipe(architecture, augmentation="crop-flip")
        ours = self._ours(recipe)
        public, device, batch = PublicWay(ours.run.network, recipe), ours.run.fabric.device, self.settings.batch
        works: dict[str, Work] = {
            PUBLIC: self._at_hand(public),
            OURS_LOADED: ours,
            OURS_DATA: ways.our_data(self.dataset.train, batch, device),
        }
        per_call: dict[str, int] = {}
        for workers in self.settings.workers:
            batches = ways.loader(self.dataset.train.head(self.settings.images), batch, workers, device)
            works[LOADED.format(workers)] = partial(public.epoch, batches)
            works[LOADER.format(workers)] = partial(ways.drain, batches)
            per_call |= dict.fromkeys((LOADED.format(workers), LOADER.format(workers)), len(batches))
        found = self._in_turns(works, per_call)
        shares = {OURS_LOADED: timing.relative(found[OURS_DATA], found[OURS_LOADED])}
        for workers in self.settings.workers:
            loaded, alone = found[LOADED.format(workers)], found[LOADER.format(workers)]
            beside = 1 - timing.relative(found[PUBLIC], loaded)
            shares[LOADED.format(workers)] = beside if workers else timing.relative(alone, loaded)
        more = {name: {"data_percent": 100 * share} for name, share in shares.items()}
        self.rows += timing.table_rows("data", architecture, found, PUBLIC, more)

    def methods(self) -> None:
        """A step of every method as its recipe has it (PGD-7; fgsm-rs: one step), and an epoch of CIFAR-10."""
        recipes = {name: self.recipe(name, "small-cnn", augmentation="crop-flip") for name in METHODS}
        found = self._in_turns({name: self._ours(recipe) for name, recipe in recipes.items()})
        steps = EPOCH_IMAGES // self.settings.batch
        medians = {name: statistics.median(turn.wall for turn in turns) for name, turns in found.items()}
        more = {name: {"epoch_s": steps * seconds} for name, seconds in medians.items()}
        self.rows += timing.table_rows("methods", "small-cnn", found, "ce", more)

    def rivals(self, classes: int, dim: int) -> None:
        """A step of dpnp beside one of dpp, which looks for no rivals; and their losses alone, on given features."""
        labels = torch.arange(len(self.dataset.train)) % classes
        train = Split(self.dataset.train.images, labels[torch.randperm(len(labels))])
        dataset = replace(self.dataset, class_names=tuple(map(str, range(classes))), train=train)
        works: dict[str, Work] = {}
        for name in ("dpp", "dpnp"):
            recipe = self.recipe(name, "small-cnn", augmentation="crop-flip", **{"model.feature_dim": dim})
            works[f"{name} step"] = way = self._ours(recipe, dataset)
            works[f"{name} loss alone"] = ways.loss_alone(way.run, classes, dim)
        found, more = self._in_turns(works), {}
        for name in ("dpp", "dpnp"):
            share = timing.relative(found[f"{name} loss alone"], found[f"{name} step"])
            more[f"{name} loss alone"] = {"loss_percent": 100 * share}
        self.rows += timing.table_rows("rivals", f"{classes} classes, {dim} dimensions", found, "dpp step", more)

    def quality(self, architecture: str, wanted: Quality) -> None:
        """Both ways train alike; the nets are attacked by the same PGD-20, in fp32, on images that neither saw."""
        dataset = replace(self.dataset, train=self.dataset.train.head(wanted.images))
        schedule = {"epochs": wanted.epochs, "optimiser.schedule": "one-cycle", "optimiser.lr": 0.1}
        for precision, label in (("32-true", OURS), ("bf16-mixed", "advdpnp bf16")):
            recipe = self._pgd_recipe(architecture, augmentation="crop-flip", precision=precision, **schedule)
            ours = self._ours(recipe, dataset)
            if precision == "32-true":
                public = PublicWay(ours.run.network, recipe)
                train = partial(public.train, ours.run.batches.split)
                self._judge(architecture, "torchattacks fp32", train, public.model, wanted)
            train = partial(timing.repeat, ours, ours.run.batches.steps * wanted.epochs)
            self._judge(architecture, label, train, ours.run.network, wanted)

    def _judge(self, architecture: str, variant: str, train: Work, network: nn.Module, wanted: Quality) -> None:
        seconds = timing.time_calls(train, 1).wall
        found = ways.judge(network, self.dataset.test.head(wanted.held_out))
        self.rows.append({"part": "quality", "case": architecture, "variant": variant, "train_s": seconds, **found})


def measure(settings: Settings, dataset: Dataset, say: Callable[[str], None] = lambda what: None) -> pd.DataFrame:
    """Everything that ``settings`` asks for, one row per variant; ``say`` is told what begins.

    Raises:
        AdvdpnpError: the images are too few for the steps that are timed, or a part is unknown.
    """
    if unknown := set(settings.parts) - set(PARTS):
        raise AdvdpnpError(f"there is no part called {', '.join(sorted(unknown))}; choose among {', '.join(PARTS)}")
    needed = settings.images
    if len(dataset.train) < needed:
        raise AdvdpnpError(f"{needed} images are needed, there are {len(dataset.train)}; lower --steps or --batch")
    bench = Bench(settings, dataset)
    with isolated_rng(), timing.threads(settings.threads):
        for what, work in _plan(bench):
            say(what)
            torch.manual_seed(0)
            work()
    return pd.DataFrame(bench.rows)


def _plan(bench: Bench) -> Iterator[tuple[str, Work]]:
    """What is to be done, with its name, in order."""
    settings = bench.settings
    for name in settings.architectures:
        if "step" in settings.parts:
            yield f"step, {name}", partial(bench.steps, name)
        if "data" in settings.parts:
            yield f"data, {name}", partial(bench.data, name)
    if "methods" in settings.parts:
        yield "methods", bench.methods
    if "rivals" in settings.parts:
        for classes, dim in itertools.product(settings.classes, settings.dims):
            yield f"rivals, {classes} classes, {dim} dimensions", partial(bench.rivals, classes, dim)
    if settings.quality is not None:
        for name in settings.architectures:
            yield f"quality, {name}", partial(bench.quality, name, settings.quality)


def ratios(table: pd.DataFrame) -> str:
    """One line: how many times as fast ours is, and what the rest costs."""
    found = []
    for row in table.to_dict("records"):
        name, case = str(row["variant"]), str(row["case"])
        if row["part"] == "step" and name.startswith("advdpnp") and row["relative"] > 0:
            processor = f"{1 / row['cpu_relative']:.2f} by processor time"
            found.append(f"{case} {name} {1 / row['relative']:.2f} x as fast as {PUBLIC} ({processor})")
        elif row["part"] == "data" and row["data_percent"] > 0:
            found.append(f"{case} {name}: data {row['data_percent']:.1f} %")
        elif row["part"] == "methods" and name == "adv-dpnp":
            found.append(f"adv-dpnp {row['relative']:.1f} x a step of ce")
        elif row["part"] == "rivals" and name == "dpnp step":
            found.append(f"{case}: dpnp {row['relative']:.2f} x a step of dpp")
        elif row["part"] == "quality":
            found.append(f"{case} {name}: PGD-20 {row['pgd_20']:.1f} %")
    return "ratios: " + "; ".join(found)


def report(settings: Settings, dataset: Dataset, table: pd.DataFrame, command: str) -> timing.Report:
    """The tables with what a reader needs to judge them."""
    facts = timing.circumstances(command, settings.threads, Hardware(settings.device).fabric("32-true").device)
    facts["images"] = f"{dataset.name}, {len(dataset.train)} of them, batches of {settings.batch}"
    steps = f"{settings.steps} steps (fewer where a step takes seconds)"
    facts["turns"] = f"{settings.repeats} of {steps}, after a warm-up"
    return timing.Report("training", "Time per training step", facts, table, ratios(table))


def main(
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Turns.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps per turn.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch: Annotated[int, typer.Option(min=2, help="Images per step.")] = 256,
    architecture: Annotated[str, typer.Option(help="Names with commas.")] = "small-cnn,tiny-resnet",
    parts: Annotated[str, typer.Option(help="Names with commas.")] = ",".join(PARTS),
    compile: Annotated[bool, typer.Option(help="Try torch.compile.")] = True,
    quality: Annotated[
        bool, typer.Option("--quality", help="Train both ways, attack the nets (emulated bf16: slow).")
    ] = False,
    quality_images: Annotated[int, typer.Option(min=100, help="Training images of --quality.")] = Quality.images,
    quality_epochs: Annotated[int, typer.Option(min=1, help="Epochs of --quality.")] = Quality.epochs,
    out: Annotated[Path | None, typer.Option(help="Folder or .csv file for the tables.")] = None,
) -> None:
    """Measure training steps and print the tables; the last line has the ratios."""
    settings = Settings(
        parts=tuple(name for name in parts.split(",") if name),
        architectures=tuple(architecture.split(",")),
        batch=batch,
        steps=steps,
        repeats=repeats,
        threads=threads,
        device=device,
        compile=compile,
        quality=Quality(quality_images, quality_epochs) if quality else None,
    )
    dataset = timing.images(max(12_000, quality_images if quality else 0, settings.images))
    table = measure(settings, dataset, lambda what: print(what, file=sys.stderr, flush=True))
    report(settings, dataset, table, timing.command_of("benchmarks.training")).publish(out)


if __name__ == "__main__":
    timing.run_script(main)
