"""The demonstration, small enough for a test."""

import pytest

from advdpnp.commands import demo
from advdpnp.eval.report.leaderboard import read_leaderboard
from advdpnp.eval.run import model_run
from advdpnp.training.recipe import resolve_recipe


@pytest.mark.slow
def test_the_demo_leaves_leaderboard_and_figures_and_continues(tmp_path, monkeypatch, capsys):
    short = {"epochs": 2, "attack.steps": 2, "validation_steps": 2}
    monkeypatch.setattr(
        demo, "resolve_recipe", lambda name, dataset, values: resolve_recipe(name, dataset, {**values, **short})
    )
    monkeypatch.setattr(demo, "CURVE", ("0.05",))
    monkeypatch.setattr(model_run, "DEFAULT_STATIC_BATCH_SIZE", 4)  # for four images
    for _ in range(2):  # the second finds everything done
        demo.run_demo(tmp_path, seed=0, limit=4, device="cpu")
        assert capsys.readouterr().out.strip().splitlines()[-1].startswith(str(tmp_path / "results"))
    table = read_leaderboard(tmp_path / "results" / "leaderboard.csv")
    assert sorted(table["model"]) == sorted(demo.RECIPES)
    assert set(table["eps_text"]) == {"0.1"}
    assert table["autoattack"].notna().all()
    assert (tmp_path / "results" / "accuracy-against-eps-digits-linf.png").exists()
