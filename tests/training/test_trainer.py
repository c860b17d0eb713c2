"""The training loop: what it leaves, and that stopping it anywhere changes nothing."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import load_dataset
from advdpnp.datasets.base import Dataset, Split
from advdpnp.models.checkpoint import load_checkpoint
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.step import attack_mode
from advdpnp.training.trainer import train

SMALL = {
    "epochs": 2,
    "batch_size": 32,
    "attack.steps": 2,
    "attack.eps": "0.1",
    "validation_steps": 2,
    "optimiser.lr": 0.05,
}


def recipe(name: str = "adv-dpnp", **changes):
    return resolve_recipe(name, "none", {**SMALL, **changes})


def weights(path):
    return load_checkpoint(path)[0].state_dict()


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["ce", "pgd-at", "dpnp", "adv-dpnp"])
def test_a_run_leaves_recipe_metrics_best_and_last(name, quadrants, tmp_path):
    metrics = train(recipe(name), quadrants, tmp_path / "run")
    saved = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert len(saved) == len(metrics) == 2
    assert {"epoch", "validation_clean", "validation_pgd", "min_separation", "loss"} <= set(saved)
    for file in ("best", "last"):
        model, header = load_checkpoint(tmp_path / "run" / f"{file}.safetensors")
        assert header["method"] == name
        assert header["recipe"]["epochs"] == 2
        assert model(torch.rand(1, 1, 8, 8)).shape == (1, 4)
    assert resolve_recipe(str(tmp_path / "run" / "recipe.yaml"), "none") == recipe(name)


def test_training_learns(quadrants, tmp_path):
    metrics = train(recipe("pgd-at", epochs=6), quadrants, tmp_path)
    assert metrics["validation_clean"].iloc[-1] > 0.9
    assert metrics["validation_pgd"].iloc[-1] > 0.6


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5])
def test_resuming_gives_the_same_weights_bit_for_bit(stop_after, quadrants, tmp_path):
    """Three steps per epoch: stops in the middle of an epoch, at its end, and in the second one."""
    train(recipe(), quadrants, tmp_path / "straight")
    seen = 0
    original = torch.optim.SGD.step

    def step(self, *arguments, **options):
        nonlocal seen
        seen += 1
        if seen == stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        with pytest.raises(AdvdpnpError, match="continue with: again"):
            train(recipe(), quadrants, tmp_path / "stopped", resume_command="again")
    train(recipe(), quadrants, tmp_path / "stopped", resume=True)
    for file in ("best", "last"):
        straight, stopped = (weights(tmp_path / run / f"{file}.safetensors") for run in ("straight", "stopped"))
        assert same(straight, stopped)
    tables = [pd.read_csv(tmp_path / run / "metrics.csv").drop(columns="seconds") for run in ("straight", "stopped")]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("schedule", ["constant", "exponential"])
def test_a_prolonged_run_is_that_of_as_many_epochs(schedule, quadrants, tmp_path):
    values = {"optimiser.schedule": schedule, "attack.steps": 1, "validation_steps": 1}
    train(recipe(epochs=3, **values), quadrants, tmp_path / "straight")
    train(recipe(epochs=1, **values), quadrants, tmp_path / "longer")
    metrics = train(recipe(epochs=3, **values), quadrants, tmp_path / "longer", resume=True)
    assert len(metrics) == 3
    for file in ("best", "last"):
        assert same(*(weights(tmp_path / run / f"{file}.safetensors") for run in ("straight", "longer")))
    assert "epochs: 3" in (tmp_path / "longer" / "recipe.yaml").read_text()
    with pytest.raises(AdvdpnpError, match="has finished 3 epochs; give --epochs 3 or more"):
        train(recipe(epochs=2, **values), quadrants, tmp_path / "longer", resume=True)


def test_a_run_whose_schedule_ends_is_not_prolonged(quadrants, tmp_path):
    train(recipe(epochs=1), quadrants, tmp_path)
    with pytest.raises(AdvdpnpError, match=r"planned for 1 epoch,.*one-cycle.*constant or exponential"):
        train(recipe(epochs=2), quadrants, tmp_path, resume=True)


def test_another_seed_gives_other_weights(quadrants, tmp_path):
    for seed in (0, 1):
        train(recipe(epochs=1, seed=seed), quadrants, tmp_path / str(seed))
    assert not same(weights(tmp_path / "0" / "last.safetensors"), weights(tmp_path / "1" / "last.safetensors"))


def test_training_does_not_touch_the_global_generators(quadrants, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(recipe(epochs=1), quadrants, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_with_a_run_is_not_overwritten(quadrants, tmp_path):
    train(recipe(epochs=1), quadrants, tmp_path)
    with pytest.raises(AdvdpnpError, match="add --resume"):
        train(recipe(epochs=1), quadrants, tmp_path)
    with pytest.raises(AdvdpnpError, match=r"another recipe.*seed: 0"):
        train(recipe(epochs=1, seed=3), quadrants, tmp_path, resume=True)


def test_a_damaged_state_is_one_sentence(quadrants, tmp_path):
    train(recipe(epochs=1), quadrants, tmp_path)
    state = (tmp_path / "training.pt").read_bytes()
    (tmp_path / "training.pt").write_bytes(state[: len(state) // 2])
    with pytest.raises(AdvdpnpError, match="damaged"):
        train(recipe(epochs=1), quadrants, tmp_path, resume=True)


def test_nan_stops_the_run_names_the_term_and_keeps_the_last_good_state(quadrants, tmp_path, monkeypatch):
    train(recipe(epochs=1), quadrants, tmp_path / "one")
    good = weights(tmp_path / "one" / "last.safetensors")
    method = type(build_method({"name": "adv-dpnp"}))
    original, calls = method.loss, 0

    def loss(self, *arguments):
        nonlocal calls
        calls += 1
        value, terms = original(self, *arguments)
        if calls > 4:
            terms["consistency"] = terms["consistency"] * float("nan")
            value = value + terms["consistency"]
        return value, terms

    monkeypatch.setattr(method, "loss", loss)
    with pytest.raises(AdvdpnpError, match="'consistency' is no longer finite in epoch 2"):
        train(recipe(epochs=2, **{"optimiser.schedule": "constant"}), quadrants, tmp_path / "nan")
    kept = weights(tmp_path / "nan" / "last.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert kept.keys() == good.keys()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_inner_attack_updates_no_batchnorm_statistics(mode):
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with attack_mode(net, mode):
        assert net.training == (mode == "train")
        out = net(torch.rand(6, 2, 2, 2) * 9)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    with attack_mode(net, "train" if mode == "eval" else "eval"):
        assert not torch.allclose(out, net(torch.rand(6, 2, 2, 2)))
    net.train()
    net(torch.rand(6, 2, 2, 2))
    assert not torch.equal(before["0.running_mean"], net.state_dict()["0.running_mean"])  # tracking is back on


def test_prototypes_have_their_own_optimiser_group(quadrants, tmp_path):
    """With no learning of the prototypes' own, decay of the other weights must not reach them."""
    values = {"optimiser.weight_decay": 0.1, "optimiser.lr": 1e-12, "epochs": 1}
    train(recipe(**values), quadrants, tmp_path)
    prototypes = weights(tmp_path / "last.safetensors")["head.prototypes"]
    assert torch.allclose(prototypes.norm(dim=1), torch.full((4,), recipe().model.radius), rtol=1e-6)


