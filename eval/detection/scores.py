"""The scores that images are judged by: a registry, and those that need no other package.

A score is built from the outputs of training images (``Fitting``) and gives a ``Detector``. Larger is more suspicious.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdpnp.attacks.losses import best_other, own_logit
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.registry import Registry
from advdpnp.eval.detection.outputs import Outputs

SCORES = Registry("score", "advdpnp.scores")
"""Builders ``build(fitting: Fitting) -> Detector``."""


class NotAvailable(AdvdpnpError):
    """A model lacks what a score needs; the message ends "left out: ..."."""


@dataclass(frozen=True)
class Fitting:
    """What a score may be fitted to.

    Attributes:
        head: the model's classifier on its features, in eval mode; None where the model shows only logits.
        outputs: of training images.
        labels: of these images, int64 (n,), on the same device.
    """

    head: nn.Module | None
    outputs: Outputs
    labels: Tensor


Values = Callable[[Outputs], Tensor]


@dataclass(frozen=True)
class Detector:
    """A score fitted to one model.

    Attributes:
        score: the reported values, (n,).
        differentiable: the same values as a function with a gradient, for the attack that knows the score.
    """

    score: Values
    differentiable: Values


def build_detector(name: str, fitting: Fitting) -> Detector:
    """Fit the named score.

    Raises:
        NotAvailable: the model lacks what the score needs.
        AdvdpnpError: there is no such score.
    """
    made = SCORES.make(name, fitting=fitting)
    if not isinstance(made, Detector):
        raise AdvdpnpError(f"the score '{name}' builds {type(made).__name__}; make it return a Detector")
    return made


def choose_scores(text: str) -> list[str]:
    """The names that ``text`` means: "all", or comma-separated names, each once.

    Raises:
        AdvdpnpError: a score is unknown, or none is named.
    """
    import advdpnp.eval.detection.library  # noqa: F401  (registers its scores)

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise AdvdpnpError("no score is named; choose all, or names of 'advdpnp list scores'")
    chosen = dict.fromkeys(each for name in names for each in (SCORES.names() if name == "all" else [name]))
    for name in chosen:
        SCORES.find(name)
    return list(chosen)


def _both(values: Values) -> Detector:
    return Detector(values, values)


def _class_distances(fitting: Fitting) -> Values:
    """Distances (n, classes) to the nearest prototype of each class."""
    if not callable(getattr(fitting.head, "class_distances", None)):
        raise NotAvailable("the model has no prototypes")
    head = copy.deepcopy(fitting.head).double()  # type: ignore[union-attr]
    for weight in head.parameters():
        weight.requires_grad_(False)
    return lambda outputs: head.class_distances(outputs.features)  # type: ignore[operator, no-any-return]


@SCORES.register(
    "prototype-own",
    description="distance of the features to the nearest prototype of the predicted class",
    reference="DPNP, arXiv 2501.02477, and +-ED-WTA, arXiv 2008.08750, claim that prototypes tell outliers; the score "
    "is this project's",
    status="ours",
)
def prototype_own(fitting: Fitting) -> Detector:
    distances = _class_distances(fitting)
    return _both(lambda outputs: own_logit(distances(outputs), outputs.prediction))


@SCORES.register(
    "prototype-any",
    description="distance of the features to the nearest prototype of any class",
    reference="as prototype-own",
    status="ours",
)
def prototype_any(fitting: Fitting) -> Detector:
    distances = _class_distances(fitting)
    return _both(lambda outputs: distances(outputs).amin(1))


@SCORES.register(
    "logit-gap",
    description="minus the gap between the two largest logits",
    reference="Scheffer et al., Active hidden Markov models, 2001 (the margin of a prediction)",
)
def logit_gap(fitting: Fitting) -> Detector:
    return _both(lambda outputs: best_other(outputs.logits, outputs.prediction) - outputs.logits.amax(1))


@SCORES.register(
    "max-softmax",
    description="minus the largest softmax probability, as log-odds: the same order, and no rounding to 1",
    reference="Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples, 2017",
)
def max_softmax(fitting: Fitting) -> Detector:
    def values(outputs: Outputs) -> Tensor:
        others = outputs.logits.scatter(1, outputs.prediction[:, None], -torch.inf)
        return others.logsumexp(1) - outputs.logits.amax(1)

    return _both(values)


@SCORES.register(
    "energy",
    description="minus the log-sum-exp of the logits",
    reference="Liu et al., Energy-based Out-of-distribution Detection, 2020",
)
def energy(fitting: Fitting) -> Detector:
    return _both(lambda outputs: -outputs.logits.logsumexp(1))
