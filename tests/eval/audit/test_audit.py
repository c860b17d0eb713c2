"""Adversarial images are stored for every broken sample, and whoever looks at them again finds what does not hold."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import advdpnp
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run as run_cli
from advdpnp.datasets import Dataset
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.audit.images import Auditor, UnitAudit
from advdpnp.eval.run.components import Components
from advdpnp.eval.store import commit as commit_module
from advdpnp.eval.store import writer as unit_writer
from advdpnp.eval.store.adversarial_images import SUFFIX, read_samples, to_table
from advdpnp.eval.store.commit import commit
from advdpnp.eval.store.data_files import EvaluationData, read_contents
from advdpnp.eval.store.index import INDEX, Index
from advdpnp.eval.store.reader import StoredEvaluation, find_results
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

CPU = torch.device("cpu")
Net = Callable[..., nn.Module]


SMALL = Components(static_batch_size=16)
Searches = list[tuple[str, list[int]]]
Recording = Callable[..., Components]


def evaluate(out: Path, data: Dataset, model: nn.Module, **arguments: Any) -> None:
    settings: dict[str, Any] = {"attacks": "fgsm,pgd-4", "eps": ["8/255"], "device": "cpu", "save_adversarials": True,
                                "components": SMALL}  # fmt: skip
    loaded = LoadedModel(model, "net", weights_hash(model), "Linear", "", 260, {})
    evaluate_models([loaded], data, out=out, **(settings | arguments))


def unit_of(out: Path, label: str = "pgd-4") -> StoredEvaluation:
    (unit,) = [unit for unit in find_results([out]) if unit.label == label]
    return unit


def images_of(unit: StoredEvaluation, data: Dataset) -> dict[int, Tensor]:
    parts = unit.adversarials(data.test.some_images, len(data.test))
    return {n: x for part in parts for n, x in zip(part.sample.tolist(), part.x_adv, strict=True)}


def broken(unit: StoredEvaluation) -> list[int]:
    frame = unit.verdicts.frame
    return frame[frame["success"] & (frame["clean_prediction"] == frame["label"])]["sample"].tolist()


def audit(out: Path, data: Dataset, model: nn.Module, label: str = "pgd-4") -> UnitAudit:
    return Auditor(model, data, CPU).audit(unit_of(out, label))


@pytest.fixture
def tamper(edit_images: Any) -> Callable[..., None]:
    """Change a stored difference of pgd-4, and its digest if ``honest``."""

    def tampered(out: Path, sample: int, change: Callable[[bytearray], Any], *, honest: bool = True) -> None:
        def changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            (row,) = [each for each in rows if each["sample"] == sample]
            difference = bytearray(row["difference"])
            change(difference)
            row["difference"] = bytes(difference)
            if honest:
                row["digest"] = hashlib.sha256(difference).digest()[:8]
            return rows

        edit_images(unit_of(out), changed)

    return tampered


@pytest.fixture
def put_images(edit_images: Any) -> Callable[..., None]:
    """Have other images, as they are, in the place of those of an evaluation."""

    def put(unit: StoredEvaluation, samples: list[int], x_adv: Tensor, differences: list[bytes] | None = None) -> None:
        table = to_table(np.array(samples), differences or [None] * len(samples), x_adv)
        edit_images(unit, lambda rows: table.to_pylist())

    return put


def forget_images(unit: StoredEvaluation) -> None:
    """Leave an evaluation as it is without ``--save-adversarials``."""
    contents = read_contents(unit.folder)
    assert contents is not None
    bare = replace(unit.record, saved=False)
    commit(contents, [EvaluationData(bare, contents.verdicts(unit.record), lambda: iter(()))])


# Storing


@pytest.mark.parametrize(("norm", "eps"), [("linf", "8/255"), ("linf", "0.022"), ("l2", "0.2")])
def test_the_image_of_every_broken_sample_is_stored_and_breaks_it(
    tmp_path: Path, data: Dataset, net: Net, norm: str, eps: str
) -> None:
    evaluate(tmp_path, data, net(), norm=norm, eps=[eps])
    threat = ThreatModel.parse(norm, eps)
    unit = unit_of(tmp_path)
    images = images_of(unit, data)
    assert sorted(images) == broken(unit)
    assert 5 < len(images) < 50
    index = torch.tensor(sorted(images))
    x, x_adv = data.test.images[index] / 255, torch.stack([images[int(n)] for n in index])
    assert bool(threat.contains(x, x_adv).all())
    with torch.no_grad():
        assert bool((net()(x_adv).argmax(1) != data.test.labels[index]).all())
    rounded = (x_adv * 255 - (x_adv * 255).round()).abs().flatten(1).amax(1) < 1e-3
    assert float(rounded.float().mean()) > 0.7


@pytest.mark.parametrize(
    ("norm", "eps", "attack"), [("l0", "40", "torchattacks:Pixle"), ("l1", "10", "torchattacks:EADL1")]
)
def test_images_under_l0_and_l1_are_stored_rounded_and_hold(
    tmp_path: Path, data: Dataset, net: Net, norm: str, eps: str, attack: str
) -> None:
    few = replace(data, test=replace(data.test, images=data.test.images[:16], labels=data.test.labels[:16]))
    evaluate(tmp_path, few, net(), norm=norm, eps=[eps], attacks=attack)
    found = audit(tmp_path, few, net(), attack)
    assert (found.images, found.faults, found.unsettled) == (found.holding, [], [])
    assert found.images
    frame = unit_of(tmp_path, attack).verdicts.frame
    attacked = frame[frame["clean_prediction"] == frame["label"]]
    assert (attacked["norm"][attacked["success"]] <= float(eps)).all()
    assert (attacked["norm"][attacked["success"]] > 0).all()


def test_the_option_changes_no_verdict_and_no_name(tmp_path: Path, data: Dataset, net: Net) -> None:
    evaluate(tmp_path / "with", data, net())
    evaluate(tmp_path / "without", data, net(), save_adversarials=False)
    one, other = (
        {unit.label + unit.hash: unit.frame for unit in find_results([tmp_path / d])} for d in ("with", "without")
    )
    assert one.keys() == other.keys()
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name])
    (with_images, without) = (unit_of(tmp_path / name) for name in ("with", "without"))
    assert (with_images.record.saved, without.record.saved) == (True, False)
    assert set(images_of(without, data)) == set(range(8)) & set(broken(without))  # for figures
    assert with_images.record.images > without.record.images == 8


def test_images_of_verdicts_that_are_there_are_made_by_searching_the_broken_samples_again(
    tmp_path: Path, data: Dataset, net: Net, recording: Recording
) -> None:
    evaluate(tmp_path / "whole", data, net())
    evaluate(tmp_path / "later", data, net(), save_adversarials=False)
    before = unit_of(tmp_path / "later").verdicts.path.read_bytes()
    searches: Searches = []
    evaluate(tmp_path / "later", data, net(), components=recording(searches))
    unit = unit_of(tmp_path / "later")
    assert searches == [(label, broken(unit_of(tmp_path / "later", label))) for label in ("fgsm", "pgd-4")]
    assert unit.verdicts.path.read_bytes() == before
    made, expected = images_of(unit, data), images_of(unit_of(tmp_path / "whole"), data)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[n], expected[n]) for n in made)
    evaluate(tmp_path / "later", data, net(), components=recording(searches))
    assert len(searches) == 2  # nothing is left to do


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_search_continues_to_the_same_images(
    tmp_path: Path, data: Dataset, net: Net, before: bool, recording: Recording
) -> None:
    evaluate(tmp_path / "whole", data, net())
    stopping = recording([], stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "torn", data, net(), save_adversarials=before, components=stopping)
    evaluate(tmp_path / "torn", data, net())
    made, expected = (images_of(unit_of(tmp_path / name), data) for name in ("torn", "whole"))
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[n], expected[n]) for n in made)
    pd.testing.assert_frame_equal(unit_of(tmp_path / "torn").frame, unit_of(tmp_path / "whole").frame)
    assert audit(tmp_path / "torn", data, net()).holds


@pytest.mark.parametrize("written", ["images", "verdicts", "the index"])
def test_no_verdict_is_without_its_image_wherever_a_writer_is_killed(
    tmp_path: Path, data: Dataset, net: Net, monkeypatch: pytest.MonkeyPatch, written: str, recording: Recording
) -> None:
    """The process dies just before it writes so and so of pgd-4."""
    write_images, write_part, finish = unit_writer.write_adversarials, unit_writer.write_part, commit_module._replace

    def dying(write: Callable[..., None], when: str) -> Callable[..., None]:
        def wrapped(path: Path, *rest: Any) -> None:
            if "pgd-4" in path.parent.name and when == written:
                raise KeyboardInterrupt
            write(path, *rest)

        return wrapped

    def dying_late(folder: Path, index: Index, new: Any) -> None:
        if any(record.identity["label"] == "pgd-4" for record in index.evaluations) and written == "the index":
            raise KeyboardInterrupt
        finish(folder, index, new)

    with monkeypatch.context() as patch:
        patch.setattr(unit_writer, "write_adversarials", dying(write_images, "images"))
        patch.setattr(unit_writer, "write_part", dying(write_part, "verdicts"))
        patch.setattr(commit_module, "_replace", dying_late)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, data, net())
    searches: Searches = []
    for path in tmp_path.rglob(".parts/pgd-4*/*.parquet"):
        frame = pq.read_table(path).to_pandas()
        needed = frame[frame["success"] & (frame["clean_prediction"] == frame["label"])]["sample"]
        assert set(needed) <= set(read_samples(path.with_suffix(SUFFIX)))
    assert "pgd-4" not in [unit.label for unit in find_results([tmp_path])]
    evaluate(tmp_path, data, net(), components=recording(searches))
    assert [len(samples) for _, samples in searches] == ([] if written == "the index" else [50])
    assert sorted(images_of(unit_of(tmp_path), data)) == broken(unit_of(tmp_path))
    assert audit(tmp_path, data, net()).holds


def test_a_larger_limit_keeps_the_images_that_are_there(tmp_path: Path, data: Dataset, net: Net) -> None:
    evaluate(tmp_path, data, net(), limit=20)
    few = images_of(unit_of(tmp_path), data)
    evaluate(tmp_path, data, net())
    images = images_of(unit_of(tmp_path), data)
    assert sorted(images) == broken(unit_of(tmp_path))
    assert 0 < len(few) < len(images)


def test_images_cannot_be_stored_without_an_attack(tmp_path: Path, data: Dataset, net: Net) -> None:
    with pytest.raises(AdvdpnpError, match="without an attack there are no adversarial images"):
        evaluate(tmp_path / "out", data, net(), attacks="none")
    assert not (tmp_path / "out").exists()


def test_an_attack_of_a_package_that_was_interrupted_without_images_begins_again(
    tmp_path: Path, data: Dataset, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advdpnp.eval.store.writer import VerdictWriter

    name, count = "pyautoattack:apgd-ce", 0
    checkpoint = VerdictWriter.checkpoint

    def stop(self: VerdictWriter, record: Any) -> None:
        nonlocal count
        checkpoint(self, record)
        count += 1
        if count == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VerdictWriter, "checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, data, net(), attacks=name, batch_size=16, save_adversarials=False)
    evaluate(tmp_path, data, net(), attacks=name, batch_size=16)
    assert sorted(images_of(unit_of(tmp_path, name), data)) == broken(unit_of(tmp_path, name))
    assert audit(tmp_path, data, net(), name).holds


def test_a_search_that_comes_out_otherwise_is_told_and_changes_nothing(tmp_path: Path, data: Dataset, net: Net) -> None:
    evaluate(tmp_path, data, net(), save_adversarials=False)
    before = unit_of(tmp_path).verdicts.path.read_bytes()
    lost = next(sample for sample in broken(unit_of(tmp_path)) if sample >= 8)  # the first ones have images anyway

    def weaker(*arguments: Any, **rest: Any) -> Iterator[AttackResult]:
        for found in search(*arguments, **rest):
            found.success[found.sample == lost] = False
            yield found

    with pytest.raises(AdvdpnpError, match=rf"left without an image \(sample {lost}\).*new folder"):
        evaluate(tmp_path, data, net(), components=replace(SMALL, search=weaker))
    assert unit_of(tmp_path).verdicts.path.read_bytes() == before
    assert set(images_of(unit_of(tmp_path), data)) == set(broken(unit_of(tmp_path))) - {lost}
    result = audit(tmp_path, data, net())
    assert [(fault.sample, "has no image" in fault.why) for fault in result.faults] == [(lost, True)]


@pytest.mark.slow
def test_minimum_norm_attacks_have_images_of_what_is_within_eps_alone(tmp_path: Path, data: Dataset, net: Net) -> None:
    evaluate(tmp_path, data, net(), attacks="cw-l2", norm="l2", eps=["0.3"], limit=12)
    unit = unit_of(tmp_path, "cw-l2")
    beyond = unit.frame[np.isfinite(unit.frame["norm"]) & ~unit.frame["success"]]
    assert len(beyond)
    assert sorted(images_of(unit, data)) == broken(unit) != []
    assert audit(tmp_path, data, net(), "cw-l2").holds


def test_an_evaluation_in_memory_returns_the_images(data: Dataset, net: Net) -> None:
    x, y = data.test.images, data.test.labels
    found = advdpnp.evaluate(net(), x, y, eps="8/255", attacks="fgsm", save_adversarials=True)
    stored = found.adversarials["fgsm"]
    verdicts = found.verdicts[(found.verdicts["attack"] == "fgsm") & found.verdicts["success"]]
    assert stored.sample.tolist() == verdicts["sample"].tolist() != []
    with torch.no_grad():
        assert bool((net()(stored.x_adv).argmax(1) != y[torch.from_numpy(stored.sample)]).all())
    again = advdpnp.evaluate(net(), x / 255, y, eps="8/255", attacks="fgsm", save_adversarials=True)
    assert again.adversarials["fgsm"].sample.tolist() == stored.sample.tolist()
    assert advdpnp.evaluate(net(), x, y, eps="8/255", attacks="fgsm").adversarials == {}


# Judging again


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what takes long is made once."""
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def stored(once: Path, tmp_path: Path, data: Dataset, net: Net) -> Path:
    if not (once / "stored").exists():
        evaluate(once / "stored", data, net())
    return shutil.copytree(once / "stored", tmp_path / "results")


