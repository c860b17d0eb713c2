"""The training loop. It knows nothing of any method; a method knows nothing of devices, precision or schedules.

Whatever is random is a function of the recipe's seed, the epoch and the step, so a run that was stopped anywhere
continues to the same weights, bit for bit on the CPU.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from torch import Tensor, nn

from advdpnp.attacks.pgd import PGD, perturb
from advdpnp.attacks.threat import ThreatModel
from advdpnp.augment import augment
from advdpnp.checkpoint import save_checkpoint
from advdpnp.datasets.base import Dataset, to_float
from advdpnp.errors import AdvdpnpError
from advdpnp.files import atomic_path, folder_lock, write_text
from advdpnp.interrupts import deferred_interrupts
from advdpnp.methods.base import METHODS, Method, Terms
from advdpnp.models.network import ModelConfig, Network, build_model
from advdpnp.prototypes import class_vectors, min_separation
from advdpnp.randomness import Draw, isolated_rng, seed_of
from advdpnp.recipe import Recipe, explain
from advdpnp.schedule import SCHEDULES
from advdpnp.versions import software_versions

_STATE_VERSION = 1
_VALIDATION_BATCH = 500


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done of all of the run, means of the epoch so far, and the last epoch's metrics."""

    epoch: int
    epochs: int
    step: int
    steps: int
    terms: dict[str, float]
    metrics: dict[str, Any] = field(default_factory=dict)


class _LossModule(nn.Module):
    """The whole loss as one forward: data-parallel wrappers allow no other calls."""

    def __init__(self, network: Network, method: Method) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        return self.method.loss(self.network, x, x_adv, y)


def build_method(values: dict[str, Any]) -> Method:
    """The method a recipe's ``method`` section describes.

    Raises:
        AdvdpnpError: no name, unknown name, or values the method does not have.
    """
    arguments = dict(values)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise AdvdpnpError(f"the recipe names no method; set method.name to one of {', '.join(METHODS.names())}")
    try:
        method: Method = METHODS.make(name, **arguments)
    except ValidationError as error:
        raise AdvdpnpError(f"the method {name} cannot be made: {explain(error)}") from error
    return method


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    resume_command: str = "the same command with --resume",
) -> pd.DataFrame:
    """Train by ``recipe`` and leave ``best``, ``last``, the metrics and the resolved recipe in ``folder``.

    ``best`` is the epoch with the highest PGD accuracy on the validation split, for methods that train on adversarial
    images; for the others, whose PGD accuracy is noise about zero, it is the highest clean accuracy.

    Args:
        device: "auto", "cpu" or "cuda".
        report: called after every step and at the end of every epoch.
        resume_command: what the message after an interruption tells the user to run.

    Returns:
        The metrics, one row per epoch.

    Raises:
        AdvdpnpError: the folder holds a run already and ``resume`` is not set, or another run's; the loss is no longer
            finite; the run was interrupted (all that was computed is saved).
    """
    with folder_lock(folder), isolated_rng(), deferred_interrupts() as interrupted:
        run = _Run(recipe, dataset, folder, device)
        if (folder / "training.pt").exists():
            if not resume:
                raise AdvdpnpError(
                    f"{folder} already holds a run; add --resume to continue it or choose another --name"
                )
            run.load()
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        while run.epoch < recipe.epochs:
            for _ in run.steps_of_epoch():
                if run.step % 10 == 0 or run.step == run.steps:
                    report(run.progress())
                if interrupted():
                    run.save()
                    place = f"epoch {run.epoch + 1} of {recipe.epochs}"
                    raise AdvdpnpError(f"stopped in {place} and saved; continue with: {resume_command}")
            run.end_epoch()
            report(run.progress())
        return pd.DataFrame(run.metrics)


