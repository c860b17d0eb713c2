"""The state of a training run, and its transitions: train an epoch, validate, save, load."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import seed_of
from advdpnp.base.versions import software_versions
from advdpnp.datasets.base import Dataset, to_float
from advdpnp.models.checkpoint import build_from_checkpoint
from advdpnp.models.ed_wta import require_positive_scale
from advdpnp.models.network import ModelConfig, Network, build_model
from advdpnp.models.prototypes import class_vectors, min_separation, simplex_bound
from advdpnp.training.batches import Batches
from advdpnp.training.methods.base import Method, build_method
from advdpnp.training.metrics import Sums, add_terms, mean_terms, require_finite_weights, sums_over_processes
from advdpnp.training.recipe import Recipe
from advdpnp.training.state import STATE, gather_rank_state, load_state, restore_rank_state, save_epoch, save_state
from advdpnp.training.step import TrainingStep
from advdpnp.training.validation import validate
from advdpnp.training.watch.curves import CURVES, Curves
from advdpnp.training.watch.problems import remedies, warnings
from advdpnp.training.weights import WeightAverage

_STATISTICS_BATCHES = 16  # number of batches for the BatchNorm statistics of averaged weights


class TrainingRun:
    """One training run: its network, batches, progress and metrics.

    Attributes:
        epoch, step: number of finished epochs, and of finished steps in the current epoch.
        sums: sums of the loss terms over the epoch so far, in this process.
        metrics: one row per finished epoch.
        vectors: class vectors (classes, dim) after each finished epoch.
        best: score of the best epoch: the accuracies that select it, the decisive one first.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        extra: Dataset | None,
        folder: Path,
        fabric: Fabric,
        *,
        compiled: bool = False,
    ) -> None:
        self.recipe, self.dataset, self.folder, self.fabric = recipe, dataset, folder, fabric
        self.method = build_method(recipe.method)
        self.threat = ThreatModel.parse(recipe.attack.norm, recipe.attack.eps)
        torch.manual_seed(seed_of(recipe.seed, "initialisation"))
        self.network = _network(recipe, dataset, self.method)
        # The faster memory layout for convolutions, measured on CPUs; results differ only by rounding.
        self.network.to(memory_format=torch.channels_last)
        self.training_step = TrainingStep(recipe, self.method, self.network, self.threat, fabric, compiled=compiled)
        self.average = None if recipe.average is None else WeightAverage(self.network, recipe.average)
        self.batches = Batches(recipe, dataset, extra, fabric)
        self.validation_split = dataset.validation.to(fabric.device)
        self.epoch = 0
        self.step = 0
        self.sums: Sums = {}
        self.metrics: list[dict[str, Any]] = []
        self.vectors: list[Tensor] = []
        self.best: list[float] = []
        head = self.network.head
        self.curves = Curves(folder / CURVES, recipe, simplex_bound(*class_vectors(head).shape))
        self.seconds = 0.0
        self._since = time.monotonic()

    @property
    def evaluated_network(self) -> Network:
        """The network that is validated and saved: the one with averaged weights if the recipe asks for them."""
        return self.network if self.average is None else self.average.network

    def begin(self) -> None:
        """Let the method prepare the network; only for a new run, a resumed one has its state."""
        self.method.start_training(self.network, self.batches.unaugmented())
        # Processes may round differently, but must start from the same weights.
        start = self.fabric.broadcast(self.network.state_dict())
        self.network.load_state_dict(start)
        if self.average is not None:
            self.average.network.load_state_dict(start)

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.fabric.world_size == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum") > 0)

    def steps_of_epoch(self) -> Iterator[None]:
        """Train to the end of the epoch, one step at a time; the run may be saved between any two steps."""
        if self.step == 0:
            self.method.start_epoch(self.network)
        order = self.batches.order(self.epoch)
        while self.step < self.batches.steps:
            x, y, index = self.batches.augmented(order(self.step), self.epoch, self.step)
            progress = (self.epoch + self.step / self.batches.steps) / self.recipe.epochs
            terms = self.training_step.update(x, y, index, self.epoch, self.step, progress)
            if self.average is not None:
                self.average.follow(self.network, self.epoch * self.batches.steps + self.step)
            add_terms(self.sums, terms)
            self.step += 1
            yield

    def means(self) -> dict[str, float]:
        """Mean of each loss term over the epoch so far, in this process.

        Raises:
            AdvdpnpError: a term is not finite.
        """
        return mean_terms(self.sums, self.step, self._place())

    def end_epoch(self) -> None:
        """Validate the network, then save it and the state of the run."""
        self.sums = sums_over_processes(self.sums, self.fabric)
        means = self.means()
        self._require_finite_weights()
        if self.average is not None:
            self._recompute_statistics(self.average)
        found = validate(
            self.evaluated_network, self.validation_split, self.threat, self.recipe.validation_steps, self.recipe.seed
        )
        vectors = class_vectors(self.evaluated_network.head).detach().float().cpu().clone()
        angle = min_separation(vectors)
        if self.epoch == 0:
            # So that a folder never has networks without a state, even if the run is killed between two writes.
            self.save()
        self.vectors.append(vectors)
        row = {
            "epoch": self.epoch + 1,
            "validation_clean": found.clean,
            "validation_pgd": found.pgd,
            "validation_pgd_margin": found.pgd_margin,
            "gap_p": found.gap_p,
            "zero_gradient": found.zero_gradient,
            "min_separation": angle,
            "lr": self.training_step.optimiser.param_groups[0]["lr"],
            **means,
            "seconds": round(self._clock(), 1),
        }
        self.metrics.append(row)
        score = self._score(row)
        improved = score > self.best
        self.best = max(score, self.best)
        if self.fabric.is_global_zero:
            header = self._header(row)
            save_epoch(self.folder, self.evaluated_network, header, self.metrics, self.vectors, best=improved)
            self.curves.draw(self.metrics, best=self.best_epoch())
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.save()

    def best_epoch(self) -> int:
        """Number of the epoch that is saved as ``best``."""
        return int(max(self.metrics, key=self._score)["epoch"])

    def in_words(self) -> str:
        """What is trained, on how many images and where: "adv-dpnp, resnet18 of 11,173,962 parameters, ..."."""
        recipe, count = self.recipe, sum(parameter.numel() for parameter in self.network.parameters())
        processes = f"{self.fabric.world_size} processes on " if self.fabric.world_size > 1 else ""
        return (
            f"{recipe.method['name']}, {recipe.model.architecture} of {count:,} parameters, "
            f"{len(self.dataset.train):,} images of {self.dataset.name}, {recipe.epochs} "
            f"epoch{'s' * (recipe.epochs > 1)}, {processes}{self.fabric.device}"
        )

    def warnings(self) -> list[str]:
        """A sentence for each problem of the last and the best network."""
        best = self.best_epoch() if self.metrics else None
        return warnings(self.metrics, remedies(self.method, self.network), best=best)

    def _score(self, row: Mapping[str, Any]) -> list[float]:
        clean, worst = row["validation_clean"], min(row["validation_pgd"], row["validation_pgd_margin"])
        return [worst, clean] if self.method.adversarial else [clean, worst]

    def save(self) -> None:
        """Save the complete state of the run in one file."""
        self.means()
        self._require_finite_weights()
        ranks = gather_rank_state(self.fabric, self.network, self.sums)
        if not self.fabric.is_global_zero:
            return
        state = {
            "recipe": self.recipe.to_yaml(),
            "data": self.batches.content_hash,
            "epoch": self.epoch,
            "step": self.step,
            "network": self.network.state_dict(),
            "own": ranks,
            "average": None if self.average is None else self.average.network.state_dict(),
            "optimiser": self.training_step.optimiser.state_dict(),
            "sums": self.sums,
            "metrics": self.metrics,
            "vectors": self.vectors,
            "best": self.best,
            "seconds": self._clock(),
        }
        save_state(self.folder, state)

    def load(self) -> None:
        """Continue from the saved state.

        Raises:
            AdvdpnpError: the state is damaged, or belongs to another recipe or other data.
        """
        state = load_state(self.folder, self.recipe, self.batches.content_hash, self.fabric.device)
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        self.training_step.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.metrics, self.best = state["metrics"], state["best"]
        self.vectors = [vectors.cpu() for vectors in state["vectors"]]
        self.seconds = state["seconds"]
        self.sums = restore_rank_state(state.get("own", {}), self.fabric, self.network, state["sums"])

    def _require_finite_weights(self) -> None:
        networks = [self.network] if self.average is None else [self.network, self.average.network]
        require_finite_weights(networks, self._place())
        for network in networks:
            require_positive_scale(network.head, self._place())

    def _place(self) -> str:
        kept = (
            f"the last saved state in {self.folder} is kept"
            if (self.folder / STATE).exists()
            else "no state had been saved yet"
        )
        return f"epoch {self.epoch + 1}, by step {self.step}; {kept}"

    def _recompute_statistics(self, average: WeightAverage[Network]) -> None:
        """Recompute the BatchNorm statistics of the averaged weights, from training forwards of the method."""
        for own, buffer in zip(average.network.buffers(), self.network.buffers(), strict=True):
            own.copy_(buffer)  # start from the last step's statistics, even if a resumed state has recomputed ones
        order, prepared = self.batches.order(self.epoch), []
        for step in range(min(self.batches.steps, _STATISTICS_BATCHES)):
            index = order(step)
            images, y = self.batches.images(index)
            x = to_float(images).contiguous(memory_format=torch.channels_last)
            # The attack runs before the statistics are reset, because it needs those of the trained network.
            x_adv = self.training_step.adversarial(average.network, x, y, index, self.epoch)
            prepared.append((x, x_adv, y))
        average.recompute_batchnorm(partial(self.method.loss, average.network, *batch) for batch in prepared)

    def _clock(self) -> float:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds

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


