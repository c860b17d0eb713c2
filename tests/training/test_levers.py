"""The levers that all methods share work with each of them: schedules, weight perturbation, label smoothing..."""

from functools import cache
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.training.methods import METHODS
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import recipe_files, resolve_recipe
from advdpnp.training.schedule import find_schedule
from advdpnp.training.trainer import Hardware
from advdpnp.training.training_run import TrainingRun

RECIPES = sorted(recipe_files())
ADVERSARIAL = [name for name in RECIPES if build_method(resolve_recipe(name, "none").method).adversarial]
FACTORS = {"one-cycle": 0.5, "cosine": 0.34549150281252633, "piecewise": 0.1, "constant": 1.0, "exponential": 0.7**6}


@cache
def fabric() -> Fabric:
    return Hardware("cpu").fabric("32-true")


def begun(name: str, dataset, **changes) -> TrainingRun:
    small = {"epochs": 10, "batch_size": 32, "attack.steps": 1, "attack.eps": "0.1", "optimiser.schedule": "piecewise"}
    small["model.frozen"] = False  # a frozen backbone would have to come from a checkpoint
    run = TrainingRun(resolve_recipe(name, "none", {**small, **changes}), dataset, None, Path(), fabric())
    run.begin()
    return run


def stepped(run: TrainingRun) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The terms of one step, at six tenths of the run, and the weights after it; all must be finite."""
    run.method.start_epoch(run.network)
    x, y, index = run.batches.augmented(run.batches.order(6)(0), 6, 0)
    terms = run.training_step.update(x, y, index, 6, 0, 0.6)
    weights = {name: weight.detach().clone() for name, weight in run.network.named_parameters()}
    assert all(value.isfinite().all() for value in (*terms.values(), *weights.values()))
    return terms, weights


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and any(not torch.equal(a[key], b[key]) for key in a)


def test_the_recipes_cover_every_method() -> None:
    assert {resolve_recipe(name, "none").method["name"] for name in RECIPES} == set(METHODS.names())


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_trains_under_every_schedule(name: str, quadrants) -> None:
    run = begun(name, quadrants)
    groups = run.training_step.optimiser.param_groups
    rates = [group["lr"] for group in groups]
    _, before = stepped(run)
    for schedule, factor in FACTORS.items():
        run.training_step.schedule = find_schedule(schedule, decay=0.7, epochs=10)
        _, after = stepped(run)
        assert [group["lr"] for group in groups] == pytest.approx([factor * rate for rate in rates])
        assert differ(before, after)
        before = after


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_weight_perturbation_changes_the_step_of_every_adversarial_method(name: str, quadrants) -> None:
    plain_terms, plain = stepped(begun(name, quadrants))
    terms, perturbed = stepped(begun(name, quadrants, awp=0.01))
    assert terms["loss"] > plain_terms["loss"]  # the loss is that at the weights which were moved uphill
    assert differ(plain, perturbed)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(ADVERSARIAL)))
def test_weight_perturbation_without_adversarial_images_is_refused(name: str, quadrants) -> None:
    with pytest.raises(AdvdpnpError, match="leave out awp"):
        begun(name, quadrants, awp=0.01)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"ed-wta", "ed-wta-features"}))
def test_label_smoothing_reaches_every_cross_entropy_and_nothing_else(name: str, quadrants) -> None:
    plain, _ = stepped(begun(name, quadrants))
    smooth, _ = stepped(begun(name, quadrants, **{"method.label_smoothing": 0.3}))
    changed = {term for term in plain if not torch.equal(plain[term], smooth[term])}
    assert changed == {term for term in plain if term.startswith(("ce", "bce")) or term == "loss"}


def test_a_method_without_smoothed_targets_refuses_them(quadrants) -> None:
    with pytest.raises(AdvdpnpError, match="label_smoothing"):
        begun("ed-wta", quadrants, **{"method.label_smoothing": 0.3})


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_trains_with_activation_augmentation_and_average_together(name: str, quadrants) -> None:
    network = {"model.architecture": "small-cnn", "model.normalise": True, "model.activation": "silu"}
    run = begun(name, quadrants, **network, augmentation="cutmix", average=0.9)
    next(run.steps_of_epoch())
    assert run.average is not None
    assert all(weight.isfinite().all() for weight in run.average.network.parameters())
    assert any(isinstance(module, torch.nn.SiLU) for module in run.evaluated_network.modules())
