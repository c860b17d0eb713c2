"""Naming a model: every kind of spec, every way it can go wrong, and four public nets on real images."""

import os
import sys
import types
from enum import Enum
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, Split, load_dataset, to_float
from advdpnp.models import ModelConfig, Network, build_model
from advdpnp.models.checkpoint import save_checkpoint, weights_hash
from advdpnp.models.loading import _try, load_model

REPOSITORY = Path(__file__).parents[2]


def split(channels: int = 3, size: int = 32) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, channels, size, size), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(20) % 10)


def data(classes: int = 10, channels: int = 3, size: int = 32) -> Dataset:
    images = split(channels, size)
    return Dataset("trial", tuple(map(str, range(classes))), images, images, images)


def network(architecture: str = "small-cnn", seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_model(ModelConfig(architecture, 10, 3, (32, 32), None, "linear", None, (0.5,) * 3, (0.25,) * 3)).eval()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    for kind, seed in (("best", 0), ("last", 1)):
        save_checkpoint(folder / f"{kind}.safetensors", network(seed=seed), {"method": "pgd-at"})
    return folder


def test_a_run_folder_gives_its_best_weights_under_its_own_name(run: Path) -> None:
    loaded = load_model(str(run), dataset=data())
    assert (loaded.name, loaded.architecture, loaded.method) == ("my-run", "small-cnn", "pgd-at")
    assert loaded.weights_hash == weights_hash(network())
    assert loaded.parameters == sum(p.numel() for p in network().parameters())
    assert not loaded.model.training


@pytest.mark.parametrize(("file", "name"), [("best", "my-run"), ("last", "my-run-last"), ("other", "other")])
def test_checkpoints_are_called_after_their_file_or_run(run: Path, file: str, name: str) -> None:
    (run / "other.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    path = run / f"{file}.safetensors"
    assert load_model(str(path)).name == name
    assert load_model(str(path), name="mine").name == "mine"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere/run", "not a checkpoint, a run folder or a known architecture"),
        ("nowhere.safetensors", "there is no file nowhere.safetensors"),
        ("resnet19", "no model called 'resnet19'; did you mean"),
        ("small-cnn", "architecture without weights; add --weights"),
        ("", "not a checkpoint, a run folder or a known architecture"),
        ("a:b:c", "not a checkpoint, a run folder or a known architecture"),
    ],
)
def test_specs_that_name_nothing_say_so(spec: str, message: str) -> None:
    with pytest.raises(AdvdpnpError, match=message):
        load_model(spec)


def test_a_checkpoint_takes_no_other_weights(run: Path) -> None:
    with pytest.raises(AdvdpnpError, match="has its own weights"):
        load_model(str(run), weights=run / "last.safetensors")


def test_a_folder_that_is_no_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AdvdpnpError, match=r"has no best\.safetensors"):
        load_model(str(tmp_path))


