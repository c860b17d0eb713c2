"""Checkpoints and foreign weights: exact round trips, damage named in a sentence, nothing in a file is ever run."""

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import ModelConfig, Network, build_model
from advdpnp.models.checkpoint import has_header, load_checkpoint, save_checkpoint, weights_hash
from advdpnp.models.header import FORMAT
from advdpnp.models.weights import load_into, read_state_dict

HEADER = {"name": "trial", "dataset": "cifar10", "method": "adv-dpnp", "class_names": ["a"], "metrics": {"pgd": 0.5}}


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    model = build_model(ModelConfig("small-cnn", 10, 3, (32, 32), 3, "prototype", 4.0, mean, std))
    model.train()(torch.rand(8, 3, 32, 32))  # so that BatchNorm's buffers are not those of a fresh net
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, network(), HEADER)
    return path


def rewrite_header(path: Path, change: dict[str, object] | None) -> None:
    header = load_checkpoint(path)[1]
    tensors = load_file(path)
    path.unlink()
    save_file(tensors, path, metadata=None if change is None else {"advdpnp": json.dumps({**header, **change})})


def test_the_round_trip_is_exact_in_weights_logits_and_header(tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "deep" / "net.safetensors"
    save_checkpoint(path, model, HEADER)
    loaded, header = load_checkpoint(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(loaded(x), model.eval()(x))
    assert not loaded.training
    assert {key: header[key] for key in HEADER} == HEADER
    assert header["format"] == FORMAT
    assert header["versions"]["torch"]
    assert loaded.config == model.config
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


def test_channels_last_weights_are_saved_alike(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "last.safetensors"
    save_checkpoint(other, network().to(memory_format=torch.channels_last), HEADER)
    assert other.read_bytes() == saved.read_bytes()


def test_loading_leaves_the_global_generator_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load_checkpoint(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_hash_is_of_the_weights_alone(saved: Path) -> None:
    model = network()
    first = weights_hash(model)
    assert len(first) == 64
    assert weights_hash(load_checkpoint(saved)[0]) == first
    assert weights_hash(model.eval().to(memory_format=torch.channels_last)) == first
    model.requires_grad_(False)
    assert weights_hash(model) == first


@pytest.mark.parametrize("name", ["head.prototypes", "backbone.stages.1.running_mean", "normalise.std"])
def test_the_hash_changes_with_any_one_value(name: str) -> None:
    model = network()
    first = weights_hash(model)
    tensor = model.state_dict()[name].flatten()
    tensor[0] = torch.nextafter(tensor[0], torch.tensor(9.0))
    assert weights_hash(model) != first


def test_the_hash_sees_buffers_outside_the_state_dict_and_types() -> None:
    model = nn.Linear(2, 2)
    first = weights_hash(model)
    model.register_buffer("mean", torch.zeros(1), persistent=False)
    second = weights_hash(model)
    assert second != first
    assert weights_hash(model.half()) != second


def test_a_run_folder_means_its_best_checkpoint(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(AdvdpnpError, match=r"run has no best\.safetensors"):
        load_checkpoint(run)
    (run / "last.safetensors").write_bytes(saved.read_bytes())
    with pytest.raises(AdvdpnpError, match=r"name .*last\.safetensors instead"):
        load_checkpoint(run)
    (run / "best.safetensors").write_bytes(saved.read_bytes())
    assert load_checkpoint(run)[1]["name"] == "trial"


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(AdvdpnpError, match="there is no file"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [9, 40, 2000, -1])
def test_a_truncated_checkpoint_is_said_to_be_cut_short(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(AdvdpnpError, match="truncated or damaged"):
        load_checkpoint(saved)


def test_an_empty_file_is_said_to_be_empty(saved: Path) -> None:
    saved.write_bytes(b"")
    with pytest.raises(AdvdpnpError, match="is empty"):
        load_checkpoint(saved)


def test_other_files_are_not_checkpoints(tmp_path: Path, saved: Path) -> None:
    foreign = tmp_path / "weights.pt"
    torch.save(network().state_dict(), foreign)
    with pytest.raises(AdvdpnpError, match=r"--weights .*weights\.pt"):
        load_checkpoint(foreign)
    rewrite_header(saved, None)
    assert not has_header(saved)
    with pytest.raises(AdvdpnpError, match="no header of this program"):
        load_checkpoint(saved)


def test_a_newer_format_asks_for_an_update(saved: Path) -> None:
    rewrite_header(saved, {"format": FORMAT + 1})
    with pytest.raises(AdvdpnpError, match=f"format {FORMAT + 1}.*update advdpnp"):
        load_checkpoint(saved)


@pytest.mark.parametrize("change", [{"format": "new"}, {"format": None}])
def test_a_damaged_header_is_named(saved: Path, change: dict[str, object]) -> None:
    rewrite_header(saved, change)
    with pytest.raises(AdvdpnpError, match=r"header of .* is damaged"):
        load_checkpoint(saved)


@pytest.mark.parametrize("model", [None, {}, {"architecture": "small-cnn"}, [1], "damaged"])
def test_a_header_without_a_whole_model_is_named(saved: Path, model: object) -> None:
    whole = load_checkpoint(saved)[1]["model"]
    rewrite_header(saved, {"model": {**whole, "classes": "ten"} if model == "damaged" else model})
    with pytest.raises(AdvdpnpError, match=r"header of .* is damaged \(model"):
        load_checkpoint(saved)


def test_weights_that_do_not_fit_are_listed_by_name(saved: Path) -> None:
    tensors = load_file(saved)
    header = load_checkpoint(saved)[1]
    tensors["head.old"] = tensors.pop("head.prototypes")
    tensors["projection.bias"] = torch.zeros(7)
    saved.unlink()
    save_file(tensors, saved, metadata={"advdpnp": json.dumps(header)})
    with pytest.raises(AdvdpnpError) as caught:
        load_checkpoint(saved)
    for part in ("missing: head.prototypes", "unexpected: head.old", "of another shape: projection.bias 7 for 3"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = network()
    model.head.prototypes.data[0, 0] = torch.nan
    save_checkpoint(tmp_path / "nan.safetensors", model, HEADER)
    with pytest.raises(AdvdpnpError, match=r"not finite \(head.prototypes\)"):
        load_checkpoint(tmp_path / "nan.safetensors")


# Foreign weights


def tensors() -> dict[str, torch.Tensor]:
    return {"0.weight": torch.arange(6.0).reshape(3, 2), "0.bias": torch.ones(3)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return OrderedDict((prefix + name, tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize(
    "content",
    [
        tensors(),
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."),
        {"state_dict": tensors(), "epoch": 3, "best_prec1": 91.7},
        {"net": prefixed("module."), "acc": 0.9},
        {"model": tensors(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        {"model_state_dict": tensors(), "loss": torch.tensor(0.5)},
        {"model": {"state_dict": tensors()}},
        {"state_dict": [tensors()], "epoch": 3, "sampler_indices": []},
        [tensors()],
    ],
)
def test_every_common_wrapper_is_taken_off(content: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.th"
    torch.save(content, path)
    found = read_state_dict(path)
    assert list(found) == ["0.weight", "0.bias"]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_old_pickle_files_and_safetensors_are_read_whatever_their_suffix(tmp_path: Path) -> None:
    torch.save({"state_dict": tensors()}, tmp_path / "old.model", _use_new_zipfile_serialization=False)
    save_file(tensors(), tmp_path / "new.pt")
    assert set(read_state_dict(tmp_path / "old.model")) == set(read_state_dict(tmp_path / "new.pt")) == set(tensors())


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_not_run(zipped: bool, wrapped: bool, tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "evil.pth"
    evil = Malicious(target)
    torch.save({"state_dict": tensors(), "x": evil} if wrapped else evil, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AdvdpnpError, match=r"would run code when opened \(it asks for \w+\.mkdir\), so it was"):
        read_state_dict(path)
    assert not target.exists()


def test_a_bare_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    target, path = tmp_path / "created", tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Malicious(target)))
    for read in (read_state_dict, load_checkpoint):
        with pytest.raises(AdvdpnpError):
            read(path)
    assert not target.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(AdvdpnpError, match="would run code"):
        read_state_dict(tmp_path / "model.pt")


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "model.pt")
    with pytest.raises(AdvdpnpError, match="TorchScript"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [1, 20, 200, -50])
def test_cut_foreign_files_are_one_sentence(zipped: bool, keep: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {"w": torch.rand(100, 10)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdvdpnpError, match=r"truncated|damaged") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [3, [], {}, {"epoch": 1, "loss": 0.5}, [tensors(), tensors()], torch.zeros(3)])
def test_files_without_weights_say_what_they_hold(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(AdvdpnpError, match="has no weights"):
        read_state_dict(tmp_path / "other.pt")


def test_numbers_and_texts_are_not_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "page.html").write_text("<html>quota exceeded</html>")
    for name in ("array.npy", "page.html"):
        with pytest.raises(AdvdpnpError, match="not a PyTorch file"):
            read_state_dict(tmp_path / name)
    with pytest.raises(AdvdpnpError, match="is a folder"):
        read_state_dict(tmp_path)


def test_loading_is_all_or_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(AdvdpnpError, match=r"missing: 1\.weight, 1\.bias, 1\.running_mean, 1\.running_var\)"):
        load_into(model, tensors(), Path("weights.pt"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_lists_of_names_are_cut() -> None:
    with pytest.raises(AdvdpnpError, match=r"unexpected: a0, a1, a2, a3, a4 and 3 more"):
        load_into(nn.Identity(), {f"a{i}": torch.zeros(1) for i in range(8)}, Path("weights.pt"))


def test_half_precision_weights_are_read_into_full_ones() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    load_into(model, {name: tensor.half() for name, tensor in tensors().items()}, Path("weights.pt"))
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, tensors()["0.weight"])
