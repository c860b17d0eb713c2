"""The verdict store under any sequence of additions, crashes, processes and continuations; names from any labels."""

import copy
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.untrusted.columns import RESERVED
from advdpnp.eval.store.key import EvaluationKey, file_name
from advdpnp.eval.store.model_folder import open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import find_results
from advdpnp.eval.store.writer import VerdictWriter

NET = ModelRecord("net", "ab" * 32)
UNIT = EvaluationKey("pgd-20", "d" * 64, ThreatModel.parse("linf", "8/255"), {"seed": 0})
SAMPLES = np.arange(12)
FACTS = {"dataset": "digits", "seed": 0, "randomised": False, "versions": {}, "device": "cpu", "command": "x"}

quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def found(samples: list[int], forwards: int = 0) -> dict[str, np.ndarray]:
    """Verdicts that are a function of the sample, but for ``forwards``; every third is broken, within eps."""
    index = np.array(samples, dtype=np.int64)
    none, broken = np.zeros(len(index), dtype=bool), index % 3 == 0
    label = index % 10
    return {
        "sample": index, "label": label, "clean_prediction": label,
        "adversarial_prediction": np.where(broken, (label + 1 + index % 7) % 10, label),
        "success": broken, "norm": np.where(broken, index / 1e5, np.inf), "margin": (index / 7).astype(np.float32),
        "forwards": np.full(len(index), forwards), "backwards": index, "zero_gradient": none, "borderline": none,
        "stage": index * 0, "refused": index * 0,
    }  # fmt: skip


def add(writer: VerdictWriter, samples: list[int], forwards: int = 0) -> None:
    """As a search does it: with the images that the writer wants."""
    index = np.array(samples, dtype=np.int64)
    places = writer.wants_images(index)
    x = np.broadcast_to(index[places, None, None, None] / 100, (len(places), 1, 2, 2)).astype(np.float32)
    writer.add(found(samples, forwards), places, x, x + 0.1)


class Stopped(BaseException):
    """Stands for Ctrl-C."""


names = st.text(min_size=1, max_size=255).filter(lambda name: name.isprintable())
labels_of_attacks = names.filter(lambda name: name not in RESERVED and not name.endswith(("_low", "_high")))
subsets = st.lists(st.sampled_from(SAMPLES.tolist()), min_size=1, unique=True)
sessions = st.fixed_dictionaries(
    {
        "adds": st.lists(st.tuples(subsets, st.booleans()), max_size=4),  # samples, and whether they reach the disk
        "ends": st.sampled_from(["stopped", "killed", "killed while writing", "killed after compaction"]),
    }
)


def disturbed(out: Path, session: dict[str, Any], forwards: int = 0) -> None:
    """One process that adds verdicts and ends badly."""
    with open_model(out, NET) as folder:
        writer = VerdictWriter(folder.parts_folder(UNIT), UNIT, FACTS)
        for samples, flushed in session["adds"]:
            missing = sorted(set(samples) - set(folder.stored(UNIT).tolist()))  # a search asks what there is
            if missing:
                add(writer, missing, forwards)
            if flushed:
                writer.flush()
        if session["ends"] == "stopped":
            writer.flush()
        elif session["ends"] == "killed while writing":
            writer.flush()
            parts = folder.parts_folder(UNIT)
            parts.mkdir(parents=True, exist_ok=True)
            (parts / ".000009.parquet.abcdefgh.tmp").write_bytes(b"PAR1 and no more")
            (folder.path / ".attacks.parquet.new.abcdefgh.tmp").write_bytes(b"PAR1")
            (folder.path / "attacks.parquet.new").write_bytes(b"PAR1 and other verdicts")
        elif session["ends"] == "killed after compaction" and len(folder.stored(UNIT)):
            writer.flush()
            parts = folder.parts_folder(UNIT)
            kept = {path.name: path.read_bytes() for path in parts.glob("*")} if parts.exists() else {}
            with folder.writer(UNIT, folder.stored(UNIT), FACTS):
                pass
            parts.mkdir(parents=True, exist_ok=True)
            for name, content in kept.items():
                (parts / name).write_bytes(content)


def finished(out: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray], Path]:
    """One process that does what is left to do."""
    with open_model(out, NET) as folder, folder.writer(UNIT, SAMPLES, FACTS) as writer:
        missing = np.setdiff1d(SAMPLES, folder.stored(UNIT)).tolist()
        if missing:
            add(writer, missing)
    (unit,) = find_results([out])
    return unit.verdicts.frame, unit.examples(), folder.path


