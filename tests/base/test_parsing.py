"""Whatever a user writes gives a value or one sentence, never another error."""

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advdpnp.attacks.threat import NORMS, ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.models.loading import load_model

QUICK = settings(max_examples=100, deadline=None)
NUMBERS = st.text(alphabet="0123456789./eE+-_ naif", max_size=12)
RADIUS = st.one_of(
    st.tuples(st.integers(1, 255), st.integers(255, 512)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.floats(1e-6, 1).map(repr),
)


@QUICK
@given(st.text(max_size=12) | st.sampled_from([*NORMS, "Linf", " L2 "]), st.text(max_size=20) | NUMBERS)
@example("linf", "1/0")
@example("linf", "1e999")
@example("l2", "1/1e-400")
@example("l2", "1e308/1e-308")
@example("linf", "8/255/2")
@example("linf", "nan")
@example("linf", "\x00")
@example("l2", "٣")
def test_every_norm_and_eps_is_a_threat_model_or_one_sentence(norm: str, eps: str) -> None:
    try:
        threat = ThreatModel.parse(norm, eps)
    except AdvdpnpError:
        return
    assert threat.norm in NORMS
    assert math.isfinite(threat.eps)
    assert threat.eps > 0
    assert ThreatModel.parse(threat.norm, threat.text) == threat


@QUICK
@given(st.sampled_from(NORMS), RADIUS)
def test_what_was_read_reads_back_as_text_and_as_number(norm: str, text: str) -> None:
    numerator, _, denominator = text.partition("/")
    value = Fraction(numerator) / Fraction(denominator or "1")
    if norm == "l0" and not float(value).is_integer():
        with pytest.raises(AdvdpnpError, match="no whole number"):
            ThreatModel.parse(norm, text)
        return
    threat = ThreatModel.parse(norm.upper(), f" {text} ")
    assert threat.eps == pytest.approx(float(value), rel=1e-15)
    assert ThreatModel.parse(norm, threat.text) == threat
    assert ThreatModel.parse(norm, threat.eps).eps == threat.eps
    assert ThreatModel.parse(norm, repr(threat.eps)).eps == threat.eps


def unit(threat: ThreatModel) -> EvaluationKey:
    return EvaluationKey("pgd-20", "d" * 64, threat, {"seed": 0})


@QUICK
@given(RADIUS, RADIUS)
@example("8/255", repr(8 / 255))
@example("0.5", "1/2")
@example("0.1", "1/10")
def test_equal_radii_are_the_same_unit_and_others_are_not(one: str, other: str) -> None:
    a, b = ThreatModel.parse("linf", one), ThreatModel.parse("linf", other)
    assert (unit(a).hash == unit(b).hash) == (a.eps == b.eps)
    assert unit(ThreatModel.parse("linf", repr(a.eps))).hash == unit(a).hash
    assert unit(ThreatModel.parse("l2", one)).hash != unit(a).hash


WORDS = st.text(alphabet="abcxyz0189._-/: \\\x00é\ud800", max_size=15)
SPECS = st.one_of(
    st.text(max_size=30),
    WORDS,
    WORDS.map(lambda word: f"robustbench:{word}"),
    WORDS.map(lambda word: f"timm:{word}"),
    WORDS.map(lambda word: f"nowhere_to_be_found.{word}:net"),
    WORDS.map(lambda word: f"{word}.safetensors"),
)


@settings(max_examples=150, deadline=None)
@given(SPECS)
@example("")
@example("\x00")
@example("a\x00.safetensors")
@example("\ud800.safetensors")
@example("x" * 5000)
@example("x" * 5000 + ".safetensors")
@example("resnet18")
@example("robustbench:")
@example("robustbench:L2/L2/Standard")
@example("timm:")
@example(":")
@example("nowhere..:x")
@example("nowhere:")
def test_every_spec_of_a_model_is_a_model_or_one_sentence(in_an_empty_folder: None, spec: str) -> None:
    with contextlib.suppress(AdvdpnpError):
        assert load_model(spec).model is not None


@pytest.fixture(scope="module")
def in_an_empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Names of files must not be those of the checkout."""
    with contextlib.chdir(tmp_path_factory.mktemp("empty")):
        yield
