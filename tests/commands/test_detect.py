"""`advdpnp detect` as a user meets it."""

import pandas as pd
import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.eval.detection import scores

QUICK = ["--limit", "24", "--adaptive-steps", "2", "--restarts", "1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One epoch of dpnp on digits."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["--recipe", "dpnp", "--dataset", "digits", "--epochs", "1", "--name", "net", "--set", "validation_steps=1"]
    assert run(["train", *words, "--out", str(folder)]) == 0
    return str(folder / "net")


def test_tables_figures_and_the_terminal(checkpoint, tmp_path, capsys, monkeypatch):
    pytest.importorskip("pytorch_ood")
    monkeypatch.chdir(tmp_path)
    words = ["--outliers", "noise:uniform, corruption:fog-5", "--outliers", "noise:uniform", "--attacks", "fgsm",
             "--scores", "prototype-own,mahalanobis,energy"]  # fmt: skip
    assert run(["detect", checkpoint, *words, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "digits, outliers: AUROC in percent; 24 test images, threshold for 5 % false alarms, seed 0" in shown
    assert "digits, adversarial images, linf eps 0.1" in shown  # the checkpoint's
    folder = tmp_path / "results" / "detection" / "digits"
    frame = pd.read_csv(folder / "detection.csv")
    assert set(frame["images"]) == {"clean", "noise:uniform", "corruption:fog-5", "fgsm", "adaptive"}
    assert list(dict.fromkeys(frame["score"])) == ["prototype-own", "mahalanobis", "energy"]
    assert (frame["held_out"] == 137).all()  # as many as the training held out
    assert (folder / "detection.md").exists()
    assert sorted(path.name for path in folder.glob("*.png")) == ["roc-net.png", "scores-net.png"]
    first = (folder / "detection.csv").read_bytes()
    assert run(["detect", checkpoint, *words, *QUICK]) == 0
    assert (folder / "detection.csv").read_bytes() == first


@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyboardInterrupt(), "stopped; "), (AdvdpnpError("the score 'energy' is NaN"), "the score 'energy' is NaN; ")],
)
def test_what_was_finished_before_a_run_ends_early_is_kept(error, said, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["detect", checkpoint, "--outliers", "noise:uniform", "--attacks", "none", "--out", "out", "--limit", "30"]
    assert run([*words, "--scores", "logit-gap,energy"]) == 0
    complete = (tmp_path / "out" / "detection.csv").read_bytes()
    build = scores.build_detector

    def failing(name, fitting):
        made = build(name, fitting)
        if name != "energy":
            return made

        def score(outputs):
            raise error

        return scores.Detector(score, score)

    monkeypatch.setattr("advdpnp.eval.detection.run.build_detector", failing)
    capsys.readouterr()
    assert run([*words, "--scores", "logit-gap,energy"]) == 2
    told = capsys.readouterr().err
    assert said + "out/unfinished/detection.csv has the scores that were finished (1)" in " ".join(told.split())
    assert set(pd.read_csv("out/unfinished/detection.csv")["score"]) == {"logit-gap"}
    assert (tmp_path / "out" / "detection.csv").read_bytes() == complete


def test_a_net_of_the_users_own_shows_only_logits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))"
    (tmp_path / "nets.py").write_text(f"import torch\n\n\ndef net():\n    torch.manual_seed(0)\n    return {net}\n")
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10)).state_dict(), "weights.pt")
    words = ["--model", "nets.py:net", "--weights", "weights.pt", "--dataset", "digits", "--eps", "0.05"]
    assert run(["detect", *words, "--outliers", "noise:gaussian", *QUICK, "--out", "out"]) == 0
    shown = capsys.readouterr().out
    assert "weights: prototype-any, prototype-own left out: the model has no prototypes" in shown
    assert "knn, mahalanobis, relative-mahalanobis left out: the model shows only logits, no features" in shown
    assert set(pd.read_csv("out/detection.csv")["score"]) == {"energy", "logit-gap", "max-softmax"}


def test_gray_nets_and_rgb_outliers(checkpoint, save_npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = save_npz(160, 3)
    words = ["--outliers", f"npz:{own}", "--attacks", "none", "--scores", "energy", "--out", "out", "--limit", "30"]
    assert run(["detect", checkpoint, *words]) == 0
    frame = pd.read_csv("out/detection.csv")
    assert list(frame["images"]) == ["clean", "npz-own"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no model; give a run folder"),
        (["missing-run"], "missing-run"),
        (["NET", "--outliers", "cifar11"], "there are no outliers called 'cifar11'; did you mean"),
        (["NET", "--attacks", "fgms"], "there is no attack called 'fgms'; did you mean fgsm"),
        (["NET", "--scores", "enrgy"], "there is no score called 'enrgy'; did you mean energy?"),
        (["NET", "--attacks", "none"], "there is nothing to detect; give --outliers or --attacks"),
        (["NET", "--false-alarms", "0"], "--false-alarms 0 is no percentage"),
        (["NET", "--false-alarms", "0.5", "--scores", "energy", "--attacks", "none", "--outliers", "noise:uniform"],
         "137 held-out images are too few for 0.5 % false alarms; hold out at least 199"),
        (["NET", "--eps", "1/255,2/255"], "--eps takes one radius here"),
        (["NET", "--norm", "l1", "--eps", "3"], "does not support l1"),
        (["NET", "--limit", "0"], "--limit must be at least 1"),
        (["NET", "--device", "tpu"], "the device 'tpu' cannot be used here"),
        (["NET", "--outliers", "digits"], "the very test images"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence_and_exit_code_2(words, said, checkpoint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["detect", *(checkpoint if word == "NET" else word for word in words)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("advdpnp: ")
    assert said in error
    assert "unexpected" not in error
