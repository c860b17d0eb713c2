"""Prototypes and Euclidean centres beside the images, against loops over all of them."""

import json

import pytest
import torch
from matplotlib.image import imread
from torch import nn

from advdpnp.datasets.base import Split, to_float
from advdpnp.eval.diagnostics.centres import COORDINATE, SHIFT, measure_centres
from advdpnp.eval.diagnostics.geometry import Features, describe_features, features_of
from advdpnp.eval.diagnostics.prototypes import measure_prototypes, nearest_images
from advdpnp.eval.report.figures.centres import draw_centres
from advdpnp.eval.report.figures.prototypes import draw_prototypes
from advdpnp.models.network import HEADS, ModelConfig, build_model
from advdpnp.models.prototypes import PrototypeHead


def network(head, architecture="pixels", channels=1, **changes):
    torch.manual_seed(0)
    values = {"classes": 4, "channels": channels, "image_size": (8, 8), "feature_dim": None}
    values |= {"radius": 1.0 if head == "prototype" else None, "subclasses": 3 if head == "ed-wta" else 1}
    normalisation = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    return build_model(ModelConfig(architecture=architecture, head=head, **{**normalisation, **values, **changes}))


def split(n=24, channels=1):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, channels, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % 4)


def test_prototypes_are_as_far_from_the_images_as_they_are():
    head = PrototypeHead(2, 2, radius=5.0)
    head.prototypes.data = torch.tensor([[3.0, 4.0], [-5.0, 0.0]])
    values = torch.tensor([[3.0, 3.0], [0.0, 3.0], [-1.0, 0.0], [-1.0, 2.0]]).double()
    features = Features("clean", values, torch.tensor([0, 0, 1, 1]))
    found = {each.kind: each.describe() for each in measure_centres(features, head)}
    assert list(found) == ["images", "means of classes", "learned prototypes", SHIFT, COORDINATE]
    each = measure_centres(features, head)
    assert each[0].nearest.tolist() == pytest.approx([3, 2**0.5, 2, 2**0.5])
    assert each[0].is_own.tolist() == [True, False, True, False]
    assert each[2].nearest.tolist() == pytest.approx([1, 4])
    assert each[2].norms.tolist() == pytest.approx([5, 5])
    assert each[2].is_own.all()
    assert each[2].own_mean.tolist() == pytest.approx([(1.5**2 + 1) ** 0.5, (4**2 + 1) ** 0.5])
    # Prototypes of one length are Euclidean centres as they are: no coordinate is needed.
    assert each[4].nearest.tolist() == pytest.approx([1, 4])
    assert found["means of classes"]["own_class_mean"] == 0
    json.dumps(found)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_centres(name, tmp_path):
    model = network(name)
    features = features_of(model, split())
    centres = measure_centres(features, model.head)
    assert {SHIFT, COORDINATE} <= {each.kind for each in centres if not each.missing}
    draw_centres(name, centres, tmp_path / "centres.png")
    assert imread(tmp_path / "centres.png").std() > 0.02


def test_a_layer_without_a_shift_says_why(tmp_path):
    head = nn.Linear(2, 7)
    features = Features("clean", torch.randn(20, 2).double(), torch.arange(20) % 7)
    centres = measure_centres(features, head)
    (missing,) = [each.describe() for each in centres if each.missing]
    assert missing["kind"] == SHIFT
    assert "7 neurons in 2 dimensions" in missing["missing"]
    draw_centres("narrow", centres, tmp_path / "centres.png")


@pytest.mark.parametrize(("subclasses", "count"), [(1, 6), (3, 1)])
def test_the_nearest_images_are_those_of_a_loop(subclasses, count):
    generator = torch.Generator().manual_seed(2)
    prototypes = torch.randn(4, subclasses, 5, generator=generator).double()
    features = Features("clean", torch.randn(700, 5, generator=generator).double(), torch.arange(700) % 4)
    found = nearest_images(prototypes, features)
    assert found.index.shape == (4, subclasses * count)
    for label in range(4):
        for subclass in range(subclasses):
            distances = (features.values - prototypes[label, subclass]).norm(dim=1)
            own = slice(subclass * count, (subclass + 1) * count)
            assert found.index[label, own].tolist() == distances.argsort()[:count].tolist()
            torch.testing.assert_close(found.distances[label, own], distances.sort().values[:count])
    assert found.labels.equal(features.labels[found.index])


def test_positive_and_negative_prototypes_are_images_counted_and_compared():
    model, images = network("ed-wta"), split()
    with torch.no_grad():
        model.head.positive.copy_(model.normalise(to_float(images.images[:12])).reshape(3, 4, 64).transpose(0, 1))
        model.head.negative.copy_(0.5 * model.head.positive)
    found = measure_prototypes(model, images)
    torch.testing.assert_close(
        found.pictures["w+"].float(), to_float(images.images[:12]).reshape(3, 4, 1, 8, 8).transpose(0, 1)
    )
    torch.testing.assert_close(found.ratio, torch.full((4, 3), 0.5).double())
    assert found.nearest["w+"].index.tolist() == [[label, label + 4, label + 8] for label in range(4)]
    won = torch.zeros(4, 3, dtype=torch.int64)
    scores = model.head.scores(model.features(to_float(images.images)), model.head.positive, model.head.negative)
    for label, own in zip(images.labels.tolist(), scores, strict=True):
        won[label, own[label].argmax()] += 1
    assert found.won.equal(won)
    assert set(json.loads(json.dumps(found.describe()))["nearest_training_images"]) == {"w+", "w-"}


def test_features_of_a_net_are_no_pictures():
    found = measure_prototypes(network("ed-wta", "small-cnn"), split())
    assert found.pictures == {}
    assert list(found.nearest) == ["w+", "w-"]


def test_a_linear_layer_has_no_prototypes():
    with pytest.raises(TypeError, match="no prototypes"):
        measure_prototypes(network("linear"), split())


@pytest.mark.parametrize(
    ("head", "architecture", "channels"),
    [("ed-wta", "pixels", 1), ("ed-wta", "pixels", 3), ("ed-wta", "small-cnn", 3), ("prototype", "small-cnn", 1)],
)
def test_prototypes_are_drawn_also_in_few_colours(head, architecture, channels, tmp_path, monkeypatch):
    monkeypatch.setattr("advdpnp.eval.report.figures.prototypes._LARGEST", 1 if channels == 3 else 10**9)
    changes = {"subclasses": 11} if channels == 3 and architecture == "pixels" else {}
    model = network(head, architecture, channels, **changes)
    path = draw_prototypes("net", measure_prototypes(model, split(channels=channels)), "abcd", tmp_path / "p.png")
    picture = imread(path)
    assert picture.std() > 0.1
    assert (picture[0, :, :3] == 1).all()  # white stays white


def test_distances_are_to_the_nearest_prototype_of_a_class():
    prototypes = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 5.0], [0.0, 9.0]]])
    values, labels = torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.0, 8.0]]).double(), torch.tensor([0, 0, 1])
    found = describe_features(Features("clean", values, labels), torch.eye(2), prototypes)
    assert found["mean_distance_to_own"] == pytest.approx(1)
    assert found["mean_distance_to_nearest_rival"] == pytest.approx(((81 + 25) ** 0.5 + 4 + 8) / 3)
