"""Early answers: a budget for each image, and as many images as an interval needs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import advdpnp.eval.early
from advdpnp.attacks.info import info_of
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.statistics import wilson
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.api import evaluate, evaluate_models
from advdpnp.eval.early import images_needed
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.evaluate import RunResult, run_models
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.store.reader import StoredEvaluation, find_results
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

N = 120


class Net(nn.Module):
    """Four linear classes, in float64 inside; milliseconds."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        weight = torch.randn(36, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weight = nn.Parameter(weight - weight.mean(0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.double().flatten(1) @ self.weight).float()


def loaded(seed: int = 0) -> LoadedModel:
    return LoadedModel(Net(seed), f"net{seed}", weights_hash(Net(seed)), "Net", "ce", 144, {})


@pytest.fixture
def dataset() -> Dataset:
    images = torch.randint(0, 256, (N, 1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    empty = Split(images[:0], torch.zeros(0, dtype=torch.int64))
    return Dataset("toy", tuple("abcd"), empty, empty, Split(images, Net()(images / 255).argmax(1)), "none")


def run(out: Path, dataset: Dataset, models: Sequence[LoadedModel] = (), **options: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {"attacks": "pgd-5", "eps": ["0.02"], "device": "cpu", "sanity": False}
    settings["components"] = Components(static_batch_size=16)
    return evaluate_models(models or [loaded()], dataset, out=out, **(settings | options))


def stored(out: Path, label: str) -> list[StoredEvaluation]:
    return [unit for unit in find_results([out]) if unit.label == label]


LIMITED = "autoattack (at most 40 passes)"


def test_a_budget_is_kept_named_in_the_column_and_never_read_as_the_whole_attack(
    tmp_path: Path, dataset: Dataset
) -> None:
    frame = run(tmp_path, dataset, attacks="autoattack", budget=40, limit=20, sanity=True)
    assert "autoattack" not in frame
    (limited,) = stored(tmp_path, LIMITED)
    spent = limited.frame["forwards"] + limited.frame["backwards"]
    assert 35 <= spent.max() <= 40
    assert limited.attack_info.budget == limited.attack_info.cost_rank == 40
    assert not limited.attack_info.standard_autoattack
    whole = run(tmp_path, dataset, attacks="apgd-ce,pgd-5", limit=20)
    assert {LIMITED, "apgd-ce", "pgd-5"} <= set(whole)
    again = run(tmp_path, dataset, attacks="pgd-5", budget=40, limit=20)
    assert {"pgd-5 (at most 40 passes)", "pgd-5"} <= set(again)
    keys = {unit.hash for label in ("pgd-5 (at most 40 passes)", "pgd-5") for unit in stored(tmp_path, label)}
    assert len(keys) == 2
    run(tmp_path, dataset, attacks="pgd-5", budget=41, limit=20)
    assert len(stored(tmp_path, "pgd-5 (at most 41 passes)")) == 1


def test_a_budget_in_memory_gives_the_verdicts_of_a_folder(tmp_path: Path, dataset: Dataset) -> None:
    x, y = dataset.test.images[:20], dataset.test.labels[:20]
    found = evaluate(Net(), x, y, eps=0.02, attacks="autoattack", budget=40, sanity=False).verdicts
    run(tmp_path, dataset, attacks="autoattack", budget=40, limit=20)
    (limited,) = stored(tmp_path, LIMITED)
    mine = found[found["attack"] == LIMITED].sort_values("sample")
    assert mine["success"].tolist() == limited.frame["success"].tolist()
    assert 0 < mine["success"].sum() < 20
    assert (mine["forwards"] + mine["backwards"]).max() <= 40


def test_an_attack_under_a_budget_is_compared_with_no_other_by_its_steps() -> None:
    definition = {"attack": "pgd", "name": "pgd-100", "steps": 100, "random_start": True, "objective": "ce"}
    assert info_of({"attack": definition}).steps == 100
    limited = info_of({"attack": definition, "budget": 30})
    assert (limited.steps, limited.cost_rank, limited.budget) == (0, 30, 30)


@pytest.mark.parametrize("half_width", [0.02, 0.07, 0.3])
@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 1.0])
def test_the_number_of_images_is_the_least_multiple_that_is_narrow_enough(share: float, half_width: float) -> None:
    step = advdpnp.eval.early.STEP
    narrow = [
        n
        for n in range(step, 40 * step + 1, step)
        if wilson(share * n, n).high - wilson(share * n, n).low <= 2 * half_width
    ]
    assert images_needed(share, half_width) == narrow[0]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advdpnp.eval.early, "STEP", 8)


