"""The command line as a user meets it: every wrong word is one sentence and exit code 2."""

import importlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from advdpnp import __version__
from advdpnp.cli import app, run
from advdpnp.commands import listing
from advdpnp.commands.listing import catalogue
from advdpnp.commands.support.declared import Declared, declared

COMMANDS = [str(command.name) for command in app.registered_commands]


@pytest.fixture
def npz(save_npz):
    return save_npz(160, 3)


FAST = [
    "--epochs",
    "2",
    "--eps",
    "0.1",
    "--set",
    "attack.steps=2",
    "--set",
    "batch_size=32",
    "--set",
    "validation_steps=2",
]


def _shown_without_torch(*commands):
    """What the commands print in one process, which imports nothing heavy."""
    code = (
        f"import sys\nfrom advdpnp.cli import run\ncode = sum(map(run, {commands!r}))\n"
        "bad = {'torch', 'torchattacks', 'pyautoattack', 'robustbench', 'pandas'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {bad}' if bad else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_is_quick_and_imports_no_torch():
    shown = _shown_without_torch(["--help"])
    assert all(command in shown for command in COMMANDS)


def test_lists_are_quick_and_import_no_torch():
    kinds = [*listing._REGISTRIES, "recipes", "studies"]
    shown = _shown_without_torch(*(["list", kind] for kind in kinds))
    for name in ("pgd-{steps}", "gaussian_noise", "cifar10", "adv-dpnp", "resnet18", "mahalanobis", "dpnp-paper"):
        assert name in shown


@pytest.mark.parametrize("kind", listing._REGISTRIES)
def test_the_source_declares_what_is_registered(kind):
    module, registry = listing._REGISTRIES[kind]
    entries = [each for each in getattr(importlib.import_module(module), registry) if _is_ours(each.build)]
    groups = [each.build().group if kind == "corruptions" else "" for each in entries]
    found = declared(module.removesuffix(".library"))
    assert found == [
        Declared(each.name, each.description, each.reference, group)
        for each, group in zip(entries, groups, strict=True)
    ]
    assert catalogue(kind)[0]  # torch is there, so from the registry


def _is_ours(build):
    return build.__module__.startswith("advdpnp.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    assert "Example" in capsys.readouterr().out


def test_the_bare_name_prints_help(capsys):
    assert run([]) == 0
    shown = capsys.readouterr()
    assert "Usage" in shown.out
    assert shown.err == ""


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"advdpnp {__version__}"


NET = ["eval", "--dataset", "digits", "--model", "torch.nn:Identity"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trane"], "no such command 'trane'; did you mean 'train'?"),
        (["frobnicate"], "advdpnp: no such command 'frobnicate'; see"),
        (["eval", "--atacks", "fgsm"], "advdpnp: no such option: --atacks"),
        (["train", "--epochs", "many"], "advdpnp: --epochs must be an integer; see"),
        (["eval", "--limit", "0"], "advdpnp: --limit must be at least 1; see"),
        (["eval", "--seed", str(2**63)], f"advdpnp: --seed must be from 0 to {2**63 - 1}"),
        (["train", "--recipe", "adv-dnp"], "did you mean adv-dpnp"),
        (["train", "--dataset", "cifar11"], "cifar10"),
        (["train", "--dataset", "digits", "--architecture", "resnet19"], "resnet18"),
        (["train", "--dataset", "digits", "--eps", "eight"], "'eight' is not a positive number"),
        (["train", "--dataset", "digits", "--set", "model.haed=linear"], "model.haed"),
        (["train", "--dataset", "npz:missing.npz"], "missing.npz"),
        (["eval"], "nothing to evaluate"),
        (["eval", "missing-run"], "missing-run"),
        (["eval", "--dataset", "digits", "--model", "no.such.module:net"], "no.such.module"),
        ([*NET, "--mean", "0.3", "--std", "0"], "no normalisation; give finite numbers, std above 0"),
        ([*NET, "--mean", "nan", "--std", "1"], "no normalisation; give finite numbers, std above 0"),
        ([*NET, "--mean", "0.3,0.2,0.1", "--std", "1"], "mean has 3 numbers, and the images have 1 channel; give one"),
        (["leaderboard", "missing-folder"], "missing-folder"),
        (["compare", "one"], "missing argument 'B'"),
        (["compare", "one", "other"], "there is no folder results"),
        (["compare", "one", "other", "missing-folder", "--columns", " , "], "--columns is empty"),
        (["list", "atacks"], "did you mean attacks"),
        (["list"], "advdpnp list attacks | corruptions | datasets"),
    ],
)
def test_wrong_words_are_one_sentence_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("advdpnp: ")
    assert said in error
    assert "unexpected" not in error


@pytest.mark.parametrize(
    "kind", ["attacks", "corruptions", "datasets", "methods", "models", "recipe-keys", "recipes", "scores", "studies"]
)
def test_list(kind, capsys):
    expected = {
        "attacks": "pgd-{steps}",
        "corruptions": "frost",
        "datasets": "npz:",
        "methods": "adv-dpnp",
        "models": "resnet18",
        "recipe-keys": "optimiser.lr",
        "recipes": "adv-dpnp",
        "scores": "prototype-own",
        "studies": "ablations",
    }
    assert run(["list", kind]) == 0
    assert expected[kind] in capsys.readouterr().out


def test_the_list_of_corruptions_tells_groups_and_what_is_outside_the_mean(capsys):
    assert run(["list", "corruptions"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert " weather  " in lines["frost"]
    assert " noise (extra)  " in lines["speckle_noise"]


def test_own_data_from_training_to_leaderboard(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--recipe", "adv-dpnp", "--dataset", f"npz:{npz}", "--name", "mine", *FAST]) == 0
    assert "advdpnp eval --attacks all runs/mine" in capsys.readouterr().out
    assert run(["eval", "runs/mine", "--attacks", "fgsm,pgd-5", "--limit", "20"]) == 0
    shown = capsys.readouterr().out
    assert "worst_case" in shown
    header = (tmp_path / "results" / "npz-own" / "leaderboard.csv").read_text().splitlines()[0]
    assert header.startswith("model,clean,fgsm,pgd-5,worst_case,n,flags,method,architecture,parameters,")
    assert "linf 0.1" in shown  # norm and eps come from the checkpoint
    assert run(["leaderboard", "results", "--out", "table"]) == 0
    assert (tmp_path / "table" / "leaderboard.md").exists()


def test_two_models_of_one_name_are_refused(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1"):
        words = [
            "train",
            "--recipe",
            "ce",
            "--dataset",
            f"npz:{npz}",
            "--out",
            f"runs{seed}",
            "--name",
            "same",
            "--seed",
            seed,
            *FAST,
        ]
        assert run(words) == 0
    capsys.readouterr()
    words = ["eval", "runs0/same", "runs1/same", "--attacks", "fgsm", "--limit", "8"]
    assert run(words) == 2
    assert "--name" in capsys.readouterr().err
    assert run([*words, "--name", "a", "--name", "b"]) == 0


def test_a_word_without_an_end_is_cut_in_the_sentence_about_it(capsys):
    assert run(["list", "a" * 100_000]) == 2
    assert len(capsys.readouterr().err) < 1000


def test_a_full_disk_is_one_sentence(npz, tmp_path, capsys, monkeypatch):
    import advdpnp.base.files

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advdpnp.base.files.os, "replace", full)
    assert run(["train", "--recipe", "ce", "--dataset", f"npz:{npz}", *FAST]) == 2
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_continue(npz, tmp_path):
    words = ["train", "--recipe", "adv-dpnp", "--dataset", f"npz:{npz}", "--name", "long", *FAST, "--epochs", "500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "advdpnp", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    folder = tmp_path / "runs" / "long"
    deadline = time.monotonic() + 120
    while not (folder / "training.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "continue with: advdpnp train" in said
    assert "--resume" in said
    assert "Traceback" not in said


def train_small(npz, name: str, *words: str) -> None:
    assert (
        run(["train", "--recipe", "ce", "--dataset", f"npz:{npz}", "--name", name, *FAST, "--epochs", "1", *words]) == 0
    )


def test_checkpoints_of_different_eps_are_compared_at_the_default(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_small(npz, "a")
    train_small(npz, "b", "--eps", "0.2")
    assert run(["eval", "runs/a", "runs/b", "--attacks", "fgsm", "--limit", "8"]) == 0
    assert "linf 8/255" in capsys.readouterr().out


def test_a_norm_in_capitals_means_the_same(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_small(npz, "a")
    assert run(["eval", "runs/a", "--attacks", "fgsm", "--limit", "8", "--norm", "Linf"]) == 0
    assert "linf 0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--eps", ","], "--eps is empty"),
        (["--name", " "], "--name is empty"),
        (["--name", "a\nb"], "has line breaks"),
        (["--mean", "0", "--std", "1"], "checkpoints normalise"),
        (["--device", "meta"], "choose cpu"),
        (["--seed", str(2**63)], "--seed"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_words_that_say_nothing_are_refused(words, said, npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_small(npz, "a")
    assert run(["eval", "runs/a", "--attacks", "fgsm", "--limit", "8", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\nb"])
def test_a_run_has_a_name_of_one_folder(npz, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--dataset", f"npz:{npz}", "--name", name]) == 2
    assert "is no name of one folder" in capsys.readouterr().err


@pytest.mark.parametrize("state", [False, True])
def test_a_run_that_was_stopped_says_whether_it_can_be_resumed(npz, tmp_path, capsys, monkeypatch, state):
    def stop(recipe, data, folder, **options):
        folder.mkdir(parents=True)
        if state:
            (folder / "training.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("advdpnp.training.trainer"), "train", stop)
    assert run(["train", "--dataset", f"npz:{npz}", "--name", "x"]) == 2
    said = capsys.readouterr().err
    assert ("before anything of this run was saved; start it again" in said) is not state
    assert ("finished epochs are kept, continue with: " in said) is state


def test_resuming_what_was_never_begun_is_refused(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--dataset", f"npz:{npz}", "--name", "typo", "--resume"]) == 2
    assert "no run in runs/typo to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(160, dtype=int), "all of one class"),
        (np.arange(160) % 4 + 1, "start at 1"),
        (np.arange(160) % 3, "no training images of them"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels, said, npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = dict(np.load(npz))
    np.savez(tmp_path / "odd.npz", **{**arrays, "y_train": labels})
    assert run(["train", "--dataset", "npz:odd.npz", *FAST]) == 2
    assert said in capsys.readouterr().err


def test_too_few_images_are_refused(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = dict(np.load(npz))
    few = {"x_train": arrays["x_train"][:4], "y_train": arrays["y_train"][:4]}
    np.savez(tmp_path / "few.npz", **{**arrays, **few})
    assert run(["train", "--dataset", "npz:few.npz", *FAST]) == 2
    assert "at least 10 training images" in capsys.readouterr().err


def test_a_full_disk_that_a_library_reports_in_its_own_words_is_one_sentence(npz, tmp_path, capsys, monkeypatch):
    import torch

    def full(*arguments, **options):
        raise RuntimeError("unexpected pos 64 vs 0: No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    assert run(["train", "--recipe", "ce", "--dataset", f"npz:{npz}", *FAST]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_ctrl_c_anywhere_is_one_sentence(capsys, monkeypatch):
    import advdpnp.commands.listing

    def interrupt(kind):
        raise KeyboardInterrupt

    monkeypatch.setattr(advdpnp.commands.listing, "catalogue", interrupt)
    assert run(["list", "attacks"]) == 2
    assert "stopped" in capsys.readouterr().err


def test_verdicts_in_another_models_folder_are_refused(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        train_small(npz, name, "--seed", str(ord(name)))
    assert run(["eval", "runs/a", "runs/b", "--attacks", "fgsm", "--limit", "8", "--out", "out"]) == 0
    first, second = sorted(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    (first / "units.json").replace(second / "units.json")
    (first / "attacks.parquet").replace(second / "attacks.parquet")
    assert run(["leaderboard", "out"]) == 2
    assert "another model" in capsys.readouterr().err


def test_each_source_is_cited_once_and_ranges_are_short(capsys):
    assert run(["list", "corruptions"]) == 0
    assert capsys.readouterr().out.count("ICLR 2019") == 1
    assert run(["eval", "--help"]) == 0
    shown = capsys.readouterr().out
    assert str(2**63 - 1) not in shown
    assert [shown.index(f"─ {name} ─") for name in ("Models", "Data", "Attacks", "Engine", "Output")]


@pytest.mark.parametrize("words", [["--plugin", "a.py", "list", "models"], ["list", "models", "--plugin=a.py"]])
def test_a_plugin_may_be_named_before_and_after_the_command(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "a.py").write_text("print('imported')")
    assert run(words) == 0
    assert capsys.readouterr().out.startswith("imported")
    assert run(["list", "--", "--plugin"]) == 2  # no option there
    assert "no list of '--plugin'" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["mynet.py", "mynet.py:make"])
def test_geometry_takes_no_net_of_ones_own(given, capsys):
    assert run(["geometry", given]) == 2
    assert f"whose features it knows, and {given} is none; give a run folder" in capsys.readouterr().err


def test_a_name_that_is_unknown_may_be_one_of_a_plugin(capsys):
    assert run(["train", "--recipe", "ce", "--set", "method.name=my-own"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("(one of your own: --plugin FILE.py)")