def test_what_was_stored_holds(stored: Path, data: Dataset, net: Net) -> None:
    for label in ("clean", "fgsm", "pgd-4"):
        result = audit(stored, data, net(), label)
        unit = unit_of(stored, label)
        assert (result.holds, result.faults, result.unsettled) == (True, [], [])
        assert result.images == result.holding == (0 if label == "clean" else len(broken(unit)))
        assert result.broken.tolist() == unit.samples[unit.verdicts.frame["success"]].tolist()


def _clear(difference: bytearray) -> None:
    difference[:] = bytes(len(difference))


def _push(difference: bytearray) -> None:
    difference[7] = 100


@pytest.mark.parametrize(
    ("change", "honest", "why"),
    [
        (_clear, True, "does not fool the model"),
        (_push, True, "from the clean one, eps is 0.0313725"),
        (_clear, False, "changed since it was stored: its image does not fool"),
    ],
)
def test_an_image_that_was_tampered_with_is_named(
    stored: Path, data: Dataset, net: Net, change: Any, honest: bool, why: str, tamper: Callable[..., None]
) -> None:
    sample = broken(unit_of(stored))[3]
    tamper(stored, sample, change, honest=honest)
    result = audit(stored, data, net())
    assert [fault.sample for fault in result.faults] == [sample]
    assert why in result.faults[0].why
    assert sample not in result.broken


