"""How the claims of +-ED-WTA are judged: by a trained layer, and by what ``advdpnp geometry`` stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import fisher_exact
from torch import Tensor

from advdpnp.base.statistics import SIGNIFICANT, wilson
from advdpnp.models.equivalence import (
    inner_product_layer,
    inner_product_to_euclidean_by_coordinate,
    inner_product_to_euclidean_by_shift,
    inner_product_to_plus_minus,
)
from advdpnp.models.loading import load_model
from benchmarks.claims.findings import Finding, Verdict, of_difference, p_text
from benchmarks.claims.measures import geometry

MNIST = "ed-wta on pixels, 8,000 training images of MNIST"
_POINTS = 10_000
_CHANCE = 50.0  # AUROC of guessing, in percent


def equivalence(results: Path) -> Sequence[Finding]:
    """The last layer of a trained net, read as distances to centres: the same label at every point?"""
    model = load_model(str(results / "checkpoints" / "cifar10-ce-s0.safetensors")).model
    weight, bias = inner_product_layer(model.head)  # type: ignore[arg-type]
    points = torch.randn(_POINTS, weight.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (points @ weight.T + bias).argmax(1)
    positive, negative = inner_product_to_plus_minus(weight, bias)
    labels = {
        "distances, by a shift": _distances(points, inner_product_to_euclidean_by_shift(weight, bias)).argmin(1),
        "distances, by one more coordinate": _distances(
            torch.nn.functional.pad(points, (0, 1)), inner_product_to_euclidean_by_coordinate(weight, bias)
        ).argmin(1),
        "+-ED": (_distances(points, negative) - _distances(points, positive)).argmax(1),
    }
    equal = {name: int((found == expected).sum()) for name, found in labels.items()}
    words = ", ".join(f"{name} {count:,}" for name, count in equal.items())
    return [
        Finding(
            "holds" if set(equal.values()) == {_POINTS} else "does not hold",
            f"last layer of a small CNN on CIFAR-10: equal labels of {_POINTS:,} random points: {words}",
        )
    ]


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (n, neurons)."""
    return (points[:, None] - centres[None]).square().sum(2)


def far_centres(results: Path) -> Sequence[Finding]:
    """Euclidean centres of the layer and learned prototypes: how near is an image?"""
    near = {each["kind"]: each["nearest_image"] for each in _mnist(results)["centres"]}
    unit = near["images"]
    shift, learned = near["Euclidean centres, by a shift"] / unit, near["learned w+"] / unit
    return [
        Finding(
            "holds" if shift > 1 > learned else "does not hold",
            f"{MNIST}: a centre's nearest image is {shift:.2f} times as far as an image's (median), that of a learned "
            f"w+ {learned:.2f} times ([figure](mnist/geometry/ed-wta/geometry-centres.png))",
        )
    ]


def interpretable(results: Path) -> Sequence[Finding]:
    """Prototypes that win images: does the nearest training image show their class?"""
    stored = _mnist(results)
    right, count = _of_own_class(stored)
    images = next(each["nearest_is_own_class"] for each in stored["centres"] if each["kind"] == "images")
    low, high = wilson(right, count)
    return [
        Finding(
            "holds" if high >= images else "does not hold",
            f"{MNIST}: {count} of 60 w+ win images, and the nearest training image of {right} of these is of their "
            f"class ({100 * right / count:.0f} % [{100 * low:.0f}, {100 * high:.0f}]; of the images themselves "
            f"{100 * images:.0f} %); [picture](mnist/geometry/ed-wta/geometry-prototypes.png)",
        )
    ]


def alike(results: Path) -> Sequence[Finding]:
    """The length of w+ - w- over that of w+, of the prototypes that win images."""
    ratios = _ratios(_mnist(results))
    return [
        Finding(
            "holds" if ratios.median() < 0.5 else "does not hold",
            f"{MNIST}: w+ - w- is {ratios.median():.2f} times as long as w+ (median of the {len(ratios)} that win "
            f"images, {ratios.min():.2f} to {ratios.max():.2f})",
        )
    ]


def switch(results: Path) -> Sequence[Finding]:
    """The same net trained by the whole gradient, without the switch: are its prototypes like images of their class?"""
    stored = _mnist(results), geometry(results / "mnist" / "geometry", "ed-wta-without-switch")
    (right, count), (other, others) = map(_of_own_class, stored)
    p = float(fisher_exact([[right, count - right], [other, others - other]]).pvalue)
    lengths = [_ratios(each).median() for each in stored]
    return [
        Finding(
            of_difference(right / count - other / others, 0.0, p, level=SIGNIFICANT, competes=False),
            f"{MNIST}: without it the nearest training image of {other} of the {others} w+ that win images is of their "
            f"class (with it {right} of {count}; {p_text(p)}, Fisher), and w+ - w- is {lengths[1]:.1f} times as long "
            f"as w+ ({lengths[0]:.1f}); [picture](mnist/geometry/ed-wta-without-switch/geometry-prototypes.png)",
        )
    ]


def _used(stored: dict[str, Any]) -> Tensor:
    """Which sub-classes win a tenth of their share of the images; hardly any image ever moved the others."""
    won = torch.tensor(stored["prototypes"]["images_won"])
    return won > won.sum() / (10 * won.numel())


def _of_own_class(stored: dict[str, Any]) -> tuple[int, int]:
    """How many used w+ have a nearest training image of their own class, and how many are used."""
    labels = torch.tensor(stored["prototypes"]["nearest_training_images"]["w+"]["label"])
    own = labels == torch.arange(len(labels))[:, None]
    used = _used(stored)
    return int((own & used).sum()), int(used.sum())


def _ratios(stored: dict[str, Any]) -> Tensor:
    return torch.tensor(stored["prototypes"]["difference_ratio"])[_used(stored)]


def detects(kinds: Sequence[str], folders: Sequence[str], results: Path) -> Sequence[Finding]:
    """Distances to prototypes as detectors: above chance, that is an AUROC whose interval lies above 50 %?

    Args:
        kinds: of images: "outliers", "attack", "adaptive".
        folders: of ``results/detection``.
    """
    return [
        _separation(part, f"{name}, {_meaning(kind, images)}")
        for folder in folders
        for (name, kind, images), part in _detections(results / "detection" / folder, kinds)
    ]


def _meaning(kind: str, images: str) -> str:
    return "an attack that knows the score" if kind == "adaptive" else images


def _detections(folder: Path, kinds: Sequence[str]) -> Any:
    table = pd.read_csv(folder / "detection.csv")
    chosen = table[(table["method"] == "ed-wta") & table["kind"].isin(kinds)]
    return chosen.groupby(["model", "kind", "images"], sort=False)


def _separation(part: pd.DataFrame, what: str) -> Finding:
    """The distance to the nearest prototype of the predicted class, beside the best of the other scores."""
    ours = part[part["score"] == "prototype-own"].iloc[0]
    others = part[~part["score"].str.startswith("prototype")].sort_values("auroc").iloc[-1]
    verdict: Verdict = "holds" if ours["auroc_low"] > _CHANCE else "not decided"
    verdict = "does not hold" if ours["auroc_high"] < _CHANCE else verdict
    return Finding(
        verdict,
        f"{what}: AUROC {ours['auroc']:.1f} % [{ours['auroc_low']:.1f}, {ours['auroc_high']:.1f}] ({ours['score']}), "
        f"the best other score {others['auroc']:.1f} ({others['score']})",
    )


def _mnist(results: Path) -> dict[str, Any]:
    return geometry(results / "mnist" / "geometry", "ed-wta")
