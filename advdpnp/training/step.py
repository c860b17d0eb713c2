"""One training step: the inner attack, the loss, its gradients and the update of the weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.search_copy.low_precision import lower, make_low_precision_copy
from advdpnp.attacks.search_copy.make import can_be_folded, make_folded_copy
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.models.network import Network
from advdpnp.training.methods.base import Method, Terms
from advdpnp.training.recipe import Recipe
from advdpnp.training.schedule import find_schedule
from advdpnp.training.weights import perturbed_weights, untracked_statistics

_PROTOTYPES = ("head.prototypes", "head.positive", "head.negative")


class _LossModule(nn.Module):
    """Computes the loss in one forward, the only call that data-parallel wrappers support."""

    def __init__(self, network: nn.Module, method: Method) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        return self.method.loss(self.network, x, x_adv, y)


class TrainingStep:
    """Updates the weights of a network with one batch.

    Attributes:
        folds: whether the inner attack searches a copy whose BatchNorm is folded into the layers before it; its images
            differ from those of the network only by rounding.
        lowers: whether that copy is converted to bf16 once per step, rather than by autocast in each of its calls.
        optimiser: SGD with the values of the recipe; prototypes, and the scale of a +-ED-WTA head, are in parameter
            groups of their own.
    """

    def __init__(
        self, recipe: Recipe, method: Method, network: Network, threat: ThreatModel, fabric: Fabric, *, compiled: bool
    ) -> None:
        self.recipe, self.method, self.network, self.fabric = recipe, method, network, fabric
        self.attack = PGD(
            threat,
            steps=recipe.attack.steps,
            step_size=recipe.attack.relative_step * threat.eps,
            objective=method.inner_objective,
        )
        # On a CPU, BatchNorm in evaluation mode takes a third of the inner attack's time.
        copied = method.adversarial and recipe.attack.mode == "eval" and fabric.device.type == "cpu"
        self.folds = copied and can_be_folded(network, _example(network))
        self.lowers = copied and recipe.precision == "bf16-mixed" and _can_be_lowered(network)
        module, optimiser = _LossModule(network, method), _optimiser(network, recipe)
        self.rates = [group["lr"] for group in optimiser.param_groups]
        self.schedule = find_schedule(recipe.optimiser.schedule, decay=recipe.optimiser.decay, epochs=recipe.epochs)
        self.module, self.optimiser = fabric.setup(torch.compile(module) if compiled else module, optimiser)

    def update(self, x: Tensor, y: Tensor, index: Tensor, epoch: int, step: int, progress: float) -> Terms:
        """Make one step of the optimiser.

        Args:
            x: float images (n, c, h, w) in [0, 1].
            y: labels (n,).
            index: index of each image in the training set, which with the seed and the epoch determines the random
                start of the attack.
            progress: completed share of the run, in [0, 1], for the learning-rate schedule.

        Returns:
            The loss and its terms.
        """
        torch.manual_seed(seed_of(self.recipe.seed, "layers", epoch, step))  # for dropout and similar layers
        x_adv = self.adversarial(self.network, x, y, index, epoch)
        factor = self.schedule(progress)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.network.train()
        loss, terms = self._backward(x, x_adv, y, epoch)
        if self.recipe.optimiser.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimiser, max_norm=self.recipe.optimiser.clip)
        self.optimiser.step()
        self.method.end_step(self.network)
        return {**terms, "loss": loss}

    def adversarial(self, network: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor | None:
        """The adversarial images, or None if the method needs none; weights and BatchNorm statistics do not change.

        Args:
            network: the trained network, or the average of its weights.
        """
        if not self.method.adversarial:
            return None
        draw = Draw.of(seed_of(self.recipe.seed, "attack", epoch), index)
        with attack_mode(network, self.recipe.attack.mode):
            searched = make_folded_copy(network, x[:1]) if self.folds else network
            if self.lowers:
                own = searched if self.folds else copy.deepcopy(network).requires_grad_(False)
                return perturb(lower(own, x[:1]), x, y, self.attack, draw)
            with self.fabric.autocast():
                return perturb(searched, x, y, self.attack, draw)

    def _backward(self, x: Tensor, x_adv: Tensor | None, y: Tensor, epoch: int) -> tuple[Tensor, Terms]:
        """Compute the gradients of the loss, at the perturbed weights if the recipe perturbs them.

        Returns:
            The loss and its terms.
        """
        self.optimiser.zero_grad(set_to_none=True)
        gamma = self.recipe.awp
        if gamma is None or not self.method.adversarial or epoch < self.recipe.awp_start:
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


@contextmanager
def attack_mode(network: nn.Module, mode: str) -> Iterator[None]:
    """Set the network to ``mode`` ("train" or "eval") for the inner attack; BatchNorm updates no statistics."""
    network.train(mode == "train")
    with untracked_statistics(network) if mode == "train" else nullcontext():
        yield


def _example(network: Network) -> Tensor:
    """Eight images of noise in the shape that the network takes."""
    shape = (8, network.config.channels, *network.config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _can_be_lowered(network: Network) -> bool:
    probe = copy.deepcopy(network).requires_grad_(False).eval()
    return make_low_precision_copy(probe, _example(network)) is not None


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.SGD:
    values = recipe.optimiser
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    prototypes = [trained.pop(name) for name in _PROTOTYPES if name in trained]
    scale = [trained.pop(name) for name in ("head.beta",) if name in trained]
    groups: list[dict[str, Any]] = [
        {"params": list(trained.values()), "weight_decay": values.weight_decay, "momentum": values.momentum},
        {
            "params": prototypes,
            "weight_decay": values.prototype_weight_decay,
            "momentum": values.prototype_momentum,
        },
        {"params": scale, "weight_decay": 0.0, "momentum": 0.0, "lr": values.beta_lr},
    ]
    for group in groups:
        group["nesterov"] = values.nesterov and group["momentum"] > 0
    return torch.optim.SGD([group for group in groups if group["params"]], lr=values.lr)
