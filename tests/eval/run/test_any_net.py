"""Nets of every kind under evaluation: what they return, their precision, functions, other ranges."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import advdpnp
from advdpnp.datasets import Dataset
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.models.loading import as_loaded

COLUMNS = ["attack", "sample", "clean_prediction", "adversarial_prediction", "success", "margin"]


class Convolutional(nn.Module):
    """Convolution, batch normalisation, linear: what a search copy folds. Classes of 8x8 images."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convolution, self.norm = nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8)
        self.head = nn.Linear(72, outputs)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Any:
        return self.head(self.norm(self.convolution(x)).relu().flatten(1))


class Unusual(Convolutional):
    """The same inside a dict."""

    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return x, Convolutional().eval()(x).argmax(1)


def verdicts(model: Any, images: tuple[Tensor, Tensor], **options: Any) -> pd.DataFrame:
    return advdpnp.evaluate(model, *images, eps=0.03, attacks=["fgsm", "pgd-5"], **options).verdicts[COLUMNS]


@pytest.mark.parametrize(
    "model",
    [Unusual().eval(), Convolutional().eval().forward, lambda x: (Unusual().eval()(x)["logits"], x)],
    ids=["dict", "method", "function"],
)
def test_verdicts_are_those_of_the_bare_net(model: Any, images: tuple[Tensor, Tensor]) -> None:
    pd.testing.assert_frame_equal(verdicts(model, images), verdicts(Convolutional(), images))


def test_a_net_of_one_logit_is_attacked_as_two_classes(images: tuple[Tensor, Tensor]) -> None:
    net = Convolutional(1)
    with torch.no_grad():
        y = (net.eval()(images[0])[:, 0] > 0).long()
    found = advdpnp.evaluate(net, images[0], y, eps=0.3, attacks="apgd-ce").row
    assert found["clean"].item() == 100
    assert found["apgd-ce"].item() < 100


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attack", ["pgd-5", "fab-t", "square"])
def test_each_precision_is_judged_by_itself(dtype: torch.dtype, attack: str, images: tuple[Tensor, Tensor]) -> None:
    net = Convolutional().eval().to(dtype)
    result = advdpnp.evaluate(net, *images, eps=0.05, attacks=[attack], save_adversarials=True)
    assert result.row["dtype"].item() == str(dtype).removeprefix("torch.")
    assert "copy-differs" not in result.row["flags"].item()
    assert {weight.dtype for weight in net.parameters()} == {dtype}
    found = result.adversarials[attack]
    assert len(found.sample)
    with torch.no_grad():
        answers = net(found.x_adv.to(dtype)).argmax(1)
    told = result.verdicts[(result.verdicts["attack"] == attack)].set_index("sample")["adversarial_prediction"]
    assert answers.tolist() == told[found.sample].tolist()
    assert (answers != images[1][found.sample]).all()


def test_packages_attack_a_double_net_too(images: tuple[Tensor, Tensor]) -> None:
    row = advdpnp.evaluate(Convolutional().double(), *images, eps=0.05, attacks="torchattacks:PGD,pyautoattack:apgd-ce")
    assert row.row["pyautoattack:apgd-ce"].item() < 100


def test_float64_verdicts_see_what_float32_cannot(images: tuple[Tensor, Tensor]) -> None:
    """Two logits that are equal in float32, told apart in float64."""

    class Close(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.tensor([0.0, 1e-12], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :1] * 0 + 1 + self.offset

    x = images[0]
    row = advdpnp.evaluate(Close(), x, torch.ones(len(x)).long(), attacks="none").row
    assert row["clean"].item() == 100


def test_other_ranges_are_the_nets_business(images: tuple[Tensor, Tensor]) -> None:
    class Bytes(Convolutional):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x / 255)

    row = advdpnp.evaluate(Bytes(), *images, eps=0.03, attacks="fgsm", input_range=(0, 255)).row
    assert row["clean"].item() == 100