def test_an_image_that_is_written_again_unchanged_holds(
    stored: Path, data: Dataset, net: Net, tamper: Callable[..., None]
) -> None:
    sample = broken(unit_of(stored))[3]
    tamper(stored, sample, lambda difference: None)
    result = audit(stored, data, net())
    assert result.holds
    assert sample in result.broken


def test_a_single_bit_that_changed_by_itself_is_named_though_the_model_is_fooled_still(
    stored: Path, data: Dataset, net: Net, tamper: Callable[..., None]
) -> None:
    sample = broken(unit_of(stored))[0]

    def flip(difference: bytearray) -> None:
        place = next(i for i, value in enumerate(difference) if 0 < value < 8)
        difference[place] ^= 1

    tamper(stored, sample, flip, honest=False)
    (fault,) = audit(stored, data, net()).faults
    assert fault.sample == sample
    assert "changed since it was stored" in fault.why


def test_another_image_that_fools_the_model_supports_the_claim_as_well(
    stored: Path, data: Dataset, net: Net, tamper: Callable[..., None]
) -> None:
    other = images_of(unit_of(stored, "fgsm"), data)
    sample = next(n for n in broken(unit_of(stored)) if n in other)
    change = (255 * other[sample]).round().to(torch.uint8) - data.test.images[sample]
    tamper(stored, sample, lambda difference: difference.__setitem__(slice(None), change.numpy().tobytes()))
    assert audit(stored, data, net()).holds


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.001, 1.001])
def test_float_images_outside_the_box_do_not_hold(
    stored: Path, data: Dataset, net: Net, value: float, put_images: Callable[..., None]
) -> None:
    unit = unit_of(stored)
    images = images_of(unit, data)
    x_adv = torch.stack([images[n] for n in sorted(images)])
    x_adv[2, 0, 3, 3] = value
    put_images(unit, sorted(images), x_adv)
    (fault,) = audit(stored, data, net()).faults
    assert fault.sample == sorted(images)[2]
    assert ("[0, 1]" if abs(value) < 2 else "infinite") in fault.why


