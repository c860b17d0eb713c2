"""What is not a search, on an accelerator that is simulated: the results of a CPU."""

import pytest
import torch
from torch import nn

import advdpnp
from advdpnp.corruption.apply import corrupt
from advdpnp.corruption.registry import CORRUPTIONS
from advdpnp.datasets.base import Split
from advdpnp.eval.diagnostics.geometry import features_of
from advdpnp.models.checkpoint import load_checkpoint, save_checkpoint
from advdpnp.models.network import ModelConfig, Network, build_model
from advdpnp.training.methods import METHODS


def network(head: str = "linear") -> Network:
    torch.manual_seed(0)
    radius = 1.0 if head == "prototype" else None
    config = ModelConfig("small-cnn", 4, 3, (8, 8), 6, head, radius, mean=(0.5,) * 3, std=(0.25,) * 3)
    return build_model(config).double()


def images(count: int = 12, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8), torch.arange(
        count
    ) % 4


def test_a_whole_evaluation(sim, monkeypatch):
    monkeypatch.setattr("advdpnp.eval.run.device.TYPES", ("cpu", "sim"))
    x, y = images(16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double()
    options = {"eps": "8/255", "attacks": "fgsm,pgd-5,cw,apgd-ce"}
    options |= {"corruptions": "auto", "corruption_types": "fog,snow"}
    here = advdpnp.evaluate(model, x, y, **options)
    there = advdpnp.evaluate(model, x, y, device="sim", **options)
    assert all(weight.device.type == "cpu" for weight in model.parameters())
    columns = ["clean", "fgsm", "pgd-5", "cw", "apgd-ce", "worst_case", "corruptions", "flags"]
    assert there.row[columns].equals(here.row[columns])
    assert 0 < float(here.row["clean"].iloc[0]) <= 100


@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_corruptions(name, sim):
    x = images(3, 16)[0]
    there = corrupt(x.to(sim.device), name, 3)
    assert there.device == sim.device
    assert torch.equal(there.cpu(), corrupt(x, name, 3))


@pytest.mark.parametrize("name", METHODS.names())
def test_a_training_step_of_every_method(name, sim):
    method = METHODS.make(name)
    x, y = images()
    x = x.double() / 255
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    weights = []
    for device in ("cpu", "sim"):
        net = network(method.head).to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            loss, _ = method.loss(net, x.to(device), x_adv.to(device) if method.adversarial else None, y.to(device))
            loss.backward()
            optimizer.step()
        weights.append([weight.detach().cpu() for weight in net.state_dict().values()])
    for here, there in zip(*weights, strict=True):
        torch.testing.assert_close(there, here)


def test_checkpoints_and_features(sim, tmp_path):
    x, y = images()
    net = network().float()
    expected = features_of(net, Split(x, y))
    net.to(sim.device)
    torch.testing.assert_close(features_of(net, Split(x, y)).values, expected.values)
    save_checkpoint(tmp_path / "net.safetensors", net, {"dataset": "cifar10"})
    loaded, _ = load_checkpoint(tmp_path / "net.safetensors")
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, net.state_dict()[name].cpu()), name
