"""The Python interface: models evaluated into a results folder, or one model on arrays in memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from advdpnp.attacks.engine.executor import check_inputs
from advdpnp.attacks.engine.precision import FLOAT32
from advdpnp.base.errors import AdvdpnpError, ModelError, raise_together, with_known_options
from advdpnp.base.files import atomic_path, write_text
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.analysis.columns import accuracy_columns
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.arrays import Images, Labels, to_pair
from advdpnp.eval.choice import IN_THE_NAME, ChosenAttacks, Eps, criterion_for, default_threat
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.early import run_until_narrow
from advdpnp.eval.images import to_folder
from advdpnp.eval.report.csv import leaderboard_to_csv
from advdpnp.eval.report.leaderboard import tabulate_rows, writing_tables
from advdpnp.eval.report.write import write_report
from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.run.components import Components, small_batch_size
from advdpnp.eval.run.device import choose_device
from advdpnp.eval.run.evaluate import requested_rows
from advdpnp.eval.run.memory import MemoryResults
from advdpnp.eval.run.model_run import ModelStopped
from advdpnp.eval.run.progress import Progress, following
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.store.adversarial_images import StoredImages
from advdpnp.eval.store.key import file_name
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.models.classifier import InputRange
from advdpnp.models.loading import LoadedModel, as_loaded
from advdpnp.models.network import Channels, to_normalisation


def evaluate_models(
    models: Sequence[LoadedModel],
    dataset: Dataset,
    *,
    out: Path,
    transfer_from: Sequence[LoadedModel] = (),
    progress: Progress | None = None,
    command: str | None = None,
    components: Components | None = None,
    cluster: Cluster | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate models and write ``out/leaderboard.csv``, ``.md`` and the page; stored verdicts are not repeated.

    Verdicts are written as they are found: after an interruption the same call continues. The rows have exactly the
    samples asked for; attacks that an earlier evaluation has stored for all of these are shown too. The written table
    adds the rows of all other complete evaluations in ``out``. A model that stops answering (its logits become NaN
    under attack, say) does not stop the others; its error is raised last.

    Args:
        models, dataset, out, transfer_from, progress, command, components, cluster: see ``run_until_narrow``.
        options: the fields of ``EvaluationConfig``; without ``norm`` or ``eps`` those of ``default_threat``.

    Returns:
        The rows that were asked for, as ``build_leaderboard`` makes them.

    Raises:
        AdvdpnpError: as ``EvaluationConfig`` and ``run_models``; or, after all else is done, a search that was repeated
            for its images came out otherwise, or results of another model in ``out`` are damaged.
    """
    norm, usual = default_threat(models, options.get("norm"))
    config, results = EvaluationConfig.of(**{"norm": norm, "eps": [usual]} | options), ResultsFolder(out)
    try:
        result = run_until_narrow(
            models, dataset, config, results, transfer_from=transfer_from, progress=progress, command=command,
            components=components, cluster=cluster,
        )  # fmt: skip
        with writing_tables(out):
            rows = requested_rows(models, result, results)
            keys = {row.key for row in rows}
            others = [row for row in make_rows(results.evaluations()) if row.key not in keys]
            write_report([*rows, *others], out)
        result.raise_problems()
        raise_together(results.damaged)
    except ModelStopped as error:
        raise ModelError(f"{error}; what was judged before is kept") from error
    return tabulate_rows(rows)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What was found.

    Attributes:
        row: the leaderboard's row, a data frame of one line; of several radii, a line each.
        verdicts: one line per attack and sample, with the columns of the verdict files.
        adversarials: by attack ("pgd-20", or "pgd-20, linf 8/255" where there are several radii), the images of the
            samples that it broke; empty unless they were asked for.
    """

    row: pd.DataFrame
    verdicts: pd.DataFrame
    adversarials: dict[str, StoredImages] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = []
        for _, line in self.row.iterrows():
            shares = [f"{name} {line[name]:.2f}" for name in accuracy_columns(self.row) if pd.notna(line[name])]
            threat = f", {line['norm']} {line['eps_text']}" if line["norm"] else ""
            flags = f"; flags: {line['flags']}" if line["flags"] else ""
            lines.append(f"{line['model']}{threat}: {', '.join(shares)} % of {line['n']}{flags}")
        return f"Evaluation({' | '.join(lines)})"

    def save(self, folder: Path | str) -> list[Path]:
        """Write ``leaderboard.csv``, ``verdicts.csv``, and the images of each attack, ``adversarials-ATTACK.npz``.

        Returns:
            the files; an image file has ``sample`` (n,), ``x_adv`` (n, c, h, w) and ``intact`` (n,).
        """
        folder = to_folder(folder)
        images = {folder / f"adversarials-{file_name(name)}.npz": each for name, each in self.adversarials.items()}
        paths = [folder / "leaderboard.csv", folder / "verdicts.csv", *images]
        write_text(paths[0], leaderboard_to_csv(self.row))
        write_text(paths[1], self.verdicts.to_csv(index=False, lineterminator="\n"))
        for path, found in images.items():
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, sample=found.sample, x_adv=found.x_adv.numpy(), intact=found.intact)
        return paths


@with_known_options(IN_THE_NAME)
def evaluate(
    model: Callable[..., Any],
    x: Images | Iterable[Any],
    y: Labels | None = None,
    *,
    eps: Eps | Sequence[Eps] | None = None,
    norm: str | None = None,
    attacks: Any = "all",
    targets: str | Labels | None = None,
    budget: int | None = None,
    until_half_width: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    corruptions: str = "none",
    corruption_types: str | Sequence[str] = "benchmark",
    precision: str = FLOAT32,
    engine: str = "own",
    input_range: InputRange | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    name: str | None = None,
    save_adversarials: bool = False,
    sanity: bool = True,
    progress: Progress | bool = False,
) -> Evaluation:
    """Evaluate a model; nothing is left on disk, and model and random generators are left as they were.

    Args:
        model: module, function or ``LoadedModel``: images to logits; see ``advdpnp.models.classifier.Classifier``.
        x, y: images (n, c, h, w), uint8 or floats in [0, 1], and labels, integers (n,); or a DataLoader and None.
        eps, norm: a number or "8/255", several give a row each; "linf", "l2", "l1" or "l0" (changed pixels). By default
            those of attack objects, else those that a checkpoint was trained for, else Linf and ``DEFAULT_EPS[norm]``.
        attacks: "all" (fgsm, pgd-20, cw, autoattack), "none", "fgsm,pgd-20", or a list of names and attack objects.
        targets: "least-likely", "random", "next" or a class for each image make the attacks targeted; columns say so.
        budget: most forwards and backwards of an image in an attack; columns say so: "cw (at most 50 passes)".
        until_half_width: take only the first images, until no interval of worst_case is wider to each side, in points.
        seed, batch_size, device: of the attacks; most images in work at once; None is where the model is.
        corruptions, corruption_types: "none" or "auto"; "benchmark" (15), "all" (19), or names: ["fog", "snow"].
        precision, engine: of the searches, "32", "tf32", "bf16" or "auto"; "own", or "reference" of the packages.
        input_range, mean, std: what the model expects: (0, 255) for black and white; a normalisation by channel.
        name, sanity: of the row, by default that of a loaded model; False leaves out what most flags rest on.
        save_adversarials: return the adversarial images; in bytes if ``x`` is and they break the model still.
        progress: True shows how far it is; an ``advdpnp.eval.run.progress.Progress`` is told what happens.

    Raises:
        AdvdpnpError: unusable images, labels or logits; unknown attacks.

    Example:
        >>> advdpnp.evaluate(net, x, y, eps="8/255").row[["clean", "autoattack"]]  # doctest: +SKIP
    """
    with torch.inference_mode(False), torch.enable_grad():  # images made in inference mode are copied out of it
        images, labels = _checked_pair(x, y)
        loaded = as_loaded(model, name, input_range, to_normalisation(mean, std, images.shape[1]))
        return _evaluate(
            loaded, images, labels, ChosenAttacks.of(attacks), radii=eps, norm=norm, device=device, progress=progress,
            aims=targets, seed=seed, batch_size=batch_size, corruptions=corruptions, corruption_types=corruption_types,
            precision=precision, engine=engine, sanity=sanity, save_adversarials=save_adversarials, budget=budget,
            until_half_width=until_half_width,
        )  # fmt: skip


def _checked_pair(x: Any, y: Labels | None) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = to_pair(x, y)
    # Bytes are images whatever they are: their labels are all there is to check.
    check_inputs(images if images.is_floating_point() else torch.zeros(len(labels), 1, 1, 1), labels)
    if len(labels) != len(images):
        raise AdvdpnpError(f"there are {len(images)} images but {len(labels)} labels; give one label per image")
    if not len(images):
        raise AdvdpnpError("there are no images to evaluate")
    return images, labels


def _evaluate(
    loaded: LoadedModel,
    images: torch.Tensor,
    labels: torch.Tensor,
    chosen: ChosenAttacks,
    *,
    radii: Any,
    norm: str | None,
    aims: str | Labels | None,
    device: str | torch.device | None,
    progress: Progress | bool,
    **options: Any,
) -> Evaluation:
    radii, norm = chosen.threat(radii, norm, loaded)
    options |= {"attacks": chosen.text, "eps": radii, "norm": norm}
    if aims is not None:
        chosen = replace(chosen, criterion=criterion_for(aims, labels))
    classes = int(labels.max()) + 1
    empty = Split(images[:0], labels[:0])
    dataset = Dataset("arrays", tuple(map(str, range(classes))), empty, empty, Split(images, labels), "none")
    if device is None:
        model = loaded.model
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), images.device)
    config = EvaluationConfig.of(device=device, **options)
    results = MemoryResults()
    size = small_batch_size(len(images), choose_device(config.device))
    components = Components(resolve_attacks=chosen.resolve, static_batch_size=size)
    with following(progress) as follower:
        result = run_until_narrow(
            [loaded], dataset, config, results, progress=follower, command="advdpnp.evaluate", components=components
        )
    row = tabulate_rows(requested_rows([loaded], result, results))
    result.raise_problems()
    units = results.evaluations()
    verdicts = pd.concat([unit.keyed_frame() for unit in units], ignore_index=True)
    attacked = {
        unit.label if len(config.threats) == 1 else f"{unit.label}, {unit.threat.label}": unit
        for unit in units
        if config.save_adversarials and unit.threat
    }
    found = {label: _stored_images(unit, dataset.test) for label, unit in attacked.items()}
    return Evaluation(row, verdicts, found)


def _stored_images(unit: StoredEvaluation, split: Split) -> StoredImages:
    """All adversarial images of a unit, sorted by sample."""
    parts = list(unit.adversarials(split.some_images, len(split)))
    if not parts:
        return StoredImages(np.zeros(0, np.int64), split.images[:0].cpu().float(), np.zeros(0, bool))
    sample = np.concatenate([part.sample for part in parts])
    order = np.argsort(sample)
    x_adv = torch.cat([part.x_adv for part in parts])[torch.from_numpy(order)]
    return StoredImages(sample[order], x_adv, np.concatenate([part.intact for part in parts])[order])
