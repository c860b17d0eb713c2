"""Geometry against arrangements whose numbers are known."""

import json

import pytest
import torch
from torch import nn

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.datasets import load_dataset
from advdpnp.datasets.base import Split
from advdpnp.eval.diagnostics.geometry import (
    Features,
    angle_matrix,
    angles_to,
    describe_features,
    describe_vectors,
    drift,
    measure_geometry,
    project,
)
from advdpnp.models.network import HEADS, ModelConfig, build_model
from advdpnp.models.prototypes import class_vectors


def test_the_simplex_reaches_its_bound():
    found = describe_vectors(torch.eye(4) - 0.25)
    assert found["min_separation"] == pytest.approx(109.4712, abs=1e-3)
    assert found["below_bound"] == pytest.approx(0, abs=1e-3)
    assert found["bound_can_be_reached"]
    assert not describe_vectors(torch.randn(10, 3))["bound_can_be_reached"]


def test_angles():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    torch.testing.assert_close(
        angle_matrix(vectors), torch.tensor([[0.0, 90, 180], [90, 0, 90], [180, 90, 0]]).double()
    )
    torch.testing.assert_close(angles_to(torch.tensor([[2.0, 2.0]]), vectors), torch.tensor([[45.0, 45, 135]]).double())


def test_tight_classes_far_apart():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    values = torch.tensor([[9.0, 0.0], [11.0, 0.0], [0.0, 9.0], [0.0, 11.0]]).double()
    found = describe_features(Features("clean", values, torch.tensor([0, 0, 1, 1])), vectors)
    assert found["mean_angle_to_own"] == pytest.approx(0, abs=1e-5)
    assert found["mean_angle_to_nearest_rival"] == pytest.approx(90)
    assert found["mean_distance_to_own"] == pytest.approx(9)
    assert found["within"] == pytest.approx(1)
    assert found["between"] == pytest.approx(200**0.5)
    assert found["separation_ratio"] == pytest.approx(200**0.5)
    assert found["silhouette"] > 0.8


def test_drift_is_the_mean_angle_between_epochs():
    still, turned = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert drift(torch.stack([still, still, turned])) == pytest.approx([0, 45], abs=1e-4)


def network(head: str) -> nn.Module:
    torch.manual_seed(0)
    radius = 1.0 if head == "prototype" else None
    values = {"architecture": "small-cnn", "classes": 4, "channels": 1, "image_size": (8, 8), "feature_dim": 5}
    return build_model(ModelConfig(**values, head=head, radius=radius, mean=(0.5,), std=(0.25,)))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_can_be_measured_clean_and_attacked(head):
    split = Split(torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8), torch.arange(24) % 4)
    model = network(head).train()
    report, features = measure_geometry(model, split, ThreatModel.parse("linf", "0.1"), steps=2)
    assert [part["kind"] for part in report["features"]] == ["clean", "pgd-2, linf 0.1"]
    assert model.training
    json.dumps(report)
    for how in ("pca", "t-sne"):
        flat = project(features, class_vectors(model.head), how)
        assert [part.shape for part in flat] == [(24, 2), (24, 2), (4, 2)]
    with pytest.raises(AdvdpnpError, match="at least 2 images"):
        measure_geometry(model, split.head(1), None)


def test_the_command_writes_numbers_and_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--recipe", "dpnp", "--dataset", "digits", "--epochs", "2", "--name", "run", "--set", "validation_steps=1"]
    assert run(["train", *words]) == 0
    assert run(["geometry", "runs/run", "--limit", "60", "--out", "geo"]) == 0
    assert "MinSep" in capsys.readouterr().out
    report = json.loads((tmp_path / "geo" / "geometry.json").read_text())
    assert len(report["drift"]) == 1
    assert len(report["vectors"]["angles"]) == 10
    assert len(list((tmp_path / "geo").glob("*.png"))) == 6
    assert report["centres"][2]["kind"] == "learned prototypes"
    assert len(report["prototypes"]["nearest_training_images"]["prototype"]["index"]) == 10


def test_the_command_shows_positive_and_negative_prototypes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "--recipe",
        "ed-wta",
        "--dataset",
        "digits",
        "--epochs",
        "1",
        "--name",
        "run",
        "--set",
        "validation_steps=1",
    ]
    assert run(["train", *words]) == 0
    assert run(["geometry", "runs/run", "--limit", "60", "--out", "geo"]) == 0
    printed = capsys.readouterr().out
    assert "means of w+ - w- over sub-classes" in printed
    assert "|w+ - w-| / |w+|" in printed
    report = json.loads((tmp_path / "geo" / "geometry.json").read_text())
    assert [len(ratios) for ratios in report["prototypes"]["difference_ratio"]] == [6] * 10
    assert (tmp_path / "geo" / "geometry-prototypes.png").is_file()


def test_prototypes_without_training_images_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--recipe", "dpnp", "--dataset", "digits", "--epochs", "1", "--name", "run", "--set", "validation_steps=1"]
    assert run(["train", *words]) == 0

    def load(name, *, train=True, **options):
        if train:
            raise AdvdpnpError("there are no training images")
        return load_dataset(name, train=False, **options)

    monkeypatch.setattr("advdpnp.datasets.load_dataset", load)
    assert run(["geometry", "runs/run", "--limit", "60", "--out", "geo"]) == 0
    assert "not compared with training images: there are no training images" in capsys.readouterr().err
    assert "prototypes" not in json.loads((tmp_path / "geo" / "geometry.json").read_text())


def test_the_command_measures_on_the_device_that_was_chosen(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--name", "run", "--set", "validation_steps=1"]
    assert run(["train", *words, "--device", "cpu"]) == 0
    assert run(["geometry", "runs/run", "--device", "tpu"]) == 2
    assert "the device 'tpu' cannot be used here; choose cpu" in capsys.readouterr().err
    devices = []

    def measure(network, *others):
        devices.append(next(network.parameters()).device.type)
        return measure_geometry(network, *others)

    monkeypatch.setattr("advdpnp.eval.diagnostics.geometry.measure_geometry", measure)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        assert run(["geometry", "runs/run", "--limit", "40", "--device", device]) == 0
        assert devices.pop() == device


def test_features_of_one_dimension_are_drawn_on_a_line():
    values = torch.arange(6.0).double()[:, None]
    flat = project([Features("clean", values, torch.tensor([0, 0, 0, 1, 1, 1]))], torch.tensor([[1.0], [-1.0]]), "pca")
    assert flat[0].shape == (6, 2)
    assert abs(flat[0][:, 1]).max() < 1e-9


def test_what_cannot_be_compared_is_null_in_json():
    one_each = Features("clean", torch.eye(2).double(), torch.tensor([0, 1]))
    assert describe_features(one_each, torch.eye(2))["separation_ratio"] is None
    one_class = Features("clean", torch.randn(3, 2).double(), torch.tensor([0, 0, 0]))
    assert describe_features(one_class, torch.eye(2))["between"] is None


def test_a_net_that_is_not_finite_has_no_separation():
    assert torch.tensor(describe_vectors(torch.full((3, 4), torch.nan))["min_separation"]).isnan()