def test_missing_double_and_superfluous_images_are_named(
    stored: Path, data: Dataset, net: Net, edit_images: Any
) -> None:
    unit = unit_of(stored)
    samples = broken(unit)
    robust = unit.frame[~unit.frame["success"]]["sample"].tolist()[-1]

    def changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        by_sample = {row["sample"]: row for row in rows if row["sample"] in samples}
        kept = [by_sample[sample] for sample in samples[1:]]
        return [*kept, kept[0], kept[1] | {"sample": robust, "clean": None}]

    edit_images(unit, changed)
    why = {(fault.sample, fault.why.split(",")[0]) for fault in audit(stored, data, net()).faults}
    assert (samples[0], "it has no image") in why
    assert (samples[1], "it has two images") in why
    assert (robust, "it has an image") in why


def test_without_images_nothing_is_shown_and_that_is_said(stored: Path, data: Dataset, net: Net) -> None:
    forget_images(unit_of(stored))
    result = audit(stored, data, net())
    assert result.images is None
    assert not result.holds


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing", "cut", "verdicts", "gone"])
def test_damaged_files_of_images_are_one_sentence(stored: Path, data: Dataset, net: Net, content: bytes | str) -> None:
    unit = unit_of(stored)
    path = unit.images_path
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif content == "verdicts":
        path.write_bytes(unit.verdicts.path.read_bytes())
    elif content == "gone":
        path.unlink()
    else:
        path.write_bytes(content)  # type: ignore[arg-type]
    result = audit(stored, data, net())
    assert str(path) in result.faults[0].why
    assert not result.holds


