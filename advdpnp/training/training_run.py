"""The state of one training run between two steps, and the step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path, write_text
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.base.versions import software_versions
from advdpnp.datasets.base import Dataset, to_float
from advdpnp.models.checkpoint import save_checkpoint
from advdpnp.models.network import ModelConfig, Network, build_model
from advdpnp.models.prototypes import class_vectors, min_separation
from advdpnp.training.augment import augment
from advdpnp.training.averaging import WeightAverage
from advdpnp.training.methods.base import METHODS, Method, Terms
from advdpnp.training.recipe import Recipe, explain
from advdpnp.training.schedule import SCHEDULES
from advdpnp.training.validation import validate
from advdpnp.training.weight_perturbation import perturbed_weights

VECTORS = "class_vectors.safetensors"  # how prototypes moved: (epochs, classes, dim), one entry per finished epoch
_LEFT = ("best.safetensors", "last.safetensors", "metrics.csv", VECTORS)  # by finished epochs, beside the state
_STATE_VERSION = 2
_STATISTICS_BATCHES = 16  # batches that the BatchNorm statistics of averaged weights are computed from


class _LossModule(nn.Module):
    """The whole loss as one forward: data-parallel wrappers allow no other calls."""

    def __init__(self, network: nn.Module, method: Method) -> None:
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
        method: Method = METHODS.find(name)[0].build(**arguments)
    except ValidationError as error:
        raise AdvdpnpError(f"the method {name} cannot be made: {explain(error)}") from error
    return method


class TrainingRun:
    """One run: everything that the next step depends on, and nothing else.

    With several processes each takes its slice of every batch; what is random is drawn for the whole batch in each of
    them, so their number changes nothing but rounding (and the batches that BatchNorm sees).
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
        self.attack = PGD(
            self.threat,
            steps=recipe.attack.steps,
            step_size=recipe.attack.relative_step * self.threat.eps,
            objective=self.method.inner_objective,
        )
        torch.manual_seed(seed_of(recipe.seed, "initialisation"))
        self.network = build_model(_model_config(recipe, dataset, self.method), pretrained=recipe.model.pretrained)
        # The faster layout for convolutions, measured on CPUs; it changes results in the last bits only.
        self.network.to(memory_format=torch.channels_last)
        module = _LossModule(self.network, self.method)
        self.module, self.optimiser = fabric.setup(
            torch.compile(module) if compiled else module, _optimiser(self.network, recipe)
        )
        self.average = None if recipe.average is None else WeightAverage(self.network, recipe.average)
        self.train_split = dataset.train.to(fabric.device)
        self.validation_split = dataset.validation.to(fabric.device)
        self.extra_split = None if extra is None else _matching(extra, dataset).train.to(fabric.device)
        if len(self.train_split) < 2 or not len(self.validation_split):
            raise AdvdpnpError(
                f"{dataset.name} leaves {len(self.train_split)} images to train on and {len(self.validation_split)} to "
                "validate; give at least 10 training images"
            )
        self.batch_size = min(recipe.batch_size, len(self.train_split))
        self.extra_size = (
            0 if extra is None else min(max(round(recipe.extra_share * self.batch_size), 1), self.batch_size - 1)
        )
        self.steps = len(self.train_split) // (self.batch_size - self.extra_size)
        if self.batch_size % fabric.world_size:
            raise AdvdpnpError(
                f"a batch of {self.batch_size} cannot be shared by {fabric.world_size} processes; set batch_size to a "
                f"multiple of {fabric.world_size}"
            )
        self.how = recipe.augmentation or dataset.augmentation
        self.epoch = 0
        self.step = 0
        self.sums: dict[str, Tensor] = {}
        self.metrics: list[dict[str, Any]] = []
        self.vectors: list[Tensor] = []
        self.warnings: list[str] = []
        self.best: list[float] = []
        self.seconds = 0.0
        self._since = time.monotonic()

    @property
    def judged(self) -> Network:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.network if self.average is None else self.average.network

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes."""
        if self.fabric.world_size == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum") > 0)

    def steps_of_epoch(self) -> Iterator[None]:
        """Train to the end of the epoch; between any two steps the run may be saved."""
        if self.step == 0:
            self.method.start_epoch(self.network)
        batches = self._batches()
        while self.step < self.steps:
            self._train_step(batches(self.step))
            self.step += 1
            yield

    def _batches(self) -> Callable[[int], Tensor]:
        """Indices of the images of each step; those of extra images count on behind the training images."""
        seed, own = self.recipe.seed, self.batch_size - self.extra_size
        generator = torch.Generator().manual_seed(seed_of(seed, "order", self.epoch))
        order = torch.randperm(len(self.train_split), generator=generator)
        if self.extra_split is None:
            return lambda step: order[step * own : (step + 1) * own].to(self.fabric.device)
        shape, size = (self.steps, self.extra_size), len(self.extra_split)
        extra = torch.randint(size, shape, generator=generator) + len(self.train_split)
        return lambda step: torch.cat([order[step * own : (step + 1) * own], extra[step]]).to(self.fabric.device)

    def _images(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images and labels with these indices."""
        if self.extra_split is None:
            return self.train_split.images[index], self.train_split.labels[index]
        own, count = index < len(self.train_split), len(self.train_split)
        parts = self.train_split.pick(index[own]), self.extra_split.pick(index[~own] - count)
        return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])

    def _adversarial(self, network: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> Tensor | None:
        """What the inner attack finds, where the method wants it; weights get no gradient, BatchNorm no update."""
        if not self.method.adversarial:
            return None
        draw = Draw.of(seed_of(self.recipe.seed, "attack", self.epoch), index)
        with attack_mode(network, self.recipe.attack.mode), self.fabric.autocast():
            return perturb(network, x, y, self.attack, draw)

    def _train_step(self, index: Tensor) -> None:
        seed, mine = self.recipe.seed, self._slice(len(index))
        torch.manual_seed(seed_of(seed, "layers", self.epoch, self.step))  # for dropout and its like
        images, y = self._images(index)
        generator = torch.Generator(images.device).manual_seed(seed_of(seed, "augment", self.epoch, self.step))
        x = to_float(augment(images, self.how, generator))[mine].contiguous(memory_format=torch.channels_last)
        y, index = y[mine], index[mine]
        x_adv = self._adversarial(self.network, x, y, index)
        self._set_rate()
        self.network.train()
        loss, terms = self._backward(x, x_adv, y)
        if self.recipe.optimiser.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimiser, max_norm=self.recipe.optimiser.clip)
        self.optimiser.step()
        self.method.end_step(self.network)
        if self.average is not None:
            self.average.follow(self.network)
        # Sum and number of finite values per term: one bad value spoils every term a step later, so the one with the
        # fewest finite values is where it began. Kept on the device; nothing waits for it here.
        for name, value in {**terms, "loss": loss}.items():
            now = torch.stack([value.detach().float(), value.detach().isfinite().float()])
            self.sums[name] = self.sums[name] + now if name in self.sums else now

    def _slice(self, count: int) -> slice:
        """This process's part of a batch: every so-manieth image, for extra images stand behind the others."""
        return slice(self.fabric.global_rank, count, self.fabric.world_size)

    def _set_rate(self) -> None:
        progress = (self.epoch + self.step / self.steps) / self.recipe.epochs
        factor = SCHEDULES[self.recipe.optimiser.schedule](progress)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.lr * factor

    def _backward(self, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        """Leave the gradients of the loss in the weights; with weight perturbation, those at the perturbed weights."""
        self.optimiser.zero_grad(set_to_none=True)
        gamma = self.recipe.awp
        if gamma is None or not self.method.adversarial or self.epoch < self.recipe.awp_start:
            loss, terms = self.module(x, x_adv, y)
            self.fabric.backward(loss)
            return loss, terms
        with untracked_statistics(self.network):
            loss, _ = self.module(x, x_adv, y)
        self.fabric.backward(loss)
        with perturbed_weights(self.network, gamma):
            self.optimiser.zero_grad(set_to_none=True)
            loss, terms = self.module(x, x_adv, y)
            self.fabric.backward(loss)
        return loss, terms

    def means(self) -> dict[str, float]:
        """Mean of each term over the epoch so far, in this process.

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

    def _require_finite_weights(self) -> None:
        """The loss of the last step is computed before that step: what it did to the weights shows here.

        Raises:
            AdvdpnpError: a weight or statistic is not finite; nothing is saved, so the last good state stands.
        """
        networks = [self.network, *([self.average.network] if self.average is not None else [])]
        for name, value in (item for network in networks for item in network.state_dict().items()):
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise AdvdpnpError(
                    f"the weights '{name}' are no longer finite in epoch {self.epoch + 1}, by step {self.step}; the "
                    f"last saved state in {self.folder} stands; lower optimiser.lr or set optimiser.clip=1"
                )

    def end_epoch(self) -> None:
        """Validate, keep the best, and save."""
        self.sums = {name: self._over_processes(total) for name, total in self.sums.items()}
        means = self.means()
        self._require_finite_weights()
        if self.average is not None:
            self._recompute_statistics(self.average)
        found = validate(
            self.judged, self.validation_split, self.threat, self.recipe.validation_steps, self.recipe.seed
        )
        vectors = class_vectors(self.judged.head).detach().float().cpu().clone()
        angle = min_separation(vectors)
        if self.epoch == 0:
            # Nets never lie in a folder without a state, even when the run is killed between two of the files below.
            self.save()
        self.vectors.append(vectors)
        self.warnings = found.warnings(angle)
        row = {
            "epoch": self.epoch + 1,
            "validation_clean": found.clean,
            "validation_pgd": found.pgd,
            "validation_pgd_margin": found.pgd_margin,
            "gap_p": found.gap_p,
            "zero_gradient": found.zero_gradient,
            "min_separation": angle,
            "lr": self.optimiser.param_groups[0]["lr"],
            **means,
            "seconds": round(self._clock(), 1),
        }
        self.metrics.append(row)
        score = [found.worst, found.clean] if self.method.adversarial else [found.clean, found.worst]
        improved = score > self.best
        self.best = max(score, self.best)
        if self.fabric.is_global_zero:
            header = self._header(row)
            if improved:
                save_checkpoint(self.folder / "best.safetensors", self.judged, header)
            save_checkpoint(self.folder / "last.safetensors", self.judged, header)
            with atomic_path(self.folder / VECTORS) as temporary:
                save_file({"vectors": torch.stack(self.vectors)}, temporary)
            write_text(self.folder / "metrics.csv", pd.DataFrame(self.metrics).to_csv(index=False))
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.save()

    def _over_processes(self, total: Tensor) -> Tensor:
        """Mean of sums, smallest number of finite values: [sum, finite] over all processes."""
        if self.fabric.world_size == 1:
            return total
        gathered = torch.as_tensor(self.fabric.all_gather(total))
        return torch.stack([gathered[:, 0].mean(), gathered[:, 1].min()])

    def _recompute_statistics(self, average: WeightAverage[Network]) -> None:
        """BatchNorm statistics of the averaged weights, from passes as the method makes them in training."""
        for taken_over, buffer in zip(average.network.buffers(), self.network.buffers(), strict=True):
            taken_over.copy_(buffer)  # those of the last step, also where a state was saved after a recomputation
        batches, prepared = self._batches(), []
        for step in range(min(self.steps, _STATISTICS_BATCHES)):
            index = batches(step)
            images, y = self._images(index)
            x = to_float(images).contiguous(memory_format=torch.channels_last)
            # Made before the statistics are reset: the attack needs some, and takes those of the trained net.
            prepared.append((x, self._adversarial(average.network, x, y, index), y))
        average.recompute_batchnorm(partial(self.method.loss, average.network, *batch) for batch in prepared)

    def save(self) -> None:
        """Write everything that the next step depends on, in one file."""
        self.means()
        self._require_finite_weights()
        own = self._own_of_each_process()
        if not self.fabric.is_global_zero:
            return
        state = {
            "version": _STATE_VERSION,
            "recipe": self.recipe.to_yaml(),
            "data": self._data_hash(),
            "epoch": self.epoch,
            "step": self.step,
            "network": self.network.state_dict(),
            "own": own,
            "average": None if self.average is None else self.average.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sums": self.sums,
            "metrics": self.metrics,
            "vectors": self.vectors,
            "warnings": self.warnings,
            "best": self.best,
            "seconds": self._clock(),
        }
        # Through a stream of ours: torch's own hides why it could not write.
        with atomic_path(self.folder / "training.pt") as temporary, open(temporary, "wb") as stream:
            torch.save(state, stream)

    def _own_of_each_process(self) -> dict[str, dict[str, Tensor]]:
        """What processes do not share between two steps, (processes, ...) each; nothing if there is one process.

        Each has BatchNorm statistics of its own until the next forward, and the inner attack comes before that.
        """
        if self.fabric.world_size == 1:
            return {}
        buffers = {name: buffer.detach().clone() for name, buffer in self.network.named_buffers()}
        return dict(self.fabric.all_gather({"buffers": buffers, "sums": self.sums}))

    def _take_own(self, saved: dict[str, dict[str, Tensor]]) -> None:
        """This process's part of it, if as many processes continue."""
        mine = {
            kind: {name: each[self.fabric.global_rank] for name, each in values.items()}
            for kind, values in saved.items()
            if all(len(each) == self.fabric.world_size for each in values.values())
        }
        for name, buffer in self.network.named_buffers():
            buffer.copy_(mine.get("buffers", {}).get(name, buffer))
        self.sums = mine.get("sums", self.sums)

    def require_nothing_to_lose(self) -> None:
        """Without a saved state a run begins anew, and would overwrite what finished epochs have left.

        Raises:
            AdvdpnpError: the folder holds something of the kind.
        """
        left = [name for name in _LEFT if (self.folder / name).exists()]
        if left:
            raise AdvdpnpError(
                f"{self.folder} holds {', '.join(left)} but no training.pt, so there is nothing to continue from; "
                "choose another --name, or remove the folder and train again"
            )

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
            missing = {"recipe", "data", "epoch", "step", "network", "average", "optimiser"} - set(state)
            if missing:
                raise KeyError(*missing)
        except AdvdpnpError:
            raise
        except Exception as error:  # torch.load raises whatever the unpickler meets in a damaged file
            raise AdvdpnpError(
                f"{path} is damaged and cannot be resumed from; choose another --name, or remove the folder and train "
                "again (best and last, if they are there, still hold the nets of finished epochs)"
            ) from error
        if state["epoch"] and not (self.folder / "best.safetensors").exists():
            raise AdvdpnpError(
                f"{self.folder} has lost its best.safetensors; choose another --name, or remove the folder and train "
                "again"
            )
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
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.sums, self.metrics, self.best = state["sums"], state["metrics"], state["best"]
        self.vectors = [vectors.cpu() for vectors in state["vectors"]]
        self.warnings, self.seconds = state["warnings"], state["seconds"]
        self._take_own(state.get("own", {}))

    def _clock(self) -> float:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds

    def _data_hash(self) -> str:
        splits = [self.dataset.train, self.dataset.validation, *([self.extra_split] if self.extra_split else [])]
        return "-".join(split.content_hash for split in splits)

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
    with untracked_statistics(network) if mode == "train" else nullcontext():
        yield


@contextmanager
def untracked_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in training mode normalises by the batch and leaves its running statistics alone."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _matching(extra: Dataset, dataset: Dataset) -> Dataset:
    """Extra images must be of the same kind as the others.

    Raises:
        AdvdpnpError: they have another shape or more classes.
    """
    kind, wanted = (extra.channels, *extra.image_size), (dataset.channels, *dataset.image_size)
    if kind != wanted or extra.classes > dataset.classes:
        raise AdvdpnpError(
            f"the extra images of {extra.name} are {'x'.join(map(str, kind))} of {extra.classes} classes, those of "
            f"{dataset.name} {'x'.join(map(str, wanted))} of {dataset.classes}; bring them to the same shape"
        )
    return extra


def _model_config(recipe: Recipe, dataset: Dataset, method: Method) -> ModelConfig:
    head = recipe.model.head or method.head
    if head == "centre" and method.head != "centre":
        raise AdvdpnpError(
            f"the method {recipe.method['name']} moves no centres; leave model.head out, or use the recipe center"
        )
    if method.inner_objective == "dlr" and dataset.classes < 3:
        raise AdvdpnpError(
            f"the DLR loss needs at least 3 classes and {dataset.name} has {dataset.classes}; use "
            "method.inner_objective=margin"
        )
    if recipe.awp is not None and not method.adversarial:
        raise AdvdpnpError(
            f"awp perturbs weights against adversarial images, and {recipe.method['name']} has none; leave awp out"
        )
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
        temperature=recipe.model.temperature if head == "prototype" else 1.0,
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
    has = [f"'{line.strip()}'" for line in before if line not in after]
    lacks = [f"'{line.strip()}'" for line in after if line not in before]
    if not has and not lacks:
        return "its values stand in another order"
    return "; ".join(
        f"{word} {', '.join(lines[:3])}" for word, lines in (("it has", has), ("it lacks", lacks)) if lines
    )
