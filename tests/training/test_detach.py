"""What must not be part of any gradient: nothing that is averaged, summed or kept holds on to the graph of a step."""

import torch
from lightning_fabric import Fabric

from advdpnp.models.network import ModelConfig, Network, build_model
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.training_run import TrainingRun
from advdpnp.training.weights import WeightAverage


def network() -> Network:
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="small-cnn",
        classes=4,
        channels=1,
        image_size=(8, 8),
        feature_dim=6,
        head="prototype",
        radius=1.0,
        mean=(0.5,),
        std=(0.25,),
    )
    return build_model(config).double()


def test_the_average_has_no_gradient_of_its_own():
    assert not any(weight.requires_grad for weight in WeightAverage(network(), 0.9).network.parameters())


def test_following_a_network_keeps_no_graph_of_it():
    trained = network()
    average = WeightAverage(trained, 0.9)
    for _ in range(2):
        average.follow(trained, step=0)
    assert all(weight.is_leaf and weight.grad_fn is None for weight in average.network.parameters())
    assert all(buffer.grad_fn is None for buffer in average.network.buffers())


def test_what_a_run_sums_up_and_keeps_holds_no_graph(quadrants, tmp_path):
    values = {"epochs": 1, "batch_size": 48, "attack.steps": 1, "validation_steps": 1}
    fabric = Fabric(accelerator="cpu", devices=1)
    run = TrainingRun(resolve_recipe("adv-dpnp", "none", values), quadrants, None, tmp_path, fabric)
    for _ in run.steps_of_epoch():
        assert {"loss", "consistency", "class_neg"} <= run.sums.keys()
        assert not any(total.requires_grad for total in run.sums.values())
    run.end_epoch()
    kept = run.vectors[0].clone()
    with torch.no_grad():
        run.network.head.prototypes += 1
    assert not run.vectors[0].requires_grad
    assert torch.equal(run.vectors[0], kept)
