"""The picture of a run: drawn from its metrics, whatever the method, and never for longer than it is worth."""

import math

import pytest
from PIL import Image

from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.trainer import train
from advdpnp.training.watch import curves
from advdpnp.training.watch.curves import Curves, draw_curves


def rows(epochs: int, **terms: float):
    return [
        {
            "epoch": epoch,
            "validation_clean": 0.9,
            "validation_pgd": 0.1 * epoch,
            "validation_pgd_margin": 0.05 * epoch,
            "min_separation": 90 + 0.01 * epoch,
            "lr": 0.1,
            "loss": -3.0 / epoch,
            **terms,
            "seconds": 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def recipe(epochs: int = 4):
    return resolve_recipe("pgd-at", "none", {"epochs": epochs})


@pytest.mark.parametrize(
    "metrics", [rows(1), rows(3, ce_adv=1.0, adv_accuracy=0.5), rows(4, **dict.fromkeys("abcdefgh", math.nan))]
)
def test_any_metrics_make_a_picture_that_grows_with_the_terms(metrics, tmp_path):
    draw_curves(tmp_path / "curves.png", metrics, recipe(), best=1, bound=109.5)
    with Image.open(tmp_path / "curves.png") as picture:
        panels = 1 + sum(name not in ("adv_accuracy",) for name in list(metrics[0])[6:-1])
        assert picture.size[0] > 1000
        assert picture.size[1] == pytest.approx(200 * (1.75 * (1.35 + math.ceil(panels / 3)) + 0.3), abs=2)


def test_a_term_that_is_the_whole_loss_is_drawn_once(tmp_path):
    sizes = []
    for value in (-3.0, 2.0):
        metrics = rows(
            1, a=1.0, ce=value
        )  # with the learning rate and the loss, three or four panels below the first row
        draw_curves(tmp_path / "curves.png", metrics, recipe(), best=1, bound=109.5)
        with Image.open(tmp_path / "curves.png") as picture:
            sizes.append(picture.size[1])
    assert sizes[0] < sizes[1]


def test_a_run_draws_its_last_epoch(quadrants, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "draw_curves", lambda path, metrics, recipe, **values: drawn.append((metrics, values)))
    changes = {"epochs": 2, "batch_size": 32, "attack.steps": 1, "validation_steps": 1}
    found = train(resolve_recipe("pgd-at", "none", changes), quadrants, tmp_path)
    metrics, values = drawn[-1]
    assert len(metrics) == 2
    worst = found[["validation_pgd", "validation_pgd_margin"]].min(axis=1)
    first = max(found.index, key=lambda row: (worst[row], found["validation_clean"][row], -row))
    assert values["best"] == found["epoch"][first]
    assert values["bound"] == pytest.approx(math.degrees(math.acos(-1 / 3)))


def test_drawing_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    now, drawn = 0.0, []
    monkeypatch.setattr(curves.time, "monotonic", lambda: now)

    def draw(path, metrics, recipe, **values):
        nonlocal now
        now += 1.0
        drawn.append(metrics[-1]["epoch"])

    monkeypatch.setattr(curves, "draw_curves", draw)
    picture = Curves(tmp_path / "curves.png", recipe(epochs=12), 90.0)
    for epoch in range(1, 13):
        now += 11.0
        picture.draw(rows(epoch), best=1)
    assert drawn == [1, 3, 5, 7, 9, 11, 12]  # the first was guessed to take half a second
