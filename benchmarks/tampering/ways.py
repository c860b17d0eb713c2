"""The ways, each with what should notice it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advdpnp.attacks import resolve_attacks
from advdpnp.attacks.threat import ThreatModel
from benchmarks.tampering.forger import Change, Evaluation, edit_index, edit_model, forge
from benchmarks.tampering.way import BELIEVED, LAST_BITS, NOTHING, PLAN, Way
from benchmarks.tampering.wrong_types import wrong_types

ATTACKS = ("fgsm", "pgd-20", "cw", "autoattack")
EPS = "0.05"


def _on(label: str, change: Callable[[Evaluation], Any]) -> Callable[[Path], None]:
    return lambda folder: forge(folder, lambda found: change(found[label]))


def _on_all(change: Callable[[Evaluation], Any]) -> Callable[[Path], None]:
    def every(found: dict[str, Evaluation]) -> None:
        for each in found.values():
            change(each)

    return lambda folder: forge(folder, every)


def _set(column: str, value: Any, *, where: str = "first") -> Callable[[Evaluation], None]:
    """Set a column of the first sample, of all, or of the first broken or robust one."""

    def change(each: Evaluation) -> None:
        frame = each.frame
        chosen = {
            "first": frame.index[:1], "all": frame.index, "broken": frame.index[each.broken][:1],
            "robust": frame.index[~frame["success"]][:1],
        }[where]  # fmt: skip
        frame.loc[chosen, column] = value(frame.loc[chosen, column]) if callable(value) else value

    return change


def all_ways() -> Iterator[Way]:
    """Every way."""
    for label in ATTACKS:
        yield from _rows(label)
        yield from _identity(label)
    yield from _whole()
    yield from _metadata()
    yield from _models()
    yield from _measurements()
    yield from _folders()
    yield from wrong_types()


def _right(each: Evaluation) -> None:
    each.frame["adversarial_prediction"] = each.frame["label"]


def _tells(**values: Any) -> Callable[[Evaluation], None]:
    """Change what is said beside the definition."""
    return lambda each: each.record["metadata"].update(values)


def _rows(label: str) -> Iterator[Way]:
    def robust(each: Evaluation, *, some: bool) -> None:
        which = each.broken
        each.claim_robust(which & (which.cumsum() <= which.sum() // 2) if some else which)

    changes: dict[str, Callable[[Evaluation], Any]] = {
        "successes become survivals": _set("success", False, where="all"),
        "one success becomes a survival": _set("success", False, where="broken"),
        "half of the successes become survivals, without a trace": lambda each: robust(each, some=True),
        "all successes become survivals, without a trace": lambda each: robust(each, some=False),
        "the images of successes are dropped": lambda each: each.drop_images(each.frame.loc[each.broken, "sample"]),
        "a survival becomes a success": _set("success", True, where="robust"),
        "the distance of a success is beyond eps": _set("norm", 5.0, where="broken"),
        "the distance of a success is infinite": _set("norm", np.inf, where="broken"),
        "the distance of a success is no number": _set("norm", np.nan, where="broken"),
        "the distance of a success is negative": _set("norm", -1.0, where="broken"),
        "a success is predicted right": lambda each: each.frame.__setitem__(
            "adversarial_prediction", each.frame["label"]
        ),
        "a survival is predicted wrong": _set("adversarial_prediction", lambda old: (old + 1) % 10, where="robust"),
        "a prediction is no class": _set("adversarial_prediction", 77, where="broken"),
        "a sample is below 0": _set("sample", -1),
        "a sample is beyond the data set": lambda each: _set("sample", 5000)(each),
        "a sample comes twice": lambda each: each.frame.__setitem__("sample", each.frame["sample"].clip(lower=1)),
        "labels are others": _set("label", lambda old: (old + 1) % 10, where="all"),
        "a label is no class": _set("label", -3),
        "clean predictions are others": _set("clean_prediction", lambda old: (old + 1) % 10, where="robust"),
        "it cost less": lambda each: each.frame.__setitem__("forwards", each.frame["forwards"].clip(upper=2)),
        "no gradient was zero, or all were": _set("zero_gradient", lambda old: ~old, where="robust"),
        "margins are larger": _set("margin", lambda old: old * 3, where="robust"),
        "all is borderline": _set("borderline", True, where="all"),
        "another stage ended it": _set("stage", lambda old: old ^ 1, where="robust"),
        "claims were refused": _set("refused", 4, where="robust"),
        "the broken samples are cut away": lambda each: each.keep(each.frame.loc[~each.frame["success"], "sample"]),
        "the last samples are cut away": lambda each: each.keep(each.frame["sample"][:8]),
    }
    for words, change in changes.items():
        visible = "every table says n" if "last samples" in words else ""
        yield Way(f"{label}: {words}", _on(label, change), visible)


def _identity(label: str) -> Iterator[Way]:
    other = {"fgsm": "autoattack", "pgd-20": "pgd-1000", "cw": "pgd-20-long", "autoattack": "fgsm"}[label]

    def renamed(each: Evaluation) -> None:
        each.record["identity"]["label"] = other

    def redefined(each: Evaluation) -> None:
        name = "pgd-40" if other == "pgd-20-long" else other
        ((_, attack),) = resolve_attacks([name], ThreatModel.parse("linf", EPS), 10)
        each.record["identity"] |= {"label": name, "attack": json.loads(json.dumps(attack.definition()))}

    def radius(text: str, *, fit: bool) -> Callable[[Evaluation], None]:
        def change(each: Evaluation) -> None:
            identity = each.record["identity"]
            each.record["eps_text"] = text
            identity["threat"]["eps"] = float(text)
            if fit:
                ((_, attack),) = resolve_attacks([label], ThreatModel.parse("linf", text), 10)
                identity["attack"] = json.loads(json.dumps(attack.definition()))

        return change

    def alone(change: Callable[[Evaluation], None]) -> Callable[[Path], None]:
        return lambda folder: forge(folder, lambda found: _only(found, label, other, change))

    yield Way(f"{label}: sold as {other}", alone(renamed))
    yield Way(f"{label}: sold as {other}, with the definition of it", alone(redefined))
    yield Way(f"{label}: eps is written as 0.3", _on(label, lambda each: each.record.update(eps_text="0.3")))
    yield Way(f"{label}: eps is 0.3", _on(label, radius("0.3", fit=False)))
    yield Way(f"{label}: eps is 0.3, and the definition fits", _on(label, radius("0.3", fit=True)))
    yield Way(f"{label}: eps is 0.01, and the definition fits", _on(label, radius("0.01", fit=True)))
    yield Way(f"{label}: another seed", _on(label, _identity_and_metadata(seed=7)))
    yield Way(f"{label}: another seed beside the definition", _on(label, _tells(seed=7)))
    yield Way(f"{label}: another engine", _on(label, lambda each: each.record["identity"].update(engine=1)))
    yield Way(
        f"{label}: another batch shape", _on(label, lambda each: each.record["identity"].update(shape=64)), LAST_BITS
    )
    yield Way(f"{label}: searched in bf16", _on(label, lambda each: each.record["identity"].update(precision="bf16")))
    yield Way(f"{label}: of a randomised model", _on(label, _identity_and_metadata(randomised=True)))
    yield Way(f"{label}: of a batch-dependent model", _on(label, _tells(batch_dependent=True)))
    yield Way(f"{label}: of other data", _on(label, lambda each: each.record["identity"].update(data="e" * 64)))
    yield Way(f"{label}: under L2", _on(label, lambda each: each.record["identity"]["threat"].update(norm="l2")))


def _only(found: dict[str, Evaluation], label: str, other: str, change: Callable[[Evaluation], None]) -> None:
    """Change one evaluation; the one whose name it takes goes."""
    found.pop(other, None)
    change(found[label])
    for each in found.values():
        _forget_plan(each)


def _identity_and_metadata(**values: Any) -> Callable[[Evaluation], None]:
    def change(each: Evaluation) -> None:
        each.record["identity"] |= values
        each.record["metadata"] |= values

    return change


def _forget_plan(each: Evaluation) -> None:
    for run in each.record["runs"]:
        run.pop("attacks", None)


def _whole() -> Iterator[Way]:
    def survivors(found: dict[str, Evaluation]) -> None:
        robust = set.intersection(
            *(
                set(each.frame.loc[~each.frame["success"], "sample"])
                for label, each in found.items()
                if "/" not in label
            )
        )
        for each in found.values():
            each.keep(sorted(robust))

    def hidden(found: dict[str, Evaluation]) -> None:
        del found["autoattack"], found["cw"]

    def hidden_well(found: dict[str, Evaluation]) -> None:
        hidden(found)
        for each in found.values():
            _forget_plan(each)

    def all_robust(found: dict[str, Evaluation]) -> None:
        for label in ATTACKS:
            found[label].claim_robust(found[label].broken)

    def right(found: dict[str, Evaluation]) -> None:
        for each in found.values():
            wrong = each.frame["clean_prediction"] != each.frame["label"]
            each.frame.loc[wrong, ["clean_prediction", "adversarial_prediction"]] = each.frame.loc[wrong, "label"]
            each.frame.loc[wrong, "success"] = False

    def relabelled(found: dict[str, Evaluation]) -> None:
        for each in found.values():
            wrong = each.frame["clean_prediction"] != each.frame["label"]
            each.frame.loc[wrong, "label"] = each.frame.loc[wrong, "clean_prediction"]
            each.frame.loc[wrong, "success"] = False

    def no_images(found: dict[str, Evaluation]) -> None:
        for each in found.values():
            each.images, each.record["saved"] = [], False

    changes: dict[str, tuple[Change, str]] = {
        "all files are cut down to the samples that survive": (survivors, ""),
        "the strong attacks are deleted": (hidden, ""),
        "the strong attacks are deleted, and the plan": (hidden_well, PLAN),
        "nothing breaks anything, without a trace": (all_robust, ""),
        "clean mistakes are right": (right, ""),
        "clean mistakes have the label that was predicted": (relabelled, ""),
        "the clean images are deleted": (lambda found: found.pop("clean"), ""),
        "no images, and none were saved": (no_images, ""),
        "corrupted images are all right": (_fog, ""),
        "a cell of the corruptions is called another one": (_cell, ""),
    }
    for words, (change, why) in changes.items():
        yield Way(words, lambda folder, change=change: forge(folder, change), why)  # type: ignore[misc]


def _fog(found: dict[str, Evaluation]) -> None:
    for label, each in found.items():
        if label.startswith("corruption/"):
            each.frame[["clean_prediction", "adversarial_prediction"]] = each.frame[["label", "label"]].to_numpy()


def _cell(found: dict[str, Evaluation]) -> None:
    one, other = (found[f"corruption/fog/{severity}"] for severity in (1, 5))
    one.frame, other.frame = other.frame, one.frame


def _metadata() -> Iterator[Way]:
    def runs(**values: Any) -> Callable[[Path], None]:
        return _on_all(lambda each: [run.update(values) for run in each.record["runs"]])

    yield Way("the data set has another name", _on_all(_tells(dataset="imagenet")), NOTHING)
    yield Way("the data set is larger", _on_all(lambda each: each.record["metadata"].update(test_images=10_000)))
    yield Way("other versions", runs(versions={"torch": "9.9"}), BELIEVED)
    yield Way("no versions", runs(versions={}))
    yield Way("another device", runs(device="cuda (NVIDIA H100)"), BELIEVED)
    yield Way("another date", runs(date="2020-01-01T00:00:00+00:00"), BELIEVED)
    yield Way("no date", runs(date=""))
    yield Way("another command", runs(command="advdpnp eval --attacks all"), BELIEVED)
    yield Way("it took no time", runs(seconds=0.0), BELIEVED)
    lies = {"family": "pgd", "loss": "ce", "steps": 1000}
    yield Way("an attack describes itself as stronger", _on("fgsm", _tells(attack_info=lies)))


def _models() -> Iterator[Way]:
    values = {
        "architecture": "resnet50", "method": "trades", "parameters": 9, "min_separation": 96.3,
        "training_seconds": 1.0, "recipe_hash": "12345678", "training_seed": 5, "dtype": "bfloat16",
        "weights_hash": "f" * 64,
    }  # fmt: skip
    for name, value in values.items():
        yield Way(f"model.json: another {name}", lambda f, n=name, v=value: edit_model(f, lambda m: m.update({n: v})))  # type: ignore[misc]
    classes = lambda m: m.update(class_names=m["class_names"][::-1])  # noqa: E731
    yield Way("model.json: the classes in another order", lambda folder: edit_model(folder, classes))
    yield Way("model.json: another name", lambda f: edit_model(f, lambda m: m.update(name="best")), BELIEVED)
    yield Way("model.json: another data set", lambda f: edit_model(f, lambda m: m.update(dataset="imagenet")), NOTHING)


def _measurements() -> Iterator[Way]:
    def numbers(norm: str, **values: Any) -> Callable[[Path], None]:
        def change(content: dict[str, Any]) -> None:
            for each in content["diagnostics"]:
                if each["norm"] == norm:
                    each["numbers"] |= values

        return lambda folder: edit_index(folder, change)

    def turned(content: dict[str, Any]) -> None:
        for each in content["diagnostics"]:
            right = each["numbers"].get("right", {})
            each["numbers"]["right"] = {name: "1" * len(digits) for name, digits in right.items()}

    yield Way("measurements: all right", lambda folder: edit_index(folder, turned))
    yield Way("measurements: probabilities", numbers("", probabilities=True))
    yield Way("measurements: overlooked changes", numbers("", overlooked=0.9))
    yield Way("measurements: the loss rose late", numbers("linf", rising=0.9))
    yield Way("measurements: zero gradients", numbers("linf", zero_gradient=0.9))
    yield Way("measurements: deleted", lambda folder: edit_index(folder, lambda c: c.update(diagnostics=[])))


def _folders() -> Iterator[Way]:
    def stranger(change: Callable[[Evaluation], Any]) -> Callable[[Path], None]:
        def do(folder: Path) -> None:
            other = folder.parent / "stranger" / folder.name
            shutil.copytree(folder, other)

            def every(found: dict[str, Evaluation]) -> None:
                for label, each in found.items():
                    for run in each.record["runs"]:
                        run["date"] = "2099-01-01T00:00:00+00:00"
                    if label in ATTACKS:
                        change(each)

            forge(other, every)

        return do

    def swapped(folder: Path) -> None:
        first, second = folder / "attacks.parquet", folder / "corruptions.parquet"
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)

    def flipped(name: str) -> Callable[[Path], None]:
        def do(folder: Path) -> None:
            content = bytearray((folder / name).read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(bytes(content))

        return do

    yield Way("a stranger's folder: nothing breaks anything", stranger(lambda each: each.claim_robust(each.broken)))
    yield Way("a stranger's folder: other labels", stranger(_set("label", lambda old: (old + 1) % 10, where="robust")))
    yield Way("a stranger's folder: the same", stranger(lambda each: None), NOTHING)
    yield Way("two files change their places", swapped)
    for name in ("attacks.parquet", "corruptions.parquet", "adversarials.parquet", "units.json"):
        yield Way(f"a byte of {name} is another one", flipped(name))
        yield Way(f"{name} is gone", lambda folder, name=name: (folder / name).unlink())  # type: ignore[misc]