def _network(recipe: Recipe, dataset: Dataset, method: Method) -> Network:
    config, section = _model_config(recipe, dataset, method), recipe.model
    if section.weights is not None and section.pretrained:
        raise AdvdpnpError("model.weights and model.pretrained are two starts of one backbone; leave out one of them")
    if section.frozen and section.weights is None and not section.pretrained:
        raise AdvdpnpError("model.frozen keeps the backbone as it starts; set model.weights to a checkpoint")
    if section.weights is None:
        network = build_model(config, pretrained=section.pretrained)
    else:
        network = build_from_checkpoint(config, Path(section.weights))
    if section.frozen:
        network.freeze()
    return network


def _model_config(recipe: Recipe, dataset: Dataset, method: Method) -> ModelConfig:
    head = recipe.model.head or method.head
    if head == "centre" and method.head != "centre":
        raise AdvdpnpError(
            f"the method {recipe.method['name']} does not train centres; leave out model.head, or use the recipe center"
        )
    if method.inner_objective == "dlr" and dataset.classes < 3:
        raise AdvdpnpError(
            f"the DLR loss needs at least 3 classes and {dataset.name} has {dataset.classes}; use "
            "method.inner_objective=margin"
        )
    if recipe.awp is not None and not method.adversarial:
        raise AdvdpnpError(
            f"awp needs adversarial images, which the method {recipe.method['name']} does not use; leave out awp"
        )
    if method.head in ("prototype", "ed-wta") and head != method.head:
        raise AdvdpnpError(
            f"the method {recipe.method['name']} needs prototypes; set model.head={method.head} or leave out model.head"
        )
    return ModelConfig(
        architecture=recipe.model.architecture,
        width=recipe.model.width,
        activation=recipe.model.activation,
        classes=dataset.classes,
        channels=dataset.channels,
        image_size=dataset.image_size,
        feature_dim=recipe.model.feature_dim,
        head=head,
        radius=recipe.model.radius if head == "prototype" else None,
        mean=dataset.mean if recipe.model.normalise else (0.0,) * dataset.channels,
        std=dataset.std if recipe.model.normalise else (1.0,) * dataset.channels,
        temperature=recipe.model.temperature if head == "prototype" else 1.0,
        subclasses=recipe.model.subclasses if head == "ed-wta" else 1,
        winner=recipe.model.winner,
    )
