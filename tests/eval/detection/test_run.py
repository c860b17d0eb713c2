"""Whole runs on small nets: which images count, which set the threshold, what is left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from advdpnp.attacks import resolve_attacks
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Split
from advdpnp.eval.detection import run as module
from advdpnp.eval.detection.adaptive import AdaptiveAttack
from advdpnp.eval.detection.images import ImageSet, outlier_set
from advdpnp.eval.detection.measures import threshold_of
from advdpnp.eval.detection.run import ADAPTIVE, ATTACK, OUTLIERS, DetectionConfig, detect
from advdpnp.eval.detection.table import to_frame
from advdpnp.eval.report.detection import detection_grids, write_detection
from advdpnp.eval.report.figures.detection import draw_detection
from advdpnp.eval.run.components import STATIC_BATCH_SIZES
from advdpnp.models.loading import LoadedModel

THREAT = ThreatModel.parse("linf", "0.3")
FACTS = {"dataset": "quadrants", "norm": "linf", "eps": "0.3", "false_alarms": 5.0, "seed": 0}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setitem(STATIC_BATCH_SIZES, "cpu", 16)


def loaded(model: nn.Module, name: str = "net") -> LoadedModel:
    return LoadedModel(model.eval(), name, "0" * 64, "", "", 0, {})


class Brightness(nn.Module):
    """A foreign net: logits of the four quadrants are how bright they are, whatever was learned."""

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * 20


def config(data, **values):
    options = {
        "scores": ("energy", "logit-gap"),
        "outliers": (outlier_set("noise:uniform", data, limit=None, seed=0),),
        "attacks": tuple(resolve_attacks("pgd-5", THREAT, 4)),
        "adaptive": AdaptiveAttack(THREAT, steps=5, restarts=2),
        "false_alarms": 0.05,
        "seed": 0,
        "device": torch.device("cpu"),
    }
    return DetectionConfig(**options | values)


def test_positives_and_negatives(quadrants):
    labels = quadrants.test.labels.clone()
    labels[:3] = (labels[:3] + 1) % 4  # three clean mistakes
    test = Split(quadrants.test.images, labels)
    steps = []
    settings = config(quadrants)
    found = detect([loaded(Brightness())], lambda each: quadrants, test, settings, lambda: steps.append(1))
    assert len(steps) == settings.steps
    assert found.notes == []
    assert [each.score for each in found.detections] == ["energy", "logit-gap"]
    for each in found.detections:
        assert each.clean.misclassified.sum() == 3
        assert not each.clean.positive.any()
        noise, attacked, adaptive = each.others
        assert (noise.kind, attacked.kind, adaptive.kind) == (OUTLIERS, ATTACK, ADAPTIVE)
        assert noise.positive.all()
        assert len(each.negatives(noise)) == 32
        for part in (attacked, adaptive):
            assert part.misclassified[:3].all()  # a clean mistake stays one
            assert not part.positive[:3].any()  # and is no adversarial image
            assert (part.positive == part.misclassified)[3:].all()
            assert len(each.negatives(part)) == 29
        assert attacked.positive.sum() > 20
        assert (adaptive.misclassified | ~attacked.misclassified).all()
        both = attacked.misclassified & adaptive.misclassified
        assert (adaptive.scores[both] <= attacked.scores[both]).all()


def test_the_threshold_comes_from_held_out_images_alone(quadrants):
    """Other test images, outliers and attacks leave it; other held-out images move it."""
    model = loaded(Brightness())

    def threshold(data, test, **values):
        found = detect([model], lambda each: data, test, config(data, scores=("energy",), **values))
        return found.detections[0].threshold

    usual = threshold(quadrants, quadrants.test)
    outputs = model.model(quadrants.validation.images.float() / 255)
    assert usual == pytest.approx(threshold_of(-outputs.logsumexp(1).double().numpy(), 0.05))
    dark = Split(quadrants.test.images // 2, quadrants.test.labels)
    assert threshold(quadrants, dark, outliers=(), attacks=()) == usual
    held_out = Split(quadrants.validation.images // 2, quadrants.validation.labels)
    assert threshold(replace(quadrants, validation=held_out), quadrants.test) != usual


def test_what_a_model_lacks_is_left_out_with_a_sentence(quadrants, network):
    pytest.importorskip("pytorch_ood")
    models = [loaded(Brightness(), "foreign"), *(loaded(network(h), h) for h in ("linear", "prototype", "ed-wta"))]
    scores = ("energy", "prototype-own", "mahalanobis")
    found = detect(models, lambda each: quadrants, quadrants.test, config(quadrants, scores=scores, adaptive=None))
    assert found.notes == [
        "foreign: prototype-own left out: the model has no prototypes",
        "foreign: mahalanobis left out: the model shows only logits, no features",
        "linear: prototype-own left out: the model has no prototypes",
    ]
    kept = [(each.model, each.score) for each in found.detections]
    assert kept == [
        ("foreign", "energy"), ("linear", "energy"), ("linear", "mahalanobis"),
        *((net, score) for net in ("prototype", "ed-wta") for score in scores),
    ]  # fmt: skip
    with pytest.raises(AdvdpnpError, match=r"no score is left \(foreign: prototype-own left out"):
        detect(models[:1], lambda each: quadrants, quadrants.test, config(quadrants, scores=("prototype-own",)))


def test_a_nan_score_is_a_sentence(quadrants, monkeypatch):
    from advdpnp.eval.detection.scores import Detector

    broken = Detector(*(2 * [lambda outputs: outputs.logits[:, 0] * torch.nan]))
    monkeypatch.setattr(module, "build_detector", lambda name, fitting: broken)
    with pytest.raises(AdvdpnpError, match="the score 'energy' is NaN for some images of net; leave it out"):
        detect([loaded(Brightness())], lambda each: quadrants, quadrants.test, config(quadrants, scores=("energy",)))


def test_models_that_cannot_be_scored_are_a_sentence(quadrants):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 4), torch.nan)

    class Noisy(nn.Module):
        def forward(self, x):
            return torch.rand(len(x), 4)

    for model, said in ((Broken(), "net: the model's logits contain NaN"), (Noisy(), "net is randomised")):
        with pytest.raises(AdvdpnpError, match=said):
            detect([loaded(model)], lambda each: quadrants, quadrants.test, config(quadrants))
    bare = replace(quadrants, train=quadrants.train.head(0), validation=quadrants.train.head(0))
    with pytest.raises(AdvdpnpError, match="quadrants has no training images to fit scores to and to hold out"):
        detect([loaded(Brightness())], lambda each: bare, quadrants.test, config(quadrants))


def test_runs_repeat_and_tables_hold_them(quadrants, tmp_path):
    def table():
        found = detect([loaded(Brightness())], lambda each: quadrants, quadrants.test, config(quadrants))
        return found, to_frame(found.detections, seed=0, facts=FACTS)

    (found, frame), (_, again) = table(), table()
    assert frame.equals(again)
    assert list(frame["kind"]) == ["clean", "outliers", "attack", "adaptive"] * 2
    row = frame.set_index(["score", "kind"]).loc[("energy", "adaptive")]
    (energy, _) = found.detections
    adaptive = energy.others[-1]
    undetected = adaptive.misclassified & (adaptive.scores <= energy.threshold)
    assert row["undetected_errors"] == pytest.approx(100 * undetected.mean())
    assert row["undetected_errors_low"] < row["undetected_errors"] + 1e-9 <= row["undetected_errors_high"] + 1e-9
    assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
    paths = write_detection(frame, ["a note"], "advdpnp detect net", tmp_path)
    text = paths[1].read_text()
    assert "| net | energy |" in text
    assert "- a note" in text
    assert "    advdpnp detect net" in text
    assert len(paths[0].read_text().splitlines()) == 9
    assert [len(grid.rows) for grid in detection_grids(frame)] == [2, 2]
    figures = draw_detection(found.detections, tmp_path)
    assert [path.name for path in figures] == ["scores-net.png", "roc-net.png"]
    assert all(path.stat().st_size > 10_000 for path in figures)


def test_an_attack_that_fools_nothing_is_a_dash(quadrants, tmp_path):
    weak = ThreatModel.parse("linf", "0.0001")
    settings = config(
        quadrants, outliers=(), attacks=tuple(resolve_attacks("pgd-1", weak, 4)), adaptive=AdaptiveAttack(weak, steps=1)
    )
    found = detect([loaded(Brightness())], lambda each: quadrants, quadrants.test, settings)
    frame = to_frame(found.detections, seed=0, facts=FACTS)
    attacked = frame[frame["kind"] != "clean"]
    assert attacked["auroc"].isna().all()
    assert (attacked["undetected_errors"] == 0).all()
    (grid,) = detection_grids(frame)
    assert grid.rows[0][2:4] == ["–", "–"]
    draw_detection(found.detections, tmp_path)


def test_images_of_other_models_classes_are_no_matter(quadrants):
    """Outliers have no labels that count; a set of one image is measured too."""
    one = ImageSet("one", torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    found = detect(
        [loaded(Brightness())], lambda each: quadrants, quadrants.test,
        config(quadrants, outliers=(one,), attacks=(), adaptive=None),
    )  # fmt: skip
    frame = to_frame(found.detections, seed=0, facts=FACTS)
    assert (frame.loc[frame["kind"] == "outliers", "positives"] == 1).all()
    assert np.isfinite(frame.loc[frame["kind"] == "outliers", "auroc"]).all()