EXTRAS = [{"awp": 0.01}, {"average": 0.9}, {"awp": 0.01, "average": 0.5}]


@pytest.mark.parametrize("extra", [*EXTRAS, *({"augmentation": how} for how in ("autoaugment", "idbh", "cutmix"))])
def test_perturbation_averaging_and_augmentation_resume_bit_for_bit(extra, quadrants, tmp_path):
    train(recipe(**extra), quadrants, tmp_path / "straight")
    seen = 0

    def stop(progress):
        nonlocal seen
        seen = max(seen, progress.epoch)
        if progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(AdvdpnpError, match="stopped in epoch 2"):
        train(recipe(**extra), quadrants, tmp_path / "stopped", report=stop)
    train(recipe(**extra), quadrants, tmp_path / "stopped", resume=True)
    plain = tmp_path / "plain"
    train(recipe(), quadrants, plain)
    straight = weights(tmp_path / "straight" / "last.safetensors")
    assert same(straight, weights(tmp_path / "stopped" / "last.safetensors"))
    assert not same(straight, weights(plain / "last.safetensors"))


def test_extra_images_are_mixed_in(quadrants, tmp_path):
    values = {"epochs": 1, "extra_share": 0.25}
    train(recipe("pgd-at", **values), quadrants, tmp_path / "with", extra=quadrants)
    train(recipe("pgd-at", **values), quadrants, tmp_path / "without")
    assert not same(*(weights(tmp_path / run / "last.safetensors") for run in ("with", "without")))


def test_extra_images_of_another_kind_are_refused(quadrants, tmp_path):
    other = Dataset(
        "other", ("a", "b"), *[Split(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.zeros(8).long())] * 3
    )
    with pytest.raises(AdvdpnpError, match="3x8x8"):
        train(recipe(), quadrants, tmp_path, extra=other)


def test_every_batch_keeps_an_image_of_the_training_set(quadrants, tmp_path):
    """Rounding must not let the extra images fill a small batch."""
    metrics = train(recipe("ce", epochs=1, batch_size=4, extra_share=0.95), quadrants, tmp_path, extra=quadrants)
    assert len(metrics) == 1


