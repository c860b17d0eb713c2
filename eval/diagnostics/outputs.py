"""What a model's answers give away without any attack."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from advdpnp.base.errors import ModelError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.base.statistics import wilson
from advdpnp.eval.diagnostics.flags import CHANCE_SHARE
from advdpnp.eval.diagnostics.probe import ModelProbe

RANGES = ((0, 255), (-1, 1))
"""Input ranges that models of other projects expect."""
NUDGE = 1e-4
"""Change of every value that no honest net overlooks: a 40th of a level of 255."""


def measure_outputs(subject: ModelProbe) -> dict[str, Any]:
    """Plain numbers; "right" holds a digit per image, 1 where it is classified right.

    - ``probabilities``: every row of the output is one. (Their logarithms are as good as logits.)
    - ``outputs``: the lowest and the highest output, and the least and the greatest sum of a row, on all these images.
    - ``overlooked``: share of images whose logits stay the same, bit by bit, when every value moves by ``NUDGE``.
    - ``differentiations``: calls of autograd inside one forward.
    - ``right``: of clean images, and of these normalised and denormalised by their own mean and deviation.
    - ``chance``: only of a model that may be no better than chance: its number of classes, and ``right`` of the images
      in other input ranges.
    """
    x = subject.x
    logits = subject.clean_logits
    deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    deviation = deviation.clamp(min=1e-3)
    right, outputs = {"clean": digits(subject.clean_right)}, [logits]
    for name, images in (("normalised", (x - mean) / deviation), ("denormalised", x * deviation + mean)):
        with suppress(ModelError):  # some models refuse what is not in [0, 1], and do well
            outputs.append(subject.logits(images))
            right[name] = digits(outputs[-1].argmax(1) == subject.y)
    with _counting() as calls:
        overlooked = _overlooked(subject, logits)
    return {
        "probabilities": _are_probabilities(logits),
        "outputs": _extent(torch.cat(outputs)),
        "overlooked": overlooked,
        "differentiations": len(calls) // subject.calls,
        "right": right,
        **_near_chance(subject, logits.shape[1]),
    }


def _near_chance(subject: ModelProbe, classes: int) -> dict[str, Any]:
    right = subject.clean_right
    low, high = wilson(int(right.sum()), len(right))
    if low > 1 / classes and high > 1 / classes + CHANCE_SHARE:
        return {}
    found = {}
    for black, white in RANGES:
        with suppress(ModelError):
            found[f"{black},{white}"] = digits(subject.right(subject.x * (white - black) + black))
    return {"chance": {"classes": classes, "right": found}}


def training_modules(model: nn.Module) -> list[str]:
    """Names of modules that stay in training mode after ``eval()``; modes are restored."""
    before = {name: module.training for name, module in model.named_modules()}
    model.eval()
    left = [name or "the model" for name, module in model.named_modules() if module.training]
    for name, module in model.named_modules():
        module.training = before[name]
    return left


def digits(which: Tensor) -> str:
    """bool (n,) as text, "1101"."""
    return "".join("1" if each else "0" for each in which.tolist())


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.sum(1)
    return bool((outputs >= 0).all() and (outputs <= 1).all() and (sums - 1).abs().max() < 1e-3)


def _extent(outputs: Tensor) -> dict[str, float]:
    sums = outputs.sum(1)
    ends = {"lowest": outputs.min(), "highest": outputs.max(), "least_sum": sums.min(), "greatest_sum": sums.max()}
    return {name: float(value) for name, value in ends.items()}


def _overlooked(subject: ModelProbe, logits: Tensor) -> float:
    x = subject.x
    draw = Draw.of(seed_of(subject.seed, "sanity-nudge"), torch.arange(len(x), device=x.device))
    sign = torch.where(draw.uniform(tuple(x.shape[1:]), 0) < 0.5, -torch.ones_like(x), 1)
    sign = torch.where(x > 0.5, -1.0, torch.where(x < 0.1, 1.0, sign))  # stay in the box
    nudged = subject.logits(x + NUDGE * sign)
    return float((nudged == logits).all(1).float().mean())


@contextmanager
def _counting() -> Iterator[list[str]]:
    """Notes every use of autograd's entry points, whoever makes it."""
    calls: list[str] = []

    def noting(name: str, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*arguments, **options)

        return call

    places = [(torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")]
    patches = [mock.patch.object(place, name, noting(name, getattr(place, name))) for place, name in places]
    for patch in patches:
        patch.start()
    try:
        yield calls
    finally:
        for patch in patches:
            patch.stop()