def test_images_of_another_size_or_of_samples_out_of_range_are_refused(
    stored: Path, data: Dataset, net: Net, put_images: Callable[..., None]
) -> None:
    put_images(unit_of(stored), [0], torch.zeros(1, 3, 64, 64))
    assert "not of the size of the data set's" in audit(stored, data, net()).faults[0].why
    for samples in ([-1], [50], [0] * 60):
        put_images(unit_of(stored), samples, torch.zeros(len(samples), 1, 8, 8), [bytes(64)] * len(samples))
        assert "data set" in audit(stored, data, net()).faults[0].why


def test_samples_that_the_data_set_has_not_do_not_hold(stored: Path, data: Dataset, net: Net, edit_rows: Any) -> None:
    edit_rows(unit_of(stored), lambda frame: frame.__setitem__("sample", frame["sample"] + 9))
    assert any("data set has not" in fault.why for fault in audit(stored, data, net()).faults)


def test_verdicts_that_are_written_again_unchanged_hold(stored: Path, data: Dataset, net: Net, edit_rows: Any) -> None:
    edit_rows(unit_of(stored), lambda frame: None)
    assert audit(stored, data, net()).holds


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda record: record.update(eps_text="16/255"), "radius as it is written"),
        (lambda record: record["identity"].update(shape=17), "its hash is of"),
        (lambda record: record["identity"]["threat"].update(eps=0.5), "its hash is of"),
    ],
)
def test_an_evaluation_that_is_described_otherwise_is_refused(
    stored: Path, change: Any, why: str, edit_index: Any
) -> None:
    unit = unit_of(stored)
    place = [each.hash for each in find_results([stored])].index(unit.hash)
    edit_index(unit.folder / INDEX, lambda content: change(content["evaluations"][place]))
    with pytest.raises(AdvdpnpError, match=why):
        find_results([stored])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda frame: frame.__setitem__("sample", frame["sample"] * 0), "samples twice"),
        (lambda frame: frame.__setitem__("norm", np.inf), "no finite distance"),
        (lambda frame: frame.__setitem__("norm", np.nan), "have no norm"),
        (lambda frame: frame.update({"norm": frame["norm"].replace(np.inf, 0.01)}), "counts as robust, and an adv"),
        (
            lambda frame: frame.__setitem__("label", (frame["label"] + 1) % 4),
            "unchanged and counts as robust",
        ),
        (lambda frame: frame.__setitem__("label", frame["label"] + 1), "no class|misclassified unchanged"),
        (lambda frame: frame.__setitem__("clean_prediction", (frame["label"] + 1) % 4), "misclassified unchanged"),
        (
            lambda frame: frame.__setitem__("adversarial_prediction", frame["label"]),
            "image is classified right",
        ),
        (lambda frame: frame.__setitem__("success", False), "counts as robust, and its adversarial image"),
        (lambda frame: frame.__setitem__("success", True), "counts as broken, and its adversarial image"),
        (lambda frame: frame.__setitem__("sample", frame["sample"] - 9), "sample that is none"),
    ],
)
def test_verdicts_that_no_search_can_have_written_are_refused(
    stored: Path, change: Any, why: str, edit_rows: Any
) -> None:
    edit_rows(unit_of(stored), change)
    with pytest.raises(AdvdpnpError, match=why):
        find_results([stored])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("runs"),
        lambda content: content["evaluations"][0].update(identity=5),
        lambda content: content["evaluations"][0]["identity"].update(threat={}),
        lambda content: content["evaluations"][0].update(rows=-1),
        lambda content: content["evaluations"][0].update(rows=49),
        lambda content: content["evaluations"][0].update(runs=[]),
        lambda content: content["evaluations"].append(content["evaluations"][0]),
        lambda content: content["files"].update(other=content["files"]["attacks"]),
    ],
)
def test_an_index_that_contradicts_itself_is_damaged(stored: Path, change: Any, edit_index: Any) -> None:
    edit_index(unit_of(stored).folder / INDEX, change)
    with pytest.raises(AdvdpnpError, match=r"units\.json is damaged"):
        find_results([stored])