@pytest.mark.slow
def test_compiling_without_a_compiler_is_one_sentence_and_exit_code_2(tmp_path):
    words = ["train", "--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--device", "cpu", "--compile"]
    elsewhere = {"PATH": str(tmp_path), "CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "advdpnp", *words, "--name", "run"],
        cwd=tmp_path,
        env={**os.environ, **elsewhere, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("advdpnp: torch.compile needs a working C++ compiler (")
    assert sentence.endswith("; install g++, or leave out --compile")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "run" / "training.pt").exists()  # so the name is free for a run without --compile


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_weights_that_the_last_step_of_an_epoch_spoils_are_not_saved(quadrants, tmp_path, lr):
    """The loss of that step was still finite."""
    tame = recipe("ce", **{"optimiser.schedule": "constant", "batch_size": 96})
    wild = tame.model_copy(update={"optimiser": tame.optimiser.model_copy(update={"lr": lr})})  # recipes have a bound
    with pytest.raises(AdvdpnpError, match="no longer finite") as caught:
        train(wild, quadrants, tmp_path)
    assert "no state had been saved" in str(caught.value) or "validation images" in str(caught.value)
    assert not (tmp_path / "best.safetensors").exists()
    assert not (tmp_path / "training.pt").exists()


def test_infinite_values_are_no_recipe():
    for key in ("optimiser.lr", "method.lambda_pos", "attack.relative_step"):
        with pytest.raises(AdvdpnpError, match="finite number"):
            build_method(resolve_recipe("adv-dpnp", "digits", None, [f"{key}=.inf"]).method)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ce", {"model.head": "centre"}, "does not train centres"),
        ("ce", {"awp": 0.1}, "leave out awp"),
        ("ce", {"method.self": 1}, "there is no such value"),
    ],
)
def test_values_that_would_do_nothing_or_harm_are_refused(quadrants, tmp_path, name, changes, message):
    with pytest.raises(AdvdpnpError, match=message):
        train(recipe(name, epochs=1, **changes), quadrants, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dlr_in_training_needs_three_classes(quadrants, tmp_path):
    parts = {name: getattr(quadrants, name) for name in ("train", "validation", "test")}
    halved = {name: Split(part.images, part.labels % 2) for name, part in parts.items()}
    two = replace(quadrants, class_names=("a", "b"), **halved)
    with pytest.raises(AdvdpnpError, match="at least 3 classes"):
        train(recipe("pgd-at", **{"method.inner_objective": "dlr"}), two, tmp_path)


def test_the_radius_of_the_paper_trains_on_finite_numbers(tmp_path):
    digits = resolve_recipe("dpnp-paper", "digits", {"epochs": 1, "validation_steps": 2})
    metrics = train(digits, load_dataset("digits"), tmp_path)
    assert metrics.notna().all(axis=None)
    found = weights(tmp_path / "best.safetensors")
    assert all(value.isfinite().all() for value in found.values())
    assert found["head.prototypes"].norm(dim=1).mean() == pytest.approx(40, rel=0.2)


def test_resuming_says_what_is_lost(quadrants, tmp_path):
    short = recipe("ce", epochs=1)
    train(short, quadrants, tmp_path)
    with pytest.raises(AdvdpnpError, match=r"it lacks 'label_smoothing: 0.1'"):
        train(recipe("ce", **{"epochs": 1, "method.label_smoothing": 0.1}), quadrants, tmp_path, resume=True)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(AdvdpnpError, match=r"has no best\.safetensors"):
        train(short, quadrants, tmp_path, resume=True)
    torch.save({"version": 2}, tmp_path / "training.pt")
    with pytest.raises(AdvdpnpError, match=r"damaged.*remove the folder"):
        train(short, quadrants, tmp_path, resume=True)


@pytest.mark.parametrize("kept", ["best.safetensors", "metrics.csv"])
def test_resuming_what_has_lost_its_state_is_refused(quadrants, tmp_path, kept):
    """It would begin anew and overwrite what was kept."""
    run = tmp_path / "run"
    run.mkdir()
    train(recipe("ce", epochs=1), quadrants, run, resume=True)  # an empty folder is begun
    for path in run.iterdir():
        if path.name != kept:
            path.unlink()
    before = (run / kept).read_bytes()
    with pytest.raises(
        AdvdpnpError, match=rf"contains {kept} but no training\.pt.*another --name, or remove the folder"
    ):
        train(recipe("ce", epochs=1), quadrants, run, resume=True)
    assert (run / kept).read_bytes() == before
    (run / kept).unlink()
    train(recipe("ce", epochs=1), quadrants, run, resume=True)  # a lock and nothing else is no run


def test_no_net_is_saved_before_a_state(quadrants, tmp_path, monkeypatch):
    """A run killed between the two could not be resumed."""
    seen = []
    monkeypatch.setattr(
        "advdpnp.training.state.save_checkpoint",
        lambda path, *others: seen.append((path.name, (tmp_path / "training.pt").exists())),
    )
    train(recipe("ce", epochs=1), quadrants, tmp_path)
    assert seen == [("best.safetensors", True), ("last.safetensors", True)]