def test_a_loaded_model_is_called_and_evaluated_like_its_net(
    tmp_path: Path, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_any.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    loaded = advdpnp.load_model(f"{tmp_path}/nets_any.py:make")
    assert torch.equal(loaded(images[0]), loaded.model(images[0]))
    row = advdpnp.evaluate(loaded, images[0], loaded(images[0]).argmax(1), attacks="none").row
    assert (row["model"].item(), row["clean"].item()) == ("make", 100)
    assert row["weights_hash"].item() == loaded.weights_hash
    other = advdpnp.load_model(f"{tmp_path}/nets_any.py:make", dtype="bfloat16", input_range=(-1, 1))
    assert other.weights_hash != loaded.weights_hash
    assert other.dtype == "bfloat16"


def test_precisions_are_different_models_in_one_folder_and_float32_records_stay_as_they_were(
    tmp_path: Path, data: Dataset, net: Callable[..., nn.Module]
) -> None:
    models = [as_loaded(net(), "net"), as_loaded(net().bfloat16(), "half")]
    evaluate_models(models, data, out=tmp_path, attacks="none")
    table = build_leaderboard([tmp_path]).set_index("model")
    assert table["dtype"].to_dict() == {"net": "", "half": "bfloat16"}
    records = {path.parent.name.split("-")[0]: path.read_text() for path in tmp_path.glob("*/model.json")}
    assert "dtype" not in records["net"]
    assert '"dtype": "bfloat16"' in records["half"]


@pytest.mark.parametrize("model", [Unusual().eval(), Convolutional().double(), Convolutional().eval().forward])
def test_batches_of_any_net_are_attacked_and_perturbed(model: Any, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    found = advdpnp.attack(model, x, y, "pgd-5", eps=0.05)
    plain = advdpnp.attack(Convolutional(), x, y, "pgd-5", eps=0.05)
    assert found.success.any()
    assert torch.equal(found.success, plain.success)
    x_adv = advdpnp.perturb(model, x, y, "pgd-5", eps=0.05)
    assert x_adv.dtype == torch.float32
    assert float((x_adv - x).abs().max()) <= 0.05 + 1e-6


class Overflows(Convolutional):
    """No finite logits for images whose first pixel is bright."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).masked_fill((x[:, 0, 0, 0] > self.least)[:, None], torch.inf)


def test_images_without_finite_logits_count_as_misclassified_and_are_flagged(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    bright = x[:, 0, 0, 0] > 0.5
    assert 0 < bright.sum() < len(x)
    result = advdpnp.evaluate(Overflows(0.5), x, y, eps=0.01, attacks="fgsm,torchattacks:PGD")
    clean = result.verdicts[result.verdicts["attack"] == "clean"]
    assert (clean["clean_prediction"].to_numpy() == -1).tolist() == bright.tolist()
    assert clean["success"].tolist() == bright.tolist()
    assert not {"randomised", "copy-differs", "batch-dependent"} & set(result.row["flags"].item().split("; "))
    assert f"non-finite: clean: {int(bright.sum())} of 12 images, " in result.row["flag_details"].item()
    again = advdpnp.evaluate(Convolutional(), x[~bright], y[~bright], eps=0.01, attacks="fgsm").row
    assert result.row["fgsm"].item() == pytest.approx(again["fgsm"].item() * float((~bright).float().mean()), abs=0.01)


def test_a_net_that_never_answers_is_refused(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(advdpnp.AdvdpnpError, match="logits contain NaN or infinite values for all images"):
        advdpnp.evaluate(Overflows(-1), *images, attacks="fgsm")
    with pytest.raises(advdpnp.AdvdpnpError, match="logits contain NaN or infinite values for all images"):
        advdpnp.attack(Overflows(-1), *images)


class Bytes(nn.Module):
    """Expects 0 to 255: it answers 0 whatever it is shown between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 64, generator=torch.Generator().manual_seed(3)))
        self.bias = nn.Parameter(torch.tensor([1.0, 0, 0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x / 255 - 0.5).flatten(1) @ (self.weight - self.weight.mean(1, keepdim=True)).T + self.bias


def test_a_net_near_chance_is_told_which_range_it_may_expect() -> None:
    x = torch.rand(128, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = Bytes()(255 * x).argmax(1).clamp(min=1)
    details = advdpnp.evaluate(Bytes(), x, y, attacks="none").row["flag_details"].item()
    assert re.search(
        r"chance: 0.00 % right, chance is 25.00 %, and \d\d.\d\d % are right with --input-range 0,255", details
    )
    assert "chance" not in advdpnp.evaluate(Bytes(), x, y, attacks="none", input_range=(0, 255)).row["flags"].item()
