"""Studies: what they vary, what they are judged on, what they leave."""

import json

import pandas as pd
import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.commands.support.studies import to_markdown
from advdpnp.datasets import load_dataset
from advdpnp.training.study import Rare, Study, parse_shard, read_study, runs, study_data, study_files, variants

TINY = """
description: a tiny study
recipe: adv-dpnp
settings: [epochs=1, validation=10, validation_steps=1, attack.steps=1, "model.feature_dim=4", batch_size=512]
vary: {method.beta: [0]}
seeds: [0, 1]
judged: 20
attacks: fgsm
"""


@pytest.mark.parametrize("name", study_files())
def test_every_study_of_the_package_holds(name):
    study = read_study(name)
    assert study.description
    assert len(variants(study)) >= 2


def test_factors_are_varied_one_at_a_time_beside_the_default():
    study = Study(description="", vary={"method.beta": [0, 2], "average": [None, 0.9]})
    assert [v.label for v in variants(study)] == ["default", "beta 0", "beta 2", "average null", "average 0.9"]
    recipe = variants(study)[2].resolve(study, 3)
    assert (recipe.method["beta"], recipe.seed) == (2, 3)


def test_a_grid_takes_all_combinations_each_once():
    blocks = [{"recipe": ["dpnp", "ce"], "model.feature_dim": [3, 10]}, {"recipe": ["ce"], "model.feature_dim": [3, 5]}]
    labels = [v.label for v in variants(Study(description="", grid=blocks))]
    assert labels == [f"{r}, feature_dim {d}" for r, d in [("dpnp", 3), ("dpnp", 10), ("ce", 3), ("ce", 10), ("ce", 5)]]


def test_shards_share_the_work_without_overlap():
    study = Study(description="", vary={"method.beta": [0, 2, 3]})
    every = list(runs(study))
    parts = [list(runs(study, (i, 3))) for i in range(3)]
    assert len(every) == 12
    assert sorted(map(repr, every)) == sorted(repr(each) for part in parts for each in part)


def test_studies_see_no_test_image_and_judge_on_images_they_do_not_train_on():
    training, judging = study_data(Study(description="", judged=200))
    test = {image.numpy().tobytes() for image in load_dataset("digits").test.images}
    parts = [training.train, training.validation, judging.test]
    images = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert [len(part) for part in parts] == [1437 - 200 - 137, 137, 200]
    assert not images[0] & images[2]
    assert not images[1] & images[2]
    assert not any(part & test for part in images)


def test_rare_classes_lose_their_share():
    whole, _ = study_data(Study(description=""))
    thin, _ = study_data(Study(description="", rare=Rare(classes=[1, 3], share=0.1)))
    before, after = (torch.bincount(data.train.labels) for data in (whole, thin))
    for label in range(10):
        assert after[label] == (round(0.1 * int(before[label])) if label in (1, 3) else before[label])


def test_values_that_look_alike_stay_apart():
    blocks = [{"augmentation": ["none", None]}, {"optimiser.lr": [0.1000001, 0.1000002]}]
    assert len({v.label for v in variants(Study(description="", grid=blocks))}) == 4


@pytest.mark.parametrize("text", ["2/2", "\u00b2/3", "x", "1", "-1/2", "1/0", ""])
def test_wrong_shards_are_refused(text):
    with pytest.raises(AdvdpnpError, match="is not a share of the runs"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("recipe: ce", "description"),
        ("description: x\nvary: {method.bta: [1]}", "no such value"),
        ("description: x\nrecipe: dppn", "no recipe called 'dppn'"),
        ("description: x\njudged: 5000", "set judged to fewer"),
        ("[]", "key: value"),
        ("1: 2", "key: value"),
        ("description: x\nvary: {seed: [7]}", "cannot vary 'seed'; list it under seeds"),
        ("description: x\nvary: {validation: [7]}", "cannot vary 'validation'"),
        ("description: x\nvary: {optimiser.lr: []}", "at least 1 item"),
        ("description: x\nvary: {model.architecture: [nosuch]}", "no model called 'nosuch'"),
        ("description: x\nvary: {attack.eps: [abc]}", "eps 'abc'"),
        ("description: x\nattacks: fgsmm", "did you mean fgsm?"),
        ("description: x\nseeds: [0, -1]", "greater than or equal to 0"),
        ("description: x\nseeds: [0, 0]", "a seed is listed twice"),
        ("description: x\nrare: {classes: [99], share: 0.1}", "99 is not one of the 10 classes"),
        ("description: x\ncurve: {x: model.radius, lines: recipe, y: [clean]}", "names 'model.radius'"),
    ],
)
def test_wrong_studies_end_in_one_sentence(content, message, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert run(["study", str(path), "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unknown_studies_are_named_with_what_was_meant(capsys):
    assert run(["study", "ablation"]) == 2
    assert "did you mean ablations or ablations-radius-40?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_is_finished_in_shards_and_then_only_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    words = ["study", str(path), "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert run([*words, "--shard", "0/2"]) == 0
    assert "2 of 4 trainings" in capsys.readouterr().out
    assert run([*words, "--shard", "1/2"]) == 0
    table = pd.read_csv(tmp_path / "out" / "tiny.csv")
    assert table["variant"].tolist() == ["default"] * 2 + ["beta 0"] * 2
    assert table["seed"].tolist() == [0, 1] * 2
    assert (tmp_path / "out" / "tiny.png").stat().st_size > 1000
    first = json.loads((tmp_path / "runs" / "tiny" / "default-s0" / "judged.json").read_text())
    assert table["clean"][0] == pytest.approx(first["measured"]["clean"])
    monkeypatch.setattr("advdpnp.commands.support.studies.train", None)  # would fail if anything were trained again
    assert run(words) == 0
    path.write_text(TINY.replace("attack.steps=1", "attack.steps=2"))
    assert run(words) == 2
    assert "was trained or judged otherwise than the study now says" in capsys.readouterr().err
    (tmp_path / "runs" / "tiny" / "default-s0" / "judged.json").write_text("{")
    assert run(words) == 2
    assert "judged.json is damaged" in capsys.readouterr().err


def test_the_table_tells_what_each_factor_changes():
    study = Study(description="What beta does", vary={"method.beta": [2]})
    frame = pd.DataFrame(
        {
            "variant": ["default", "default", "beta 2", "beta 2"],
            "method.beta": ["", "", 2, 2],
            "seed": [0, 1, 0, 1],
            "clean": [90.0, 92.0, 80.0, 82.0],
            "worst_case": [50.0, 52.0, 60.0, 60.0],
            "seconds": [1.0, 1.0, 1.0, 1.0],
        }
    )
    text = to_markdown(study, frame, 300)
    assert "| default   | 91.00 ± 1.41 | 51.00 ± 1.41 |" in text
    assert "| beta 2    | 81.00 ± 1.41 | 60.00 ± 0.00 | -10.00          | +9.00                |" in text
    assert "seconds" not in text
