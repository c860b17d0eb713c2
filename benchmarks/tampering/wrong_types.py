"""Values of another kind in the JSON files, with checksums that fit."""

import copy
from collections.abc import Iterator
from typing import Any

from benchmarks.tampering.forger import edit_index, edit_model
from benchmarks.tampering.way import BELIEVED, NOTHING, PLAN, Way

_WHY_NOT = {
    "units.json: runs/0/date is 'x'": BELIEVED,
    "units.json: runs/0/command is 'x'": BELIEVED,
    "units.json: runs/0/attacks is []": PLAN,
    "units.json: metadata/0/dataset is None": NOTHING,  # its name comes from its hash
    "units.json: metadata/0/dataset is 'x'": NOTHING,
    "model.json: name is 'x'": BELIEVED,
    "model.json: class_names is []": "classes have numbers in place of names",
}
_WRONG: tuple[Any, ...] = (None, "x", -1, [], {})


def wrong_types() -> Iterator[Way]:
    """A value of another kind at each place of the two JSON files, with the checksum of that."""
    places: tuple[tuple[Any, ...], ...] = (
        ("evaluations", 0, "identity"), ("evaluations", 0, "identity", "label"),
        ("evaluations", 0, "identity", "threat"), ("evaluations", 0, "identity", "threat", "eps"),
        ("evaluations", 0, "identity", "attack"),
        ("evaluations", 0, "eps_text"), ("evaluations", 0, "runs"), ("evaluations", 0, "metadata"),
        ("evaluations", 0, "rows"), ("runs", 0), ("runs", 0, "versions"), ("runs", 0, "date"), ("runs", 0, "command"),
        ("runs", 0, "attacks"), ("metadata", 0), ("metadata", 0, "seed"), ("metadata", 0, "dataset"),
        ("metadata", 0, "test_images"), ("diagnostics", 0), ("diagnostics", 0, "numbers"), ("files",), ("weights",),
    )  # fmt: skip
    for place in places:
        for value in _WRONG:
            words = f"units.json: {'/'.join(map(str, place))} is {value!r}"
            change = lambda folder, p=place, v=value: edit_index(folder, lambda c: _put(c, p, v))  # noqa: E731
            yield Way(words, change, _WHY_NOT.get(words, ""))  # type: ignore[misc]
    for name in ("name", "class_names", "parameters", "min_separation", "training_seed"):
        for value in _WRONG:
            words = f"model.json: {name} is {value!r}"
            change = lambda folder, n=name, v=value: edit_model(folder, lambda m: m.update({n: v}))  # noqa: E731
            yield Way(words, change, _WHY_NOT.get(words, ""))  # type: ignore[misc]


def _put(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    inner: Any = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = copy.deepcopy(value)
