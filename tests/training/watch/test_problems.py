"""Warnings about masked gradients and collapse: once a run, and only what helps this run."""

from pathlib import Path

import pandas as pd
import pytest

import advdpnp
from advdpnp.models.network import ModelConfig, build_model
from advdpnp.training.methods.base import build_method
from advdpnp.training.watch.problems import problems, remedies, warnings


def row(epoch: int = 1, *, pgd: float = 0.5, p: float = 1.0, silent: float = 0.0, angle: float = 90.0):
    return {
        "epoch": epoch,
        "validation_pgd": pgd,
        "validation_pgd_margin": 0.5,
        "gap_p": p,
        "zero_gradient": silent,
        "min_separation": angle,
    }


def test_an_honest_epoch_has_no_problem_and_each_problem_its_size():
    assert problems(row()) == {}
    assert problems(row(pgd=0.6, p=0.2)) == {}  # too few images to tell
    assert problems(row(pgd=0.6, p=1e-3)) == {"gap": pytest.approx(10)}
    assert problems(row(silent=0.5, angle=1)) == {"zero-gradient": 50, "collapse": 1}
    assert problems({**row(), "loss": 20.0}) == {}
    assert problems({**row(), "loss": 925_720.0}) == {"divergence": 925_720}


def test_each_problem_is_said_once_with_its_first_and_worst_epoch():
    run = [row(1), row(2, pgd=0.6, p=0), row(3, pgd=0.7, p=0, angle=3), row(4, pgd=0.58, p=0, angle=4), row(5)]
    gap, collapse = warnings(run, {"gap": "do this", "collapse": "do that"}, best=4)
    assert "20.0 points lower" in gap
    assert "(epoch 3, the worst; first in epoch 2; 3 of 5 epochs)" in gap
    assert gap.endswith("; do this")
    assert "3.0 degrees (epoch 3, the worst; first in epoch 3; 2 of 5 epochs)" in collapse
    told = {"gap": "", "collapse": ""}
    assert warnings(run, told) == warnings(run, told, best=1) == []  # what has passed harms no network that is kept
    assert len(warnings(run, {"collapse": ""}, best=4)) == 1  # no remedy, no warning
    assert len(warnings(run[:3], told)) == 2
    assert warnings([], {}) == []


@pytest.mark.parametrize(
    ("method", "head", "remedy"),
    [
        ({"name": "pgd-at"}, "linear", "use method.inner_objective=margin or method.label_smoothing=0.1"),
        ({"name": "pgd-at", "inner_objective": "margin"}, "linear", "use method.label_smoothing=0.1"),
        (
            {"name": "adv-dpnp", "inner_objective": "margin"},
            "prototype",
            "use a smaller model.radius or a larger model.temperature",
        ),
        ({"name": "dpnp"}, "prototype", None),  # trains on clean images: no attack of its own is misled
        ({"name": "ed-wta"}, "ed-wta", None),
    ],
)
def test_a_run_is_advised_what_it_can_do_and_does_not_do_already(method, head, remedy):
    config = ModelConfig(
        architecture="pixels", classes=4, channels=1, image_size=(8, 8), feature_dim=None, head=head,
        radius=1.0 if head == "prototype" else None, mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    found = remedies(build_method(method), build_model(config))
    assert found.get("gap") == found.get("zero-gradient") == remedy
    assert ("lambda_class_neg" in found["collapse"]) is (method["name"] in ("dpnp", "adv-dpnp"))


RESULTS = Path(advdpnp.__file__).resolve().parent.parent / "results"
RUNS = [
    path
    for pattern in ("cifar10*/training/*.csv", "cifar10*/training-*.csv")
    for path in sorted(RESULTS.glob(pattern))
    if "validation_pgd_margin" in path.read_text(encoding="utf-8").partition("\n")[0]
]


def test_committed_runs_are_there():
    assert len(RUNS) >= 10


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_recipes_that_are_shipped_need_no_warning(path):
    """Metrics of the committed nets, of every method on CIFAR-10."""
    table = pd.read_csv(path)
    robust = table[["validation_pgd", "validation_pgd_margin"]].min(axis=1)
    assert warnings(table.to_dict("records"), dict.fromkeys(("gap", "zero-gradient", "collapse"), "")) == []
    best = int(table["epoch"][robust.idxmax()])
    assert warnings(table.to_dict("records"), {"gap": "", "zero-gradient": ""}, best=best) == []