def test_images_that_are_nearly_tied_are_told_apart_from_failures(
    stored: Path, data: Dataset, net: Net, put_images: Callable[..., None]
) -> None:
    """The image is moved onto the decision boundary, a hair on the wrong side of it."""
    unit = unit_of(stored)
    sample = broken(unit)[0]
    images, model = images_of(unit, data), net()
    clean, label = data.test.images[sample : sample + 1] / 255, int(data.test.labels[sample])
    low, high = 0.0, 1.0  # of the way to the image that fools the model
    for _ in range(40):
        middle = (low + high) / 2
        with torch.no_grad():
            misclassified = int(model(clean + middle * (images[sample] - clean)).argmax()) != label
        low, high = (low, middle) if misclassified else (middle, high)
    x_adv = torch.stack(
        [images[n] if n != sample else (clean + low * (images[sample] - clean))[0] for n in sorted(images)]
    )
    put_images(unit, sorted(images), x_adv)
    result = audit(stored, data, net())
    assert result.holds
    assert [(each.sample, "borderline" in each.why) for each in result.unsettled] == [(sample, True)]
    assert result.holding == len(images) - 1
    assert sample in result.broken


class Noisy(nn.Module):
    """A net whose answers are random, so that some images fool it only at times."""

    def __init__(self, model: nn.Module, noise: float) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + self.noise * torch.randn_like(logits)


class BatchDependent(Noisy):
    """A net that subtracts the mean of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.model(x - self.noise * x.mean(0, keepdim=True))
        return answer


@pytest.mark.parametrize(("kind", "caution"), [(Noisy, "random"), (BatchDependent, "dependent on the batch")])
def test_answers_that_cannot_be_repeated_are_judged_with_that_said(
    tmp_path: Path, data: Dataset, net: Net, kind: Any, caution: str, tamper: Callable[..., None]
) -> None:
    model = kind(net(), 0.3).eval()
    evaluate(tmp_path, data, model, attacks="pgd-4")
    auditor = Auditor(model, data, CPU)
    assert caution in auditor.caution
    result = auditor.audit(unit_of(tmp_path))
    assert result.images
    assert result.holding > 0.6 * result.images
    for sample in broken(unit_of(tmp_path))[:1]:
        tamper(tmp_path, sample, _clear)  # such a model is no excuse for images that never fool it
        named = [fault.sample for fault in Auditor(kind(net(), 0.01).eval(), data, CPU).audit(unit_of(tmp_path)).faults]
        assert sample in named


# The command


MODULE = """
import torch
from torch import nn
from advdpnp.datasets import load_dataset