@pytest.mark.usefixtures("small_steps")
def test_the_first_images_are_used_until_the_interval_is_narrow(tmp_path: Path, dataset: Dataset) -> None:
    (row,) = run(tmp_path / "early", dataset, until_half_width=12).to_dict("records")
    n = row["n"]
    assert 16 < n < N
    assert n % 8 == 0
    assert row["worst_case_high"] - row["worst_case_low"] <= 24
    (attack,) = stored(tmp_path / "early", "pgd-5")
    assert attack.samples.tolist() == list(range(n))
    run(tmp_path / "limit", dataset, limit=n)
    assert attack.frame.equals(stored(tmp_path / "limit", "pgd-5")[0].frame)
    broken = attack.frame["success"].to_numpy()
    earlier = wilson(16 - broken[:16].sum(), 16)
    assert 100 * (earlier.high - earlier.low) > 24  # sixteen, where it began, were not enough


@pytest.mark.usefixtures("small_steps")
def test_all_models_are_judged_on_the_same_images_and_the_widest_interval_counts(
    tmp_path: Path, dataset: Dataset
) -> None:
    alone = [
        int(run(tmp_path / str(seed), dataset, [loaded(seed)], until_half_width=12)["n"].iloc[0]) for seed in (0, 5)
    ]
    both = run(tmp_path / "both", dataset, [loaded(0), loaded(5)], until_half_width=12)
    assert both["n"].tolist() == [max(alone)] * 2
    assert (both["worst_case_high"] - both["worst_case_low"]).max() <= 24


@pytest.mark.usefixtures("small_steps")
def test_an_interval_that_never_gets_narrow_takes_all_images_or_the_limit(tmp_path: Path, dataset: Dataset) -> None:
    assert run(tmp_path, dataset, until_half_width=1)["n"].tolist() == [N]
    assert run(tmp_path, dataset, until_half_width=1, limit=37)["n"].tolist() == [37]


@pytest.mark.usefixtures("small_steps")
def test_an_interval_that_was_not_reached_is_told(tmp_path: Path, dataset: Dataset) -> None:
    class Said(Progress):
        sentences: tuple[str, ...] = ()

        def say(self, sentence: str) -> None:
            self.sentences += (sentence,)

    far, near = Said(), Said()
    run(tmp_path, dataset, until_half_width=1, limit=37, progress=far)
    (sentence,) = far.sentences
    assert sentence.startswith("an interval of 1 points to each side was not reached: as accuracies are, it takes ")
    assert sentence.endswith("images, and there are 37")
    run(tmp_path, dataset, until_half_width=12, progress=near)
    assert near.sentences == ()


@pytest.mark.usefixtures("small_steps")
def test_warnings_of_an_earlier_round_are_kept(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def warning(*arguments: Any, **options: Any) -> RunResult:
        rounds.append(run_models(*arguments, **options))
        return replace(rounds[-1], warnings=("seldom", "once") if len(rounds) == 1 else ("seldom",))

    monkeypatch.setattr(advdpnp.eval.early, "run_models", warning)
    with pytest.raises(AdvdpnpError, match=r"^seldom; once; they were made by"):
        run(tmp_path, dataset, until_half_width=12)
    assert len(rounds) > 1


@pytest.mark.usefixtures("small_steps")
def test_memory_stops_at_the_same_image_and_keeps_the_verdicts_of_all_rounds(tmp_path: Path, dataset: Dataset) -> None:
    options: dict[str, Any] = {"attacks": "pgd-5", "sanity": False, "until_half_width": 12, "save_adversarials": True}
    found = evaluate(Net(), dataset.test.images, dataset.test.labels, eps=0.02, **options)
    row = run(tmp_path, dataset, until_half_width=12)
    assert found.row["n"].tolist() == row["n"].tolist()
    assert found.row["worst_case"].tolist() == row["worst_case"].tolist()
    verdicts = found.verdicts[found.verdicts["attack"] == "pgd-5"]
    assert sorted(verdicts["sample"]) == list(range(int(row["n"].iloc[0])))
    images = found.adversarials["pgd-5"]
    assert set(images.sample) == set(verdicts[verdicts["success"]]["sample"])
    assert np.isfinite(images.x_adv.numpy()).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 4}, "a budget of 4 passes for each image leaves no search; give 5 or more"),
        ({"until_half_width": 0}, "out of range"),
        ({"until_half_width": 50}, "out of range"),
        ({"budget": 100, "attacks": "pgd-5,torchattacks:PGD-20"}, "'torchattacks:PGD-20' runs the code of a package"),
        ({"until_half_width": 2, "attacks": "torchattacks:PGD-20"}, "leave it out"),
    ],
)
def test_impossible_wishes_are_one_sentence(
    tmp_path: Path, dataset: Dataset, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AdvdpnpError, match=sentence):
        run(tmp_path, dataset, **options)
