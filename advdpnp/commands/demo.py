"""The demonstration: four methods on real digits, everything against them, one leaderboard."""

from pathlib import Path

from advdpnp.base.plotting import model_colours
from advdpnp.commands.console import evaluation_bar, training_bar
from advdpnp.commands.evaluate import evaluate_command
from advdpnp.datasets import Dataset, load_dataset
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report.figures.epsilon_curve import draw_accuracy_against_eps
from advdpnp.eval.run.evaluate import evaluate_models
from advdpnp.eval.store.reader import find_results
from advdpnp.models.loading import load_model
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.trainer import Hardware, train

RECIPES = ("ce", "dpnp", "pgd-at", "adv-dpnp")
CURVE = ("0.02", "0.05", "0.15", "0.2")
CURVE_ATTACKS = "fgsm,pgd-20,cw"


def run_demo(folder: Path, *, seed: int, limit: int, device: str) -> None:
    """Train the four methods into ``folder/runs``, evaluate them into ``folder/results``; continues what is there."""
    dataset = load_dataset("digits")
    runs = []
    for name in RECIPES:
        run = folder / "runs" / (name if seed == 0 else f"{name}-s{seed}")
        recipe = resolve_recipe(name, "digits", {"seed": seed})
        with training_bar(run.name) as report:
            train(
                recipe,
                dataset,
                run,
                resume=True,
                hardware=Hardware(device),
                report=report,
                resume_command="advdpnp demo",
            )
        runs.append(run)
    _evaluate_curve(folder, runs, dataset, seed, limit, device)
    evaluate_command(
        checkpoints=runs,
        models=[],
        weights=[],
        names=[],
        mean=None,
        std=None,
        dataset="digits",
        attacks="all",
        corruptions="auto",
        norm=None,
        eps=[],
        limit=limit,
        seed=seed,
        batch_size=None,
        results=folder / "results",
        data_root=None,
        download=False,
        device=device,
    )
    _draw_curve(folder)


def _evaluate_curve(folder: Path, runs: list[Path], dataset: Dataset, seed: int, limit: int, device: str) -> None:
    """Cheap attacks at other radii, kept apart so that the leaderboard shows one threat model."""
    with evaluation_bar() as progress:
        evaluate_models(
            [load_model(str(run), dataset=dataset) for run in runs],
            dataset,
            out=folder / "curve",
            attacks=CURVE_ATTACKS,
            eps=CURVE,
            limit=limit,
            seed=seed,
            device=device,
            progress=progress,
        )


def _draw_curve(folder: Path) -> None:
    """Accuracy against eps, from both sets of results: the figure of one radius alone would be a straight line."""
    rows = make_rows(find_results([folder / "curve", folder / "results"]))
    colours = model_colours(sorted({row.model.name for row in rows}))
    draw_accuracy_against_eps(rows, colours, folder / "results")