def test_a_foreign_file_asks_for_its_architecture(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(AdvdpnpError, match="name their architecture: --model NAME --weights"):
        load_model(str(tmp_path / "weights.pt"))


# Registered architectures with weights


@pytest.mark.parametrize("classifier", ["linear", "fc", "head.fc"])
@pytest.mark.parametrize("architecture", ["resnet20", "timm:resnet10t"])
def test_bare_weights_fit_a_registered_architecture_whatever_its_classifier_is_called(
    architecture: str, classifier: str, tmp_path: Path
) -> None:
    original, path = network(architecture), tmp_path / "theirs.pt"
    weights = {name: t for name, t in original.backbone.state_dict().items() if "num_batches" not in name}
    weights |= {f"{classifier}.{name}": tensor for name, tensor in original.head.state_dict().items()}
    torch.save({"net": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    dataset = data()
    normalisation = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    loaded = load_model(architecture, weights=path, dataset=dataset, normalisation=normalisation)
    mean, std = (torch.tensor(values)[:, None, None] for values in normalisation)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.model(x), original.head(original.backbone((x - mean) / std)))
    assert (loaded.name, loaded.architecture) == ("theirs", architecture)


def test_weights_with_their_normalisation_keep_it(tmp_path: Path) -> None:
    original, path = network(), tmp_path / "ours.pt"
    torch.save(original.state_dict(), path)
    empty = Split(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    dataset = Dataset("trial", tuple("abcdefghij"), empty, empty, split())
    loaded = load_model("small-cnn", weights=path, dataset=dataset)
    assert loaded.weights_hash == weights_hash(original)
    assert loaded.header == {}


def test_the_normalisation_of_bare_weights_is_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(network().backbone.state_dict(), path)
    with pytest.raises(AdvdpnpError, match="name the data set"):
        load_model("small-cnn", weights=path)
    with pytest.raises(AdvdpnpError, match="add --mean and --std"):
        load_model("small-cnn", weights=path, dataset=data())


def test_a_net_that_normalises_by_itself_takes_no_normalisation(run: Path) -> None:
    with pytest.raises(AdvdpnpError, match="normalises its images itself"):
        load_model(str(run), normalisation=((0.0,), (1.0,)))


def test_an_architecture_with_a_checkpoint_must_agree_with_it(run: Path) -> None:
    assert load_model("small-cnn", weights=run / "best.safetensors").method == "pgd-at"
    with pytest.raises(AdvdpnpError, match="contains a small-cnn, not a resnet20"):
        load_model("resnet20", weights=run / "best.safetensors")


def test_weights_of_another_architecture_are_listed_by_name(tmp_path: Path) -> None:
    torch.save(network("resnet20").backbone.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(AdvdpnpError, match=r"missing: .*backbone\.stages\.0\.weight.* unexpected: conv1\.weight"):
        load_model("small-cnn", weights=tmp_path / "weights.pt", dataset=data(), normalisation=((0.0,) * 3, (1.0,) * 3))


def test_a_model_that_squeezes_its_output_is_told_so() -> None:
    class Squeezed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3)).expand(7).squeeze()

    with pytest.raises(AdvdpnpError, match=r"shape \(7,\) for one image; make its forward return logits"):
        _try(Squeezed(), "net", data(classes=7))


def test_a_model_that_does_not_fit_the_data_set_is_refused(run: Path) -> None:
    with pytest.raises(AdvdpnpError, match=r"has 10 classes, but trial has 7; choose the data set it was made for"):
        load_model(str(run), dataset=data(classes=7))
    with pytest.raises(AdvdpnpError, match=r"does not accept the images of trial \(1x32x32\)"):
        load_model(str(run), dataset=data(channels=1))
    with pytest.raises(AdvdpnpError, match="images of 3 channels, not 1"):
        network()(torch.rand(2, 1, 32, 32))


# Factories


FACTORIES = """
import torch
from torch import nn

calls = torch.rand(3)

def good():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).double().train()

def loads():
    net = good()
    net.load_state_dict({name: torch.ones_like(value) for name, value in net.state_dict().items()})
    return net

class Holder:
    @staticmethod
    def inner():
        return nn.Flatten()

def needs(width):
    return nn.Flatten()

def number():
    return 3

value = 7
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("raise ValueError('half a module\\nand more')")
    (tmp_path / f"{name}_needy.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_in_the_working_folder_is_found_and_its_model_made_ready(nets: str) -> None:
    path, state = list(sys.path), torch.get_rng_state()
    loaded = load_model(f"{nets}:good", dataset=data())
    assert (loaded.name, loaded.architecture, loaded.method, loaded.header) == ("good", "good", "", {})
    assert not loaded.model.training
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float64}  # as it was made
    assert loaded.dtype == "float64"
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)
    assert load_model(f"{nets}:Holder.inner").architecture == "Holder.inner"


def test_a_factory_is_found_by_the_path_of_its_file(nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my nets").mkdir()
    (tmp_path / "my nets" / "torch.py").write_text(f"from helper_of_{nets} import good")
    (tmp_path / "my nets" / f"helper_of_{nets}.py").write_text(FACTORIES)
    path, modules = list(sys.path), set(sys.modules)
    for spec in (f"{nets}.py:good", f"./{nets}.py:Holder.inner", f"{tmp_path}/{nets}.py:good", "my nets/torch.py:good"):
        assert load_model(spec).name == spec.rpartition(":")[2]
    assert sys.path == path
    assert sys.modules["torch"] is torch
    for name in set(sys.modules) - modules:
        monkeypatch.delitem(sys.modules, name)


def test_a_factory_of_random_weights_is_warned_of(nets: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model(f"{nets}:good")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{nets}:good returns other weights at every call, so they are random; give")
    caplog.clear()
    torch.save({"1.weight": torch.rand(10, 3072), "1.bias": torch.rand(10)}, tmp_path / "theirs.pth")
    load_model(f"{nets}:good", weights=tmp_path / "theirs.pth")
    load_model(f"{nets}:loads")
    assert not caplog.records


def test_a_factory_with_weights_is_called_after_them(nets: str, tmp_path: Path) -> None:
    weights = {"1.weight": torch.rand(10, 3072), "1.bias": torch.rand(10)}
    torch.save(weights, tmp_path / "theirs.pth")
    loaded = load_model(f"{nets}:good", weights=tmp_path / "theirs.pth")
    assert loaded.name == "theirs"
    assert torch.equal(loaded.model.state_dict()["net.1.weight"].float(), weights["1.weight"])


def test_a_normalisation_becomes_the_first_layer_of_a_factorys_net(nets: str, tmp_path: Path) -> None:
    weights = tmp_path / "theirs.pth"
    torch.save({"1.weight": torch.rand(10, 3072), "1.bias": torch.rand(10)}, weights)
    plain = load_model(f"{nets}:good", dataset=data(), weights=weights)
    normalisation = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    found = load_model(f"{nets}:good", dataset=data(), weights=weights, normalisation=normalisation)
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in normalisation)
    assert torch.allclose(found(x), plain((x - mean) / std), atol=1e-4, rtol=1e-3)
    assert found.weights_hash != plain.weights_hash
    assert found.architecture == plain.architecture


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}:goood", "has no 'goood'; did you mean good"),
        ("{}:needs", "fails when called without arguments: TypeError: .*width"),
        ("{}:number", "returns an object of type int, not a torch.nn.Module"),
        ("{}:value", "is of type int, not a function"),
        ("{}_broken:good", "fails when imported: ValueError: half a module; fix it"),
        ("{}_needy:good", "needs 'not_installed_anywhere', which is not installed"),
        ("{}_broken.py:good", "fails when imported: ValueError: half a module; fix it"),
        ("{}_needy.py:good", "needs 'not_installed_anywhere', which is not installed"),
        ("absent/{}.py:good", "there is no file .*absent/{}.py; check the path"),
        ("{}.py", "is a Python file; write {}.py:FUNCTION"),
        ("{}.py:goood", "has no 'goood'; did you mean good"),
        ("{}.py:", "is not a checkpoint, a run folder or a known architecture"),
        ("{}_absent:good", "there is no Python module '{}_absent'; run the command in the folder"),
        ("absent_package.nets:good", "there is no Python module 'absent_package.nets'"),
    ],
)
def test_what_goes_wrong_with_a_factory_is_one_sentence(nets: str, spec: str, message: str) -> None:
    with pytest.raises(AdvdpnpError, match=message.format(nets)) as caught:
        load_model(spec.format(nets))
    assert "\n" not in str(caught.value)


# RobustBench


class Shelf(Enum):
    cifar_10 = "cifar10"
    cifar_100 = "cifar100"


class Threat(Enum):
    Linf = "Linf"
    L2 = "L2"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """A stand-in for the package: no test may download."""
    made: list[tuple[str, str, str]] = []

    def load(name: str, model_dir: Path, dataset: str, threat_model: str) -> nn.Module:
        made.append((name, dataset, threat_model))
        if name == "Lost2020":
            raise OSError("no route to host\nand more")
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    utils = types.ModuleType("robustbench.utils")
    utils.load_model = load  # type: ignore[attr-defined]
    utils.all_models = {  # type: ignore[attr-defined]
        Shelf.cifar_100: {Threat.Linf: {"Both2020": {}, "Rice2020Overfitting": {}}},
        Shelf.cifar_10: {Threat.L2: {"Both2020": {}, "Only2021": {}}, Threat.Linf: {"Both2020": {}, "Lost2020": {}}},
    }
    compat = types.ModuleType("advdpnp.base.compat")
    compat.import_robustbench = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    monkeypatch.setitem(sys.modules, "advdpnp.base.compat", compat)
    return made


def test_the_zoo_is_asked_for_the_data_set_in_use_and_linf_first(calls: list[tuple[str, str, str]]) -> None:
    dataset = data()
    object.__setattr__(dataset, "name", "cifar10")
    loaded = load_model("robustbench:Both2020", dataset=dataset)
    assert (loaded.name, loaded.architecture) == ("Both2020", "Sequential")
    load_model("robustbench:L2/Both2020", dataset=dataset)
    load_model("robustbench:Only2021")
    load_model("robustbench:Rice2020Overfitting")
    assert calls == [
        ("Both2020", "cifar10", "Linf"),
        ("Both2020", "cifar10", "L2"),
        ("Only2021", "cifar10", "L2"),
        ("Rice2020Overfitting", "cifar100", "Linf"),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("robustbench:Both2021", "no model called 'Both2021'; did you mean Both2020"),
        ("robustbench:L2/Lost2020", "no model called 'Lost2020' for L2"),
        ("robustbench:Lost2020", r"cannot be loaded \(OSError: no route to host\); check the network connection"),
    ],
)
def test_what_the_zoo_cannot_give_is_one_sentence(calls: list[object], spec: str, message: str) -> None:
    with pytest.raises(AdvdpnpError, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


# Four public nets on real images


@pytest.fixture(scope="module")
def cifar10() -> Dataset:
    root = os.environ.get("ADVDPNP_DATA")
    if root is None or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("ADVDPNP_DATA names no folder with CIFAR-10")
    return load_dataset("cifar10", data_root=Path(root), train=False)


@pytest.mark.parametrize(
    ("factory", "file", "images", "clean", "tolerance"),
    [  # two images of 10,000 may lie so near a boundary that processors disagree
        ("cifar_cnn_a", "cifar_cnn_a_adv.model", 10_000, 69.75, 0.02),
        ("cifar_wide", "cifar_wide.pth", 10_000, 61.62, 0.02),
        ("resnet2b", "resnet2b.pth", 10_000, 69.25, 0.02),
        ("resnet20", "resnet20-12fca82f.th", 1_000, 91.73, 2.0),
    ],
)
def test_public_nets_reach_their_published_accuracy(
    cifar10: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    factory: str,
    file: str,
    images: int,
    clean: float,
    tolerance: float,
) -> None:
    weights = Path(os.environ["ADVDPNP_DATA"]).resolve() / "checkpoints" / file
    if not weights.is_file():
        pytest.skip(f"ADVDPNP_DATA holds no checkpoints/{file}")
    monkeypatch.chdir(REPOSITORY)
    model = load_model(f"benchmarks.public_models:{factory}", weights=weights, dataset=cifar10).model
    test = cifar10.test.head(images)
    with torch.no_grad():
        right = sum(correct(model, part, labels) for part, labels in zip(*chunks(test), strict=True))
    assert 100 * right / images == pytest.approx(clean, abs=tolerance + 1e-9)


def chunks(test: Split) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return test.images.split(500), test.labels.split(500)


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    return int((model(to_float(images)).argmax(1) == labels).sum())