class _Run:
    """The state of one run between two steps."""

    def __init__(self, recipe: Recipe, dataset: Dataset, folder: Path, device: str) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.method = build_method(recipe.method)
        self.threat = ThreatModel.parse(recipe.attack.norm, recipe.attack.eps)
        objective = self.method.inner_objective
        step_size = recipe.attack.step_size
        self.attack = PGD(self.threat, steps=recipe.attack.steps, step_size=step_size, objective=objective)
        self.judge = PGD(self.threat, steps=recipe.validation_steps)
        if device == "cuda" and not torch.cuda.is_available():
            raise AdvdpnpError("there is no CUDA device that torch can use; run `advdpnp doctor`, or use --device cpu")
        self.fabric = Fabric(accelerator=device, devices=1, precision=recipe.precision)
        torch.manual_seed(seed_of(recipe.seed, "initialisation"))
        self.network = build_model(_model_config(recipe, dataset, self.method))
        # The faster layout for convolutions, measured on CPUs; it changes results in the last bits only.
        self.network.to(memory_format=torch.channels_last)
        module = _LossModule(self.network, self.method)
        self.module, self.optimiser = self.fabric.setup(module, _optimiser(self.network, recipe))
        self.train_split = dataset.train.to(self.fabric.device)
        self.validation_split = dataset.validation.to(self.fabric.device)
        self.batch_size = min(recipe.batch_size, len(self.train_split))
        self.steps = len(self.train_split) // self.batch_size
        self.how = recipe.augmentation or dataset.augmentation
        self.epoch = 0
        self.step = 0
        self.sums: dict[str, Tensor] = {}
        self.metrics: list[dict[str, Any]] = []
        self.best: list[float] = []
        self.seconds = 0.0
        self._since = time.monotonic()

    def steps_of_epoch(self) -> Iterator[None]:
        """Train to the end of the epoch; between any two steps the run may be saved."""
        if self.step == 0:
            self.method.start_epoch(self.network)
        generator = torch.Generator().manual_seed(seed_of(self.recipe.seed, "order", self.epoch))
        order = torch.randperm(len(self.train_split), generator=generator).to(self.fabric.device)
        while self.step < self.steps:
            start = self.step * self.batch_size
            self._train_step(order[start : start + self.batch_size])
            self.step += 1
            yield

    def _train_step(self, index: Tensor) -> None:
        torch.manual_seed(seed_of(self.recipe.seed, "layers", self.epoch, self.step))  # for dropout and its like
        x, y = self.train_split.images[index], self.train_split.labels[index]
        generator = torch.Generator(x.device).manual_seed(seed_of(self.recipe.seed, "augment", self.epoch, self.step))
        x = to_float(augment(x, self.how, generator)).contiguous(memory_format=torch.channels_last)
        x_adv = None
        if self.method.adversarial:
            draw = Draw.of(seed_of(self.recipe.seed, "attack", self.epoch), index)
            with attack_mode(self.network, self.recipe.attack.mode), self.fabric.autocast():
                x_adv = perturb(self.network, x, y, self.attack, draw)
        progress = (self.epoch + self.step / self.steps) / self.recipe.epochs
        factor = SCHEDULES[self.recipe.optimiser.schedule](progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.lr * factor
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss, terms = self.module(x, x_adv, y)
        self.fabric.backward(loss)
        if self.recipe.optimiser.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimiser, max_norm=self.recipe.optimiser.clip)
        self.optimiser.step()
        # Sum and number of finite values per term: one bad value spoils every term a step later, so the one with the
        # fewest finite values is where it began. Kept on the device; nothing waits for it here.
        for name, value in {**terms, "loss": loss}.items():
            now = torch.stack([value.detach().float(), value.detach().isfinite().float()])
            self.sums[name] = self.sums[name] + now if name in self.sums else now

    def means(self) -> dict[str, float]:
        """Mean of each term over the epoch so far.

        Raises:
            AdvdpnpError: one of them is not finite; nothing is saved, so the last good state stands.
        """
        totals = {name: total.tolist() for name, total in self.sums.items()}
        if any(finite < self.step for _, finite in totals.values()):
            first = min(totals, key=lambda name: totals[name][1])
            raise AdvdpnpError(
                f"the loss term '{first}' is no longer finite in epoch {self.epoch + 1}, by step {self.step}; "
                f"the last saved state in {self.folder} stands; lower optimiser.lr, set optimiser.clip=1 or lower the "
                "weight of the term"
            )
        return {name: total / self.step for name, (total, _) in totals.items()}

    def progress(self) -> Progress:
        done = self.epoch * self.steps + self.step
        metrics = self.metrics[-1] if self.metrics else {}
        return Progress(self.epoch, self.recipe.epochs, done, self.steps * self.recipe.epochs, self.means(), metrics)

    def end_epoch(self) -> None:
        """Validate, keep the best, and save."""
        means = self.means()
        clean, robust = self.validate()
        row = {
            "epoch": self.epoch + 1,
            "validation_clean": clean,
            "validation_pgd": robust,
            "min_separation": min_separation(class_vectors(self.network.head)),
            "lr": self.optimiser.param_groups[0]["lr"],
            **means,
            "seconds": round(self._clock(), 1),
        }
        self.metrics.append(row)
        score = [robust, clean] if self.method.adversarial else [clean, robust]
        header = self._header(row)
        if score > self.best:
            self.best = score
            save_checkpoint(self.folder / "best.safetensors", self.network, header)
        save_checkpoint(self.folder / "last.safetensors", self.network, header)
        write_text(self.folder / "metrics.csv", pd.DataFrame(self.metrics).to_csv(index=False))
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.save()

    def validate(self) -> tuple[float, float]:
        """Accuracy on the validation split, clean and under PGD on cross-entropy."""
        clean = robust = 0
        self.network.eval()
        for start in range(0, len(self.validation_split), _VALIDATION_BATCH):
            part = slice(start, start + _VALIDATION_BATCH)
            x, y = to_float(self.validation_split.images[part]), self.validation_split.labels[part]
            draw = Draw.of(
                seed_of(self.recipe.seed, "validation"), torch.arange(start, start + len(x), device=x.device)
            )
            x_adv = perturb(self.network, x, y, self.judge, draw)
            with torch.no_grad():
                right = self.network(x).argmax(1) == y
                clean += int(right.sum())
                robust += int((right & (self.network(x_adv).argmax(1) == y)).sum())
        total = len(self.validation_split)
        return clean / total, robust / total

    def save(self) -> None:
        """Write everything that the next step depends on, in one file."""
        self.means()
        state = {
            "version": _STATE_VERSION,
            "recipe": self.recipe.to_yaml(),
            "data": self._data_hash(),
            "epoch": self.epoch,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sums": self.sums,
            "metrics": self.metrics,
            "best": self.best,
            "seconds": self._clock(),
        }
        with atomic_path(self.folder / "training.pt") as temporary:
            torch.save(state, temporary)

    def load(self) -> None:
        """Continue from the saved state.

        Raises:
            AdvdpnpError: the state is damaged, or of another recipe or data.
        """
        path = self.folder / "training.pt"
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            if state["version"] != _STATE_VERSION:
                raise AdvdpnpError(f"{path} was written by another version of advdpnp; train under another --name")
        except AdvdpnpError:
            raise
        except Exception as error:  # torch.load raises whatever the unpickler meets in a damaged file
            raise AdvdpnpError(
                f"{path} is damaged and cannot be resumed from; delete the folder and train again"
            ) from error
        if state["recipe"] != self.recipe.to_yaml():
            changed = _changed_lines(state["recipe"], self.recipe.to_yaml())
            raise AdvdpnpError(
                f"{self.folder} holds a run of another recipe ({changed}); use its values or another --name"
            )
        if state["data"] != self._data_hash():
            raise AdvdpnpError(
                f"{self.folder} holds a run on other training images; use the same data or another --name"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.sums, self.metrics, self.best = state["sums"], state["metrics"], state["best"]
        self.seconds = state["seconds"]

    def _clock(self) -> float:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds

    def _data_hash(self) -> str:
        return f"{self.dataset.train.content_hash}-{self.dataset.validation.content_hash}"

    def _header(self, metrics: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self.folder.name,
            "dataset": self.dataset.name,
            "class_names": list(self.dataset.class_names),
            "method": self.recipe.method["name"],
            "recipe": self.recipe.model_dump(mode="json"),
            "metrics": metrics,
            "versions": software_versions(),
        }


@contextmanager
def attack_mode(network: nn.Module, mode: str) -> Iterator[None]:
    """The mode of the net during the inner attack; BatchNorm uses the statistics it says but updates none."""
    network.train(mode == "train")
    tracking = [
        m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    if mode == "train":
        for layer in tracking:
            layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True


def _model_config(recipe: Recipe, dataset: Dataset, method: Method) -> ModelConfig:
    head = recipe.model.head or method.head
    if method.head == "prototype" and head != "prototype":
        raise AdvdpnpError(
            f"the method {recipe.method['name']} needs prototypes; set model.head=prototype or leave it out"
        )
    return ModelConfig(
        architecture=recipe.model.architecture,
        classes=dataset.classes,
        channels=dataset.channels,
        image_size=dataset.image_size,
        feature_dim=recipe.model.feature_dim,
        head=head,
        radius=recipe.model.radius if head == "prototype" else None,
        mean=dataset.mean,
        std=dataset.std,
    )


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.SGD:
    values = recipe.optimiser
    prototypes = [p for name, p in network.named_parameters() if name == "head.prototypes"]
    others = [p for name, p in network.named_parameters() if name != "head.prototypes"]
    groups: list[dict[str, Any]] = [
        {"params": others, "weight_decay": values.weight_decay, "momentum": values.momentum},
    ]
    if prototypes:
        momentum = values.prototype_momentum
        groups.append(
            {
                "params": prototypes,
                "weight_decay": values.prototype_weight_decay,
                "momentum": momentum,
                "nesterov": values.nesterov and momentum > 0,
            }
        )
    return torch.optim.SGD(
        groups, lr=values.lr, nesterov=values.nesterov and values.momentum > 0, momentum=values.momentum
    )


def _changed_lines(old: str, new: str) -> str:
    before, after = old.splitlines(), new.splitlines()
    changed = [f"'{line.strip()}'" for line in before if line not in after]
    return "it has " + ", ".join(changed[:3]) if changed else "its values stand in another order"