@quick
@given(st.lists(sessions, max_size=5))
def test_any_sequence_of_crashes_ends_in_the_verdicts_of_one_undisturbed_writer(story):
    with tempfile.TemporaryDirectory() as root:
        for session in story:
            disturbed(Path(root, "disturbed"), session)
        frame, images, folder = finished(Path(root, "disturbed"))
        expected, expected_images, _ = finished(Path(root, "straight"))
        pd.testing.assert_frame_equal(frame, expected)
        assert images.keys() == expected_images.keys()
        for name, values in expected_images.items():
            np.testing.assert_array_equal(images[name], values)
        assert len(images["sample"]) == 8
        assert len(list(folder.glob("*.parquet*"))) == 2
        assert not (folder / ".parts").exists()
        assert not list(folder.rglob("*.tmp"))


@quick
@given(st.lists(st.tuples(subsets, st.booleans()), min_size=1, max_size=6))
def test_a_sample_that_is_judged_again_counts_once_and_as_it_was_first(additions):
    """Whoever adds without asking what there is changes nothing."""
    with tempfile.TemporaryDirectory() as root:
        first: dict[int, int] = {}
        for turn, (samples, stops) in enumerate(additions):
            with open_model(Path(root), NET) as folder:
                writer = VerdictWriter(folder.parts_folder(UNIT), UNIT, FACTS)
                add(writer, samples, forwards=turn)
                writer.flush()
                if stops:  # leaves a complete file of what there is
                    with folder.writer(UNIT, folder.stored(UNIT), FACTS):
                        pass
            for sample in samples:
                first.setdefault(sample, turn)
        with open_model(Path(root), NET) as folder:
            with folder.writer(UNIT, np.array(sorted(first)), FACTS):
                pass
            frame = folder.read(UNIT).frame
        assert frame["sample"].tolist() == sorted(first)
        assert frame["forwards"].tolist() == [first[sample] for sample in sorted(first)]


@quick
@given(
    names.filter(lambda name: name not in RESERVED),
    names,
    st.sampled_from(["8/255", "0.5", "1e-3", "4 / 255", "000.125"]),
)
def test_any_label_and_name_give_files_that_every_system_takes(label, name, eps):
    unit = EvaluationKey(label, "d" * 64, ThreatModel.parse("linf", eps), {})
    for text in (file_name(label), file_name(name), unit.stem):
        assert re.fullmatch(r"[A-Za-z0-9+_@-][A-Za-z0-9+_@.-]*", text)
        assert not text.endswith(".")
    assert len(unit.stem) <= 255
    with tempfile.TemporaryDirectory() as root, open_model(Path(root), ModelRecord(name, "ab" * 32)) as folder:
        assert folder.path.parent == Path(root)
        with folder.writer(unit, np.arange(2), FACTS) as writer:
            writer.add(found([0, 1]))
        (stored,) = find_results([Path(root)])
        assert (stored.label, stored.model.name) == (label, name)
        assert {path.parent for path in Path(root).rglob("*.parquet")} == {folder.path}


_leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_json = st.recursive(_leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
definitions = st.dictionaries(st.text().filter(lambda key: key not in ("label", "data", "threat")), _json, min_size=1)
threats = st.sampled_from([None, *(ThreatModel.parse("linf", e) for e in ("0.1", "0.3"))])
units = st.builds(EvaluationKey, labels_of_attacks, st.text(), threats, definitions)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand that hold no other value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [leaf for key, each in inner for leaf in leaves(each, (*path, key))]
    return below or [path]


@quick
@given(units, st.data())
def test_another_value_anywhere_is_another_unit(unit, data):
    definition = copy.deepcopy(dict(unit.definition))
    *way, last = data.draw(st.sampled_from(leaves(definition)))
    holder: Any = definition
    for key in way:
        holder = holder[key]
    other = data.draw(_leaf)
    assume(repr(other) != repr(holder[last]))
    holder[last] = other
    changed = [
        EvaluationKey(unit.label, unit.data, unit.threat, definition),
        EvaluationKey(unit.label + "x", unit.data, unit.threat, unit.definition),
        EvaluationKey(unit.label, unit.data + "x", unit.threat, unit.definition),
        EvaluationKey(unit.label, unit.data, ThreatModel.parse("linf", "0.2"), unit.definition),
        EvaluationKey(unit.label, unit.data, ThreatModel.parse("l2", "0.1"), unit.definition),
        EvaluationKey(unit.label, unit.data, unit.threat, {**unit.definition, "one more": 1}),
    ]
    changed = [each for each in changed if repr(each.identity) != repr(unit.identity)]
    assert unit.hash not in [each.hash for each in changed]


def turned_round(value: Any) -> Any:
    """The same value with the entries of all dictionaries in the opposite order."""
    if isinstance(value, dict):
        return {key: turned_round(each) for key, each in reversed(value.items())}
    return [turned_round(each) for each in value] if isinstance(value, list) else value


@quick
@given(units)
def test_neither_order_nor_spelling_makes_another_unit(unit):
    threat = unit.threat and ThreatModel.parse("linf", f"{10 * unit.threat.eps:.0f}/10")
    same = EvaluationKey(unit.label, unit.data, threat, turned_round(unit.definition))
    assert threat is None or threat.text != unit.threat.text
    assert same.hash == unit.hash
