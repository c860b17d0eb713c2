"""The demonstration, small enough for a test."""

import importlib
from dataclasses import replace

import pytest

from advdpnp.commands import demo
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.run.components import STATIC_BATCH_SIZES
from advdpnp.training.recipe import resolve_recipe

STAGES = {
    "apgd_ce": {"iterations": 6},
    "apgd_t": {"iterations": 6},
    "fab_t": {"iterations": 4},
    "square": {"queries": 20},
}


@pytest.fixture
def short_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages in their order, with few steps: an image that nothing breaks costs thousands of calls otherwise."""
    module = importlib.import_module("advdpnp.attacks.algorithms.autoattack")

    def shortened(name: str) -> object:
        build = getattr(module, name)
        return lambda threat, classes: replace(build(threat, classes), **STAGES[name])

    for name in STAGES:
        monkeypatch.setattr(module, name, shortened(name))


@pytest.mark.slow
def test_the_demo_leaves_leaderboard_and_figures_and_continues(tmp_path, monkeypatch, capsys, short_autoattack):
    short = {"epochs": 1, "attack.steps": 2, "validation_steps": 2}
    monkeypatch.setattr(
        "advdpnp.training.recipe.resolve_recipe",
        lambda name, dataset, values: resolve_recipe(name, dataset, {**values, **short}),
    )
    monkeypatch.setattr(demo, "CURVE", ("0.05",))
    monkeypatch.setitem(STATIC_BATCH_SIZES, "cpu", 4)  # for four images
    for _ in range(2):  # the second finds everything done
        demo.demo(tmp_path, seed=0, limit=4, device="cpu")
        assert capsys.readouterr().out.strip().splitlines()[-1].startswith(str(tmp_path / "results"))
    table = read_leaderboard(tmp_path / "results" / "leaderboard.csv")
    assert set(table["eps_text"]) == {"0.05", "0.1"}
    table = table[table["eps_text"] == "0.1"]
    assert sorted(table["model"]) == sorted(demo.RECIPES)
    assert table["autoattack"].notna().all()
    page = (tmp_path / "results" / "leaderboard.html").read_text(encoding="utf-8")
    assert '[[0.0,"clean"],[0.05,"0.05"],[0.1,"0.1"]]' in page  # the curve of the page has every radius
    assert (tmp_path / "results" / "accuracy-against-eps-digits-linf.png").exists()