def make(seed=0):
    data = load_dataset("digits", validation=0)
    x, y = data.train.images.flatten(1) / 255, data.train.labels
    means = torch.stack([x[y == c].mean(0) for c in range(10)]) + seed
    net = nn.Sequential(nn.Flatten(), nn.Linear(x.shape[1], 10))
    with torch.no_grad():
        net[1].weight.copy_(means)
        net[1].bias.copy_(-means.square().sum(1) / 2)
    return net

def other():
    return make(1)
"""


@pytest.fixture
def evaluated(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net_to_audit.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    if (once / "evaluated").exists():
        return shutil.copytree(once / "evaluated", tmp_path / "results")
    command = "eval --dataset digits --model net_to_audit:make --attacks fgsm,pgd-4 --eps 0.05 --limit 24 --device cpu"
    assert run_cli([*command.split(), "--out", "results", "--save-adversarials"]) == 0
    return shutil.copytree(tmp_path / "results", once / "evaluated") and tmp_path / "results"


def verify(capsys: pytest.CaptureFixture[str], *arguments: str, model: str = "make") -> tuple[int, str]:
    capsys.readouterr()
    code = run_cli(["verify", *arguments, "--model", f"net_to_audit:{model}", "--device", "cpu"])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_command_says_what_holds(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verify(capsys, "results")
    count = len(broken(unit_of(evaluated)))
    clean = int((~unit_of(evaluated, "clean").verdicts.frame["success"]).sum())
    assert code == 0
    assert f"{count} images, all hold; {count} of 24 samples broken, {24 - clean} misclassified unchanged" in said
    assert f"24 clean images, predictions as stored; {24 - clean} misclassified" in said
    assert "as in leaderboard.csv" in said
    assert "all of it holds" in said
    (folder,) = evaluated.glob("make-*")
    for path in (folder, unit_of(evaluated).verdicts.path, unit_of(evaluated).images_path):
        code, said = verify(capsys, str(path), "--json", "report.json")
        assert code == 0
    report = json.loads(Path("report.json").read_text())
    assert {unit["unit"]: unit["images_that_hold"] for unit in report["models"][0]["units"]} == {
        "clean": 0, "fgsm, linf 0.05": len(broken(unit_of(evaluated, "fgsm"))), "pgd-4, linf 0.05": count,
    }  # fmt: skip


def test_the_command_names_what_does_not_hold(
    evaluated: Path, capsys: pytest.CaptureFixture[str], tamper: Callable[..., None]
) -> None:
    sample = broken(unit_of(evaluated))[1]
    tamper(evaluated, sample, _clear)
    forget_images(unit_of(evaluated, "fgsm"))
    code, said = verify(capsys, "results")
    assert code == 1
    assert f"sample {sample}: its image does not fool the model" in said
    assert "pgd-4 is" in said  # the leaderboard's number is another one now
    assert "images of misclassified samples were not stored; run eval with --save-adversarials" in said
    assert "NOT all of it holds" in said


def test_a_damaged_model_names_itself_and_the_others_are_verified(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (good,) = evaluated.glob("make-*")
    other = Path(shutil.copytree(good, evaluated / "other-00000000"))
    (other / "model.json").write_text('{"name": 5}')
    code, said = verify(capsys, "results", "--json", "report.json")
    assert code == 1
    assert "images, all hold" in said
    assert "model.json is damaged (name cannot be 5" in " ".join(said.split())
    assert "NOT all of it holds" in said
    report = json.loads(Path("report.json").read_text())
    assert [len(report["models"]), len(report["damaged"]), report["holds"]] == [1, 1, False]
    shutil.rmtree(good)
    code, said = verify(capsys, "results")
    assert code == 2
    assert "model.json is damaged" in " ".join(said.split())


def test_the_command_tells_what_is_not_shown_from_what_does_not_hold(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_images(unit_of(evaluated))
    code, said = verify(capsys, "results", "--replay", "all")
    assert code == 0  # what images would show, the search does
    assert "not drawn" not in said
    code, said = verify(capsys, "results", "--replay", "1")
    assert code == 1
    said = " ".join(said.split())
    assert "not checked: the samples that were not drawn" in said
    assert "Incomplete: broken samples of pgd-4 have no stored image and were not searched again (--replay all" in said
    assert "as in leaderboard.csv (pgd-4: by the verdicts alone)" in said


def test_a_leaderboard_that_was_embellished_is_seen(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(evaluated / "leaderboard.csv", dtype=str)
    table["pgd-4"] = "99.00"
    table.to_csv(evaluated / "leaderboard.csv", index=False)
    code, said = verify(capsys, "results")
    assert code == 1
    assert "pgd-4 is 99.00 in leaderboard.csv" in said
    for broken_table in ("model\nx\n", table.assign(n="10.5").to_csv(index=False)):
        (evaluated / "leaderboard.csv").write_text(broken_table)
        code, said = verify(capsys, "results")
        assert code == 1
        assert "leaderboard.csv is damaged" in said


def test_rows_that_do_not_tell_where_they_come_from_are_named(
    evaluated: Path, capsys: pytest.CaptureFixture[str], edit_index: Any
) -> None:

    def changed(content: dict[str, Any]) -> None:
        content["runs"].append(content["runs"][0] | {"versions": {}, "device": ""})
        (record,) = [each for each in content["evaluations"] if each["identity"]["label"] == "pgd-4"]
        record["runs"][0][0] = len(content["runs"]) - 1

    edit_index(unit_of(evaluated).folder / INDEX, changed)
    code, said = verify(capsys, "results")
    assert code == 1
    assert "pgd-4 does not tell its versions, device" in said


def test_a_damaged_evaluation_does_not_hide_the_others(
    evaluated: Path, capsys: pytest.CaptureFixture[str], edit_rows: Any
) -> None:
    edit_rows(unit_of(evaluated, "fgsm"), lambda frame: frame.__setitem__("norm", np.inf))
    code, said = verify(capsys, "results")
    assert code == 1
    assert "no finite distance" in said
    assert "images, all hold" in said
    assert "cannot be made again" in said


def test_a_damaged_file_is_named(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = unit_of(evaluated).verdicts.path
    path.write_bytes(path.read_bytes()[:-20])
    code, said = verify(capsys, "results")
    assert code == 1
    assert "is damaged" in said
    assert "cannot be made again" in said


@pytest.mark.parametrize("gone", ["", "linf"])
def test_missing_measurements_are_told(
    evaluated: Path, capsys: pytest.CaptureFixture[str], gone: str, edit_index: Any
) -> None:
    (evaluated / "leaderboard.csv").unlink()

    def forget(content: dict[str, Any]) -> None:
        content["diagnostics"] = [each for each in content["diagnostics"] if each["norm"] != gone]

    edit_index(unit_of(evaluated).folder / INDEX, forget)
    code, said = verify(capsys, "results")
    assert code == 1
    assert "the measurements that flags come from are missing" in said
    assert "Incomplete: some results are missing; no check failed" in said
    assert run_cli(["leaderboard", "results"]) == 0
    assert "sanity checks were not measured for" in capsys.readouterr().out
    for name in ("leaderboard.md", "leaderboard.html"):
        assert "anity checks were not measured for" in (evaluated / name).read_text(encoding="utf-8")


def test_missing_clean_verdicts_are_told(
    evaluated: Path, capsys: pytest.CaptureFixture[str], copy_evaluation: Any
) -> None:
    (folder,) = evaluated.glob("make-*")
    for unit in find_results([evaluated]):
        if unit.threat is not None:
            copy_evaluation(unit, evaluated / "part" / folder.name)
    code, said = verify(capsys, "results/part")
    assert code == 1
    assert "the verdicts on clean images are missing" in said
    assert "Incomplete: some results are missing; no check failed" in said


def test_bad_input_is_one_sentence(evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "sealed" / "other").mkdir(parents=True)
    (tmp_path / "sealed" / "other" / "seal.json").write_text("{}", encoding="utf-8")  # of somebody else, and damaged
    for arguments, model, sentence in (
        (["results"], "other", "or with --model and the --weights, --mean and --std of the evaluation"),
        (["nowhere"], "make", "there is no file or folder nowhere"),
        (["sealed/nowhere"], "make", "there is no file or folder sealed/nowhere"),
        (["empty"], "make", "there are no verdicts in empty"),
        (["net_to_audit.py"], "make", "is no verdict file"),
        (["results", "--dataset", "digitz"], "make", "digits"),
    ):
        code, said = verify(capsys, *arguments, model=model)
        assert code == 2
        assert said.startswith("advdpnp: ")
        assert sentence in said
        assert said.count("\n") == 1
    assert run_cli(["verify", "results"]) == 2
    assert "no model is given" in capsys.readouterr().err
