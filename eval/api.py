"""The Python interface: models evaluated into a results folder, or one model on arrays in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import check_inputs
from advdpnp.attacks.engine.precision import FLOAT32
from advdpnp.base.errors import AdvdpnpError, ModelError, one_speaks
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.report.leaderboard import tabulate_rows, writing_tables
from advdpnp.eval.report.write import write_report
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.evaluate import requested_rows, run_models
from advdpnp.eval.run.memory import MemoryResults
from advdpnp.eval.run.model_run import ModelStopped
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.ranks import ALONE, Shard
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.store.adversarial_images import StoredImages
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel


def evaluate_models(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    *,
    out: Path,
    shard: Shard = ALONE,
    transfer_from: Sequence[LoadedModel] = (),
    progress: Progress | None = None,
    command: str | None = None,
    components: Components | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate models and write ``out/leaderboard.csv``, ``.md`` and the page; stored verdicts are not repeated.

    Verdicts are written as they are found: after an interruption the same call continues. The rows have exactly the
    samples asked for; attacks that an earlier evaluation has stored for all of these are shown too. The written table
    adds the rows of all other complete evaluations in ``out``. A model that stops answering (its logits become NaN
    under attack, say) stops the others only where several processes share the work; its error is raised last.

    Args:
        models, dataset, out, shard, transfer_from, progress, command, components: see ``run_models``.
        options: the fields of ``EvaluationConfig``.

    Returns:
        The rows that were asked for, as ``build_leaderboard`` makes them; none but in the first process.

    Raises:
        AdvdpnpError: as ``EvaluationConfig`` and ``run_models``; or, after all else is done, a search that was repeated
            for its images came out otherwise.
    """
    with one_speaks(shard.first):
        config = EvaluationConfig.of(**options)
    results = ResultsFolder(out, shard)
    try:
        result = run_models(
            models, dataset, config, results, transfer_from=transfer_from, progress=progress, command=command,
            components=components,
        )  # fmt: skip
        if not shard.first:
            return tabulate_rows([])
        with writing_tables(out):
            rows = requested_rows(models, result, results)
            keys = {row.key for row in rows}
            others = [row for row in make_rows(results.evaluations()) if row.key not in keys]
            write_report([*rows, *others], out)
        result.raise_problems()
    except ModelStopped as error:
        raise ModelError(f"{error}; what was judged before is kept") from error
    return tabulate_rows(rows)


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        row: the leaderboard's row, a data frame of one line.
        verdicts: one line per attack and sample, with the columns of the verdict files.
        adversarials: by attack, the images of the samples that it broke; empty unless they were asked for.
    """

    row: pd.DataFrame
    verdicts: pd.DataFrame
    adversarials: dict[str, StoredImages] = field(default_factory=dict)


def evaluate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | Sequence[int],
    *,
    eps: str | float = "8/255",
    norm: str = "linf",
    attacks: str | Sequence[str] = "all",
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    corruptions: str = "none",
    corruption_types: str | Sequence[str] = "benchmark",
    precision: str = FLOAT32,
    engine: str = "own",
    name: str = "model",
    save_adversarials: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model; nothing is left on disk, and model and random generators are left as they were.

    Args:
        model: maps float32 images (n, c, h, w) in [0, 1] to logits (n, classes).
        x: images (n, c, h, w): uint8, or floats in [0, 1].
        y: labels, integers (n,).
        eps: radius, a number or "8/255".
        norm: "linf", "l2", "l1" or "l0" (changed pixels).
        attacks: "all" (fgsm, pgd-20, cw, autoattack), "none", or names: ["fgsm", "pgd-20"], or one text with commas.
        seed: of everything random in the attacks.
        batch_size: most images in work at once.
        device: where to run; None is where the model is.
        corruptions: "none" or "auto".
        corruption_types: "benchmark" (15), "all" (19), or names: ["fog", "snow"], or one text with commas.
        precision: of the searches: "32", "tf32", "bf16" or "auto". Verdicts are always float32; columns of a search of
            lower precision say so: "autoattack (bf16 search)".
        engine: "own", or "reference" for the same attacks of torchattacks and pyautoattack.
        name: what the row calls the model.
        save_adversarials: return the adversarial image of every sample that an attack breaks. They are rounded to bytes
            where that breaks the model still and the images ``x`` are bytes.
        progress: is told what happens.

    Raises:
        AdvdpnpError: unusable images, labels or logits; unknown attacks.

    Example:
        >>> advdpnp.evaluate(net, x, y, eps="8/255").row[["clean", "autoattack"]]  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise AdvdpnpError(f"the model must be a torch.nn.Module, not {type(model).__name__}; load_model loads files")
    attacks = _attacks(attacks)
    _check_kinds(
        eps=(eps, (str, int, float)), norm=(norm, str), seed=(seed, int), batch_size=(batch_size, (int, NoneType))
    )
    with torch.inference_mode(False):  # gradients are needed; images made inside it are copied outside
        return _evaluate(
            model, _images(x), _labels(y), name=name, device=device, eps=[eps], norm=norm, attacks=attacks, seed=seed,
            batch_size=batch_size, corruptions=corruptions, corruption_types=corruption_types, precision=precision,
            engine=engine, save_adversarials=save_adversarials, progress=progress,
        )  # fmt: skip


def _evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    name: str,
    device: str | torch.device | None,
    progress: Progress | None,
    **options: Any,
) -> Evaluation:
    wrong = {str(weight.dtype) for weight in model.parameters() if weight.is_floating_point()} - {"torch.float32"}
    if wrong:
        raise AdvdpnpError(f"the model's weights are {', '.join(sorted(wrong))}; evaluate model.float()")
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise AdvdpnpError("the model was made inside torch.inference_mode, which has no gradients; make it outside")
    # Bytes are images whatever they are: their labels are all there is to check.
    check_inputs(images if images.is_floating_point() else torch.zeros(len(labels), 1, 1, 1), labels)
    if len(labels) != len(images):
        raise AdvdpnpError(f"there are {len(images)} images but {len(labels)} labels; give one label per image")
    if not len(images):
        raise AdvdpnpError("there are no images to evaluate")
    classes = int(labels.max()) + 1
    empty = Split(images[:0], labels[:0])
    dataset = Dataset("arrays", tuple(map(str, range(classes))), empty, empty, Split(images, labels), "none")
    if device is None:
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), images.device)
    config = EvaluationConfig.of(device=device, **options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    loaded = LoadedModel(model, name, weights_hash(model), type(model).__name__, "", parameters, {})
    results = MemoryResults()
    result = run_models([loaded], dataset, config, results, progress=progress, command="advdpnp.evaluate")
    row = tabulate_rows(requested_rows([loaded], result, results))
    result.raise_problems()
    units = results.evaluations()
    verdicts = pd.concat([unit.keyed_frame() for unit in units], ignore_index=True)
    found = {
        unit.label: _stored_images(unit, dataset.test) for unit in units if config.save_adversarials and unit.threat
    }
    return Evaluation(row, verdicts, found)


def _attacks(attacks: str | Sequence[str]) -> str:
    names = [attacks] if isinstance(attacks, str) else attacks
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        raise AdvdpnpError(f'attacks are a text or a list of names such as ["fgsm", "pgd-20"], not {attacks!r}')
    return ",".join(names)


def _check_kinds(**values: tuple[object, type | tuple[type, ...]]) -> None:
    for name, (value, kinds) in values.items():
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise AdvdpnpError(
                f"{name} cannot be {value!r}; give one number" + (" or text" if name in ("eps", "norm") else "")
            )


def _stored_images(unit: StoredEvaluation, split: Split) -> StoredImages:
    """All adversarial images of a unit, sorted by sample."""
    parts = list(unit.adversarials(split.some_images, len(split)))
    if not parts:
        return StoredImages(np.zeros(0, np.int64), split.images[:0].cpu().float(), np.zeros(0, bool))
    sample = np.concatenate([part.sample for part in parts])
    order = np.argsort(sample)
    x_adv = torch.cat([part.x_adv for part in parts])[torch.from_numpy(order)]
    return StoredImages(sample[order], x_adv, np.concatenate([part.intact for part in parts])[order])


def _images(x: Tensor | np.ndarray) -> Tensor:
    if isinstance(x, np.ndarray) and x.dtype.kind not in "uif":
        raise AdvdpnpError(f"images must be numbers, uint8 or floats in [0, 1], not {x.dtype}")
    images = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    if not isinstance(images, Tensor):
        raise AdvdpnpError(f"images must be a tensor or an array (n, c, h, w), not {type(x).__name__}")
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise AdvdpnpError(
            f"images must be (n, c, h, w), uint8 or floats in [0, 1]; "
            f"these are {images.dtype} of shape {tuple(images.shape)}"
        )
    images = images.detach().clone() if images.is_inference() else images.detach()
    return images if images.dtype == torch.uint8 else images.float()


def _labels(y: Tensor | np.ndarray | Sequence[int]) -> Tensor:
    try:
        labels = torch.as_tensor(y).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AdvdpnpError(
            f"labels must be integers, one per image, not {type(y).__name__} of something else"
        ) from None
    labels = labels.clone() if labels.is_inference() else labels
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.dim() != 1:
        raise AdvdpnpError(
            f"labels must be integers, one per image; these are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return labels.long()
