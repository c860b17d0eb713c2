"""Headers of checkpoints from strangers: a model no larger than its weights, or one sentence that names the field."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models import ModelConfig, build_model
from advdpnp.models.checkpoint import load_checkpoint, save_checkpoint
from advdpnp.models.header import Header, parse_header
from advdpnp.models.loading import load_model

HEADER = {
    "name": "trial", "dataset": "digits", "method": "adv-dpnp", "class_names": ["a", "b"], "metrics": {"pgd": 0.5},
    "recipe": {"seed": 1, "attack": {"norm": "linf", "eps": "8/255"}, "method": {"name": "adv-dpnp"}},
}  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**9, 2**63, 10**30, "inf", "<script>", "\x1b[31m", "a" * 100_000, "linear", "ed-wta"])
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=4)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    holder = changed = copy.deepcopy(value)
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = new
    return changed


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("headers") / "net.safetensors"
    config = ModelConfig("small-cnn", 10, 1, (8, 8), 5, "prototype", 4.0, (0.5,), (0.5,))
    save_checkpoint(path, build_model(config), HEADER)
    return path


def text_of(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["advdpnp"])


def write(path: Path, text: str) -> Path:
    changed = path.with_name("changed.safetensors")
    changed.unlink(missing_ok=True)
    save_file(load_file(path), changed, metadata={"advdpnp": text})
    return changed


@settings(max_examples=500, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_any_value_in_any_place_is_read_as_it_is_or_one_sentence(saved: Path, data: st.DataObject) -> None:
    content = json.loads(text_of(saved))
    place = data.draw(st.sampled_from(list(places(content))))
    text = json.dumps(put(content, place, data.draw(JSON)))
    try:
        header = parse_header(text)
    except ValueError as error:
        assert len(str(error)) < 500  # noqa: PT017
        return
    assert isinstance(header, Header)
    assert header.model.classes <= 1_000_000


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(list(ModelConfig.__dataclass_fields__)), JSON)
@example("classes", 10**6)
@example("feature_dim", 10**6)
@example("subclasses", 10**4)
@example("image_size", [2**20, 2**20])
@example("channels", 4096)
@example("width", 4096)
def test_a_model_is_no_larger_than_its_weights(saved: Path, field: str, value: Any) -> None:
    path = write(saved, json.dumps(put(json.loads(text_of(saved)), ("model", field), value)))
    try:
        model, _ = load_checkpoint(path)
    except AdvdpnpError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017
        return
    assert sum(each.numel() for each in model.parameters()) < 10**6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 1000, "nested too deeply"),
        ('{"a": ' * 30 + "1" + "}" * 30, "nested too deeply"),
        ('{"format": 1, "format": 1}', "'format' twice"),
        ('{"format": %s}' % ("9" * 5000), "5000 digits"),
        ('{"format": 1}', "model is missing"),
        ("[]", "it cannot be"),
    ],
)
def test_what_is_wrong_is_said(saved: Path, text: str, why: str) -> None:
    with pytest.raises(AdvdpnpError, match=f"the header of .* is damaged .*{why}"):
        load_checkpoint(write(saved, text))


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("model", "classes"), 10**9, "model.classes cannot be 1000000000"),
        (("model", "classes"), float("inf"), "model.classes cannot be"),
        (("model", "feature_dim"), "many", "model.feature_dim cannot be 'many'"),
        (("model", "head"), ["linear"], "model.head cannot be"),
        (("recipe",), None, "recipe cannot be None"),
        (("recipe", "attack"), 5, "attack = 5 is no mapping"),
        (("class_names", 0), "a\nb", "line breaks"),
    ],
)
def test_the_field_that_is_wrong_is_named(saved: Path, place: tuple[Any, ...], value: Any, why: str) -> None:
    with pytest.raises(AdvdpnpError) as caught:
        load_model(write(saved, json.dumps(put(json.loads(text_of(saved)), place, value))))
    assert why in str(caught.value)


def test_more_classes_than_the_weights_have_are_not_allocated(saved: Path) -> None:
    path = write(saved, json.dumps(put(json.loads(text_of(saved)), ("model", "classes"), 10**6)))
    with pytest.raises(AdvdpnpError, match="describes a larger model than its weights"):
        load_checkpoint(path)


def test_complex_and_tiny_precisions_are_refused_or_read(saved: Path) -> None:
    tensors = load_file(saved)
    tensors["head.prototypes"] = tensors["head.prototypes"].to(torch.float8_e4m3fn)
    path = saved.with_name("small.safetensors")
    save_file(tensors, path, metadata={"advdpnp": text_of(saved)})
    assert load_checkpoint(path)[0].head.prototypes.dtype == torch.float32
    tensors["head.prototypes"] = tensors["head.prototypes"].to(torch.complex64)
    save_file(tensors, path, metadata={"advdpnp": text_of(saved)})
    with pytest.raises(AdvdpnpError, match=r"complex: head\.prototypes"):
        load_checkpoint(path)
