"""Architectures: shapes, sizes, published parameter counts, and what is refused."""

from dataclasses import replace

import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import MODELS, ModelConfig, Network, build_model
from advdpnp.models.prototypes import PrototypeHead

SMALL = ("small-cnn", "tiny-resnet", "resnet20", "timm:resnet10t")
ALL = ("small-cnn", "tiny-resnet", "resnet20", "resnet18", "preactresnet18", "wrn-28-10", "wrn-34-10")


def config(architecture: str = "small-cnn", channels: int = 3, size: int = 32, **changes: object) -> ModelConfig:
    plain = ModelConfig(
        architecture=architecture,
        classes=10,
        channels=channels,
        image_size=(size, size),
        feature_dim=None,
        head="linear",
        radius=None,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    return replace(plain, **changes)


def logits_of(model: Network, rows: int = 2) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.rand(rows, model.config.channels, *model.config.image_size))


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", SMALL)
def test_every_shape_of_image_gives_one_row_of_logits_each(architecture: str, channels: int, size: int) -> None:
    assert logits_of(build_model(config(architecture, channels, size))).shape == (2, 10)


@pytest.mark.parametrize("architecture", ["resnet18", "preactresnet18"])
def test_larger_networks_take_odd_sizes(architecture: str) -> None:
    assert logits_of(build_model(config(architecture, 1, image_size=(9, 12))), rows=1).shape == (1, 10)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_any_number_of_classes(head: str, classes: int) -> None:
    radius = 4.0 if head == "prototype" else None
    assert logits_of(build_model(config(head=head, radius=radius, classes=classes))).shape == (2, classes)


@pytest.mark.parametrize("architecture", ALL)
def test_wide_networks_have_consistent_shapes_without_memory(architecture: str) -> None:
    with torch.device("meta"):
        model = build_model(config(architecture))
        assert model.eval()(torch.empty(5, 3, 32, 32)).shape == (5, 10)
        assert model.features(torch.empty(5, 3, 32, 32)).shape == (5, model.backbone.width)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet18", 11_173_962),
        ("preactresnet18", 11_172_170),
        ("wrn-28-10", 36_479_194),
        ("wrn-34-10", 46_160_474),
    ],
)
def test_parameter_counts_are_those_of_the_literature(architecture: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(config(architecture)).parameters()) == parameters


def test_width_makes_a_resnet18_narrower_and_survives_a_round_trip() -> None:
    narrow = build_model(config("resnet18", width=16))
    assert sum(p.numel() for p in narrow.parameters()) == 701_466
    assert narrow.backbone.width == 128
    assert ModelConfig.from_dict(narrow.config.to_dict()) == narrow.config


@pytest.mark.parametrize(("architecture", "width"), [("small-cnn", 16), ("resnet18", 0), ("resnet18", "16")])
def test_a_width_that_cannot_be_is_rejected(architecture: str, width: object) -> None:
    with pytest.raises(AdvdpnpError, match="width"):
        build_model(config(architecture, width=width))


@pytest.mark.parametrize("architecture", ALL)
def test_silu_replaces_every_relu_and_keeps_the_names_of_the_weights(architecture: str) -> None:
    with torch.device("meta"):
        models = [build_model(config(architecture, activation=name)) for name in ("relu", "silu")]
    for model, own, other in zip(models, (torch.nn.ReLU, torch.nn.SiLU), (torch.nn.SiLU, torch.nn.ReLU), strict=True):
        assert any(isinstance(module, own) for module in model.modules())
        assert not any(isinstance(module, other) for module in model.modules())
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


@pytest.mark.parametrize("architecture", ["small-cnn", "tiny-resnet", "resnet20"])
def test_the_activation_changes_the_output_and_survives_a_round_trip(architecture: str) -> None:
    relu, silu = (build_model(config(architecture, 1, 16, activation=name)).eval() for name in ("relu", "silu"))
    silu.load_state_dict(relu.state_dict())
    x = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(relu(x), silu(x), atol=1e-3)
    assert ModelConfig.from_dict(silu.config.to_dict()) == silu.config


def test_a_description_from_before_the_activation_means_relu() -> None:
    values = config().to_dict()
    del values["activation"]
    assert ModelConfig.from_dict(values) == config()


