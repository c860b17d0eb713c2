"""Models of Hugging Face, Lightning, TorchScript and torch.export, each made and saved here; nothing is downloaded."""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advdpnp
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, Split
from advdpnp.models.loading import load_model
from advdpnp.models.weights import read_state_dict


def data(size: int = 16, channels: int = 3) -> Dataset:
    images = torch.randint(
        0, 256, (6, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    split = Split(images, torch.arange(6) % 4)
    return Dataset("trial", tuple("abcd"), split, split, split)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 4))
    return nn.Sequential(*body).eval()


# Hugging Face


def save_vit(folder: Path, **processor: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        num_labels=4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    said = {"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    made = transformers.ViTImageProcessor(**(said | processor))
    made.save_pretrained(folder)
    return model, made


def processed(model: Any, processor: Any, images: Tensor) -> Tensor:
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits: Tensor = model(pixel_values=pixels.to(model.dtype)).logits
    return logits


def test_a_folder_of_hugging_face_is_loaded_with_its_normalisation(tmp_path: Path) -> None:
    model, processor = save_vit(tmp_path / "tiny-vit")
    dataset = data()
    loaded = load_model(f"hf:{tmp_path / 'tiny-vit'}", dataset=dataset)
    assert (loaded.name, loaded.architecture, loaded.dtype) == ("tiny-vit", "ViTForImageClassification", "float32")
    images = dataset.test.images
    torch.testing.assert_close(loaded(images / 255), processed(model, processor, images))
    row = advdpnp.evaluate(loaded, images, dataset.test.labels, attacks="fgsm").row
    assert row["model"].item() == "tiny-vit"


@pytest.mark.parametrize("size", [32, 12])
def test_images_of_another_size_are_resized_inside_as_the_processor_does(size: int, tmp_path: Path) -> None:
    model, processor = save_vit(tmp_path / "vit")
    dataset = data(size)
    loaded = load_model(f"hf:{tmp_path / 'vit'}", dataset=dataset)
    found = loaded(dataset.test.images / 255)
    # The processor rounds the resized image to bytes.
    torch.testing.assert_close(found, processed(model, processor, dataset.test.images), atol=0.02, rtol=0.02)
    x = (dataset.test.images / 255).requires_grad_()
    assert float(torch.autograd.grad(loaded(x).sum(), x)[0].abs().max()) > 0


def test_shortest_edges_and_crops_are_those_of_the_processor(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=4)
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
    processor.save_pretrained(tmp_path)
    dataset = data(20)
    loaded = load_model(f"hf:{tmp_path}", dataset=dataset)
    assert loaded.model.preprocessing(dataset.test.images / 255).shape == (6, 3, 28, 28)
    torch.testing.assert_close(
        loaded(dataset.test.images / 255), processed(model, processor, dataset.test.images), atol=0.02, rtol=0.02
    )


def test_half_precision_of_hugging_face_is_kept_and_can_be_widened(tmp_path: Path) -> None:
    model, processor = save_vit(tmp_path)
    model.bfloat16().save_pretrained(tmp_path)
    dataset = data()
    loaded = load_model(f"hf:{tmp_path}", dataset=dataset)
    assert loaded.dtype == "bfloat16"
    assert torch.equal(
        loaded(dataset.test.images / 255).float(), processed(model, processor, dataset.test.images).float()
    )
    assert load_model(f"hf:{tmp_path}", dtype="float32").dtype == "float32"


def test_what_hugging_face_cannot_give_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("transformers.utils.hub")
    monkeypatch.setattr(hub, "_is_offline_mode", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save_vit(tmp_path / "vit")
    with pytest.raises(AdvdpnpError, match="takes images of 3 channels, trial has 1"):
        load_model(f"hf:{tmp_path / 'vit'}", dataset=data(channels=1))
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    for spec, message in (
        (f"hf:{tmp_path / 'vit'}", "has no image processor that says how images are normalised"),
        ("hf:nobody/no-such-model", "cannot be loaded .*; check the name and the network connection, or give a folder"),
        (f"hf:{tmp_path}", "cannot be loaded"),
    ):
        with pytest.raises(AdvdpnpError, match=message) as caught:
            load_model(spec)
        assert "\n" not in str(caught.value)


def test_a_processor_that_does_more_is_refused(tmp_path: Path) -> None:
    save_vit(tmp_path, resample=1)  # Lanczos, which torch has not
    with pytest.raises(AdvdpnpError, match="does more than to resize, crop and normalise"):
        load_model(f"hf:{tmp_path}", dataset=data(48))


def test_a_processor_that_does_more_is_refused_without_a_data_set_too(tmp_path: Path) -> None:
    save_vit(tmp_path)
    size = {"height": 16, "width": 16}
    processor = pytest.importorskip("transformers").MobileViTImageProcessor  # which turns red into blue
    processor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(tmp_path)
    with pytest.raises(AdvdpnpError, match="does more than to resize, crop and normalise"):
        load_model(f"hf:{tmp_path}")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AdvdpnpError, match=r"needs the package transformers .*pip install 'advdpnp\[hf\]'"):
        load_model("hf:any")


# Lightning, averaged weights


FACTORY = """
from torch import nn
def make():
    body = (nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 4))
    return nn.Sequential(*body)
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "factory.py").write_text(FACTORY)
    return f"{tmp_path}/factory.py:make"


def prefixed(prefix: str, weights: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in (weights or net().state_dict()).items()}


@pytest.mark.parametrize("prefix", ["model.", "net.", "classifier.backbone."])
def test_lightning_checkpoints_are_read_without_their_objects(prefix: str, factory: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(prefix) | {"criterion.weight": torch.ones(4), "ema.decay": torch.tensor(0.9)},
        "hyper_parameters": {
            "args": argparse.Namespace(lr=0.1), "root": tmp_path, "make": functools.partial(nn.Linear, 3), "lr": 0.1,
        },
        "optimizer_states": [{"state": {}, "param_groups": []}],
    }  # fmt: skip
    torch.save(content, path)
    loaded = load_model(factory, weights=path, dataset=data())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(x), net()(x))
    assert loaded.name == "last"


class Trap:
    """Fails if anything of it is run."""

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state: object) -> None:
        raise AssertionError("it was run")


def test_objects_of_unknown_classes_are_never_built(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed(""), "trap": Trap()}, tmp_path / "trap.ckpt")
    assert set(read_state_dict(tmp_path / "trap.ckpt")) == set(net().state_dict())


def other() -> dict[str, Tensor]:
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in net().state_dict().items()}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": prefixed(""), "ema": other()}, "ema"),
        ({"model": prefixed(""), "ema": {"decay": 0.999, "shadow": other()}}, "ema.shadow"),
        ({"state_dict": prefixed(""), "model_ema": {"state_dict": prefixed("module.", other())}}, "model_ema"),
        ({"state_dict": prefixed("model.") | prefixed("ema_model.", other())}, "ema_model"),
        (prefixed("model.") | prefixed("ema.module.", other()) | {"ema.n_averaged": torch.tensor(3)}, "ema"),
    ],
)
def test_averaged_weights_are_chosen_by_their_key(content: Any, key: str, factory: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    loaded = load_model(factory, weights=path, dataset=data(), weights_key=key)
    assert torch.equal(loaded.model.state_dict()["0.weight"], net().state_dict()["0.weight"] + 1)
    with pytest.raises(AdvdpnpError, match="has nothing under 'emma'; its keys are"):
        load_model(factory, weights=path, dataset=data(), weights_key="emma")


def test_two_copies_of_the_weights_ask_for_a_choice(factory: str, tmp_path: Path) -> None:
    torch.save(prefixed("model.") | prefixed("ema_model.", other()), tmp_path / "weights.pt")
    with pytest.raises(AdvdpnpError, match="under model and ema_model; choose one with --weights-key"):
        load_model(factory, weights=tmp_path / "weights.pt", dataset=data())


def test_one_net_under_two_names_is_loaded(factory: str, tmp_path: Path) -> None:
    """As the robustness library of MadryLab saves it: the attacker holds the model once more."""
    saved = prefixed("module.model.") | prefixed("module.attacker.model.") | {"module.normalizer.mean": torch.ones(3)}
    torch.save({"model": saved, "epoch": 3}, tmp_path / "weights.pt")
    loaded = load_model(factory, weights=tmp_path / "weights.pt", dataset=data())
    assert torch.equal(loaded.model.state_dict()["0.weight"], net().state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": prefixed(""), "state_dict_ema": other()}, "state_dict_ema"),
        ({"model": prefixed(""), "ema": {"decay": 0.999, "shadow": other()}}, "ema.shadow"),
    ],
)
def test_averaged_weights_beside_plain_ones_are_told_of(
    content: Any, key: str, factory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content | {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, path)
    loaded = load_model(factory, weights=path, dataset=data())
    assert torch.equal(loaded.model.state_dict()["0.weight"], net().state_dict()["0.weight"])
    assert f"has weights under {key} too" in caplog.text
    assert f"--weights-key {key} takes the others" in caplog.text
    caplog.clear()
    load_model(factory, weights=path, dataset=data(), weights_key=key)
    assert not caplog.text


@pytest.mark.parametrize("wrapper", ["nn.DataParallel", "torch.compile"])
def test_a_factory_of_a_wrapped_net_loads_what_that_net_saved(wrapper: str, factory: str, tmp_path: Path) -> None:
    path = Path(factory.rpartition(":")[0])
    path.write_text(f"import torch\n{path.read_text()}\ndef wrapped():\n    return {wrapper}(make())\n")
    wrapped = torch.compile(net()) if wrapper == "torch.compile" else nn.DataParallel(net())
    torch.save(wrapped.state_dict(), tmp_path / "weights.pt")
    loaded = load_model(f"{path}:wrapped", weights=tmp_path / "weights.pt", dataset=data())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(x), net()(x))
    assert load_model(f"{path}:wrapped", dataset=data()).architecture == "wrapped"


def test_a_registered_architecture_finds_its_weights_in_a_lightning_checkpoint(tmp_path: Path) -> None:
    from advdpnp.models import ModelConfig, build_model

    config = ModelConfig("small-cnn", 4, 3, (16, 16), None, "linear", None, (0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(0)
    original = build_model(config).eval()
    weights = prefixed("net.", original.backbone.state_dict()) | prefixed("net.fc.", original.head.state_dict())
    torch.save({"state_dict": weights, "hyper_parameters": {"root": tmp_path}}, tmp_path / "last.ckpt")
    loaded = load_model(
        "small-cnn", weights=tmp_path / "last.ckpt", dataset=data(), normalisation=((0.5,) * 3, (0.25,) * 3)
    )
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(x), original(x))


# Programs


def export(folder: Path, *, batch: int | None) -> Path:
    example = torch.rand(batch or 2, 3, 16, 16)
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    torch.export.save(torch.export.export(net(), (example,), dynamic_shapes=shapes), folder / "net.pt2")
    return folder / "net.pt2"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_programs_are_evaluated_like_their_nets(kind: str, tmp_path: Path) -> None:
    dataset = data()
    if kind == "export":
        path = export(tmp_path, batch=None)
    else:
        path = tmp_path / "net.pt"
        torch.jit.save(torch.jit.trace(net(), torch.rand(2, 3, 16, 16)), path)
    loaded = load_model(f"{kind}:{path}", dataset=dataset)
    assert (loaded.name, loaded.architecture, loaded.parameters) == ("net", kind, 908)
    images, labels = dataset.test.images, net()(dataset.test.images / 255).argmax(1)
    found = [advdpnp.evaluate(each, images, labels, attacks="pgd-3", eps=0.1) for each in (loaded, net())]
    assert found[0].verdicts["success"].tolist() == found[1].verdicts["success"].tolist()
    assert found[0].row["clean"].item() == 100
    assert found[0].row["pgd-3"].item() < 100


def test_a_program_for_one_size_of_batch_says_how_to_export_it(tmp_path: Path) -> None:
    loaded = load_model(f"export:{export(tmp_path, batch=1)}")
    with pytest.raises(AdvdpnpError, match=r"batches of one size; export it with dynamic_shapes"):
        loaded(torch.rand(5, 3, 16, 16))
    with pytest.raises(AdvdpnpError, match=r'"batch"\)},\)$'):
        load_model(f"export:{export(tmp_path, batch=2)}", dataset=data())


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_files_that_are_no_programs_are_one_sentence(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(AdvdpnpError, match="cannot be read as a program") as caught:
        load_model(f"{kind}:{tmp_path / 'weights.pt'}")
    assert "\n" not in str(caught.value)
    with pytest.raises(AdvdpnpError, match="there is no file"):
        load_model(f"{kind}:{tmp_path / 'absent.pt'}")
    assert capfd.readouterr().err == ""
