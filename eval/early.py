"""An evaluation of only as many images as it takes to know a robust accuracy well enough."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from advdpnp.base.statistics import wilson
from advdpnp.datasets import Dataset
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.evaluate import RunResult, requested_rows, run_models
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import Results
from advdpnp.models.loading import LoadedModel

STEP = 64
"""The number of images is a multiple of it: a round of fewer images would cost more than it saves."""


def run_until_narrow(
    models: Sequence[LoadedModel], dataset: Dataset, config: EvaluationConfig, results: Results, **options: Any
) -> RunResult:
    """As ``run_models``; with ``config.until_half_width``, on the first images, until every row is known so well.

    Rounds of more and more images, the same for all models. The next number is that at which the interval would be
    narrow enough if accuracies stayed as they are, so it follows from the verdicts alone. An interval that says when to
    stop covers a little less often than it says; the width depends on the accuracy only weakly.

    Args:
        models, dataset, config, results, options: see ``run_models``.

    Returns:
        That of the last round. Its plan has the images that were used.

    Raises:
        AdvdpnpError: as ``run_models``.
    """
    if config.until_half_width is None:
        return run_models(models, dataset, config, results, **options)
    most = len(dataset.test) if config.limit is None else min(config.limit, len(dataset.test))
    n = min(2 * STEP, most)
    warnings: dict[str, None] = {}
    while True:
        result = run_models(models, dataset, config.model_copy(update={"limit": n}), results, **options)
        warnings |= dict.fromkeys(result.warnings)  # a later round reads what this one has searched, without a word
        shares = [1 - float(row.misclassified_under_any.mean()) for row in requested_rows(models, result, results)]
        needed = max((images_needed(share, config.until_half_width / 100) for share in shares), default=n)
        if n >= min(needed, most):
            if needed > most:
                (options.get("progress") or Progress()).say(
                    f"an interval of {config.until_half_width:g} points to each side was not reached: as accuracies "
                    f"are, it takes {needed:,} images, and there are {most:,}"
                )
            return replace(result, warnings=tuple(warnings))
        n = min(needed, most)


def images_needed(share: float, half_width: float) -> int:
    """The least number of images, a multiple of ``STEP``, whose 95 % interval is at most ``half_width`` to each side.

    Args:
        share: the accuracy, in [0, 1].
        half_width: half of high - low, in (0, 0.5).
    """
    low, high = 0, 1  # in steps; the interval of low is too wide
    while not _narrow(share, high * STEP, half_width):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _narrow(share, middle * STEP, half_width) else (middle, high)
    return high * STEP


def _narrow(share: float, n: int, half_width: float) -> bool:
    interval = wilson(min(share * n, n), n)
    return interval.high - interval.low <= 2 * half_width