@pytest.mark.parametrize(("architecture", "activation"), [("timm:resnet10t", "silu"), ("small-cnn", "gelu")])
def test_an_activation_that_cannot_be_is_rejected(architecture: str, activation: str) -> None:
    with pytest.raises(AdvdpnpError, match=r"leave out model.activation|choose relu or silu"):
        build_model(config(architecture, activation=activation))


def test_the_small_cnn_fits_two_megabytes() -> None:
    assert sum(p.numel() for p in build_model(config()).parameters()) < 480_000


def test_feature_dim_three_puts_a_linear_map_before_the_prototypes() -> None:
    model = build_model(config(feature_dim=3, head="prototype", radius=40.0)).eval()
    x = torch.rand(64, 3, 32, 32)
    features = model.features(x)
    assert features.shape == (64, 3)
    assert (features < 0).any()
    assert (features > 0).any()
    assert isinstance(model.head, PrototypeHead)
    torch.testing.assert_close(model(x), features @ model.head.prototypes.T)


def test_normalisation_happens_inside_and_survives_channels_last() -> None:
    torch.manual_seed(0)
    plain = build_model(config(mean=(0.0,) * 3, std=(1.0,) * 3)).eval()
    inside = build_model(config(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))).eval()
    weights = {k: v for k, v in plain.state_dict().items() if not k.startswith("normalise")}
    inside.load_state_dict(weights, strict=False)
    x = torch.rand(4, 3, 32, 32)
    by_hand = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    torch.testing.assert_close(inside(x), plain(by_hand))
    last = inside.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), inside(x), rtol=1e-4, atol=1e-5)


def test_a_description_survives_json_and_back() -> None:
    import json

    original = config(feature_dim=3, head="prototype", radius=1.5)
    assert ModelConfig.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_a_description_with_wrong_fields_names_them() -> None:
    values = config().to_dict()
    del values["classes"]
    with pytest.raises(AdvdpnpError, match="classes is missing"):
        ModelConfig.from_dict({**values, "colour": "red"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "cosine"}, "no head called 'cosine'; choose linear or prototype"),
        ({"feature_dim": 0}, "feature_dim must be at least 1"),
        ({"classes": 1}, "at least 2 classes"),
        ({"head": "prototype"}, "positive radius"),
        ({"head": "prototype", "radius": -1.0}, "positive radius"),
        ({"radius": 1.0}, "head linear has no radius"),
        ({"mean": (0.5,)}, "mean has 1 values for 3 channels"),
        ({"std": (0.0, 1.0, 1.0)}, "must be positive"),
        ({"architecture": "resnet19"}, "did you mean resnet1?8"),
        ({"architecture": "timm:resnet10tt"}, "timm has no model called 'resnet10tt'; did you mean resnet10t"),
        ({"temperature": 0.0}, "temperature must be a positive number, not 0"),
        ({"temperature": float("nan")}, "temperature must be a positive number, not nan"),
        ({"temperature": 2.0}, "only a prototype head has a temperature"),
        ({"image_size": (4, 4)}, "4x4 pixels are too small for 'small-cnn', which needs at least 8x8"),
        ({"architecture": "wrn-28-10", "image_size": (7, 32)}, "too small for 'wrn-28-10'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AdvdpnpError, match=message):
        build_model(config(**changes))


def test_pretrained_is_refused_where_there_is_nothing_to_download() -> None:
    with pytest.raises(AdvdpnpError, match="no pretrained weights for 'small-cnn'"):
        build_model(config(), pretrained=True)


def test_a_failed_download_of_pretrained_weights_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def fail(*_: object, **options: object) -> None:
        assert options["pretrained"] is True
        raise OSError("no route to host\nand much more")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(AdvdpnpError, match=r"'resnet10t' cannot be loaded \(no route to host\); check the network"):
        build_model(config("timm:resnet10t"), pretrained=True)


def test_timm_models_of_one_image_size_are_built_for_this_one() -> None:
    assert logits_of(build_model(config("timm:vit_tiny_patch16_224", size=64))).shape == (2, 10)


def test_every_registered_model_says_what_it_is() -> None:
    assert {"timm:{name}", *ALL} <= set(MODELS.names())
    assert all(entry.description for entry in MODELS)
