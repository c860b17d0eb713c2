"""Whether a model's answers depend on what it was asked before, as those of a net do that remembers its images."""

import copy
from dataclasses import replace

from torch import Tensor

from advdpnp.attacks.engine.executor import evaluation_mode, finite
from advdpnp.attacks.norms import ascent_step, project
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import ModelError
from advdpnp.eval.diagnostics.probe import ModelProbe

_IMAGES = 32


def measure_memory(subject: ModelProbe, threat: ThreatModel) -> float:
    """The share of images that two copies of the model classify differently, one of which knows where they come from.

    Images that the model has not seen (negatives of the first ones) are moved by one step of FGSM, whose gradient comes
    from a copy that is then thrown away. One more copy is asked about the moved images alone, another about the images
    before they were moved, then about these. A model without a memory gives both the same answers, bit by bit.

    Returns:
        the share; 0 if the model cannot be copied, or does not answer.
    """
    try:
        return _parted(subject, 1 - subject.x[:_IMAGES], threat)
    except (TypeError, RuntimeError, ModelError):  # of copy.deepcopy, or no answer to such images
        return 0.0


def _parted(subject: ModelProbe, images: Tensor, threat: ThreatModel) -> float:
    fresh = _copy(subject)
    with evaluation_mode(fresh.model):
        own = fresh.logits(images).argmax(1)
    fresh = _copy(subject)
    with evaluation_mode(fresh.model):
        gradient = finite(fresh.slopes(images, own)[1])
    moved = project(ascent_step(images, gradient, threat.eps, threat.norm), images, threat)
    answers = []
    for seen in ((), (images,)):
        fresh = _copy(subject)
        with evaluation_mode(fresh.model):
            for each in seen:
                fresh.logits(each)
            answers.append(fresh.logits(moved).argmax(1))
    return float((answers[0] != answers[1]).double().mean().cpu())


def _copy(subject: ModelProbe) -> ModelProbe:
    size = min(subject.static_batch_size, _IMAGES)  # a call of more rows would be padded
    return replace(subject, model=copy.deepcopy(subject.model), static_batch_size=size)
