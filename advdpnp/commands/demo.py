"""``advdpnp demo``: four methods on real digits, all attacks, one leaderboard."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advdpnp.commands.evaluate import evaluate
from advdpnp.commands.support.options import Device, Seed
from advdpnp.commands.support.training import training_bar

if TYPE_CHECKING:
    from advdpnp.datasets import Dataset

EPILOG = "Example: `advdpnp demo --out /tmp/demo`"

Out = Annotated[Path, typer.Option(help="Folder for the runs and the results.")]
Limit = Annotated[int, typer.Option(min=1, help="Number of test images to attack.")]

RECIPES = ("ce", "dpnp", "pgd-at", "adv-dpnp")
CURVE = ("0.02", "0.05", "0.15", "0.2")
CURVE_ATTACKS = "fgsm,pgd-20,cw"


def demo(out: Out = Path("demo"), seed: Seed = 0, limit: Limit = 200, device: Device = "auto") -> None:
    """Train ce, dpnp, pgd-at and adv-dpnp on real digits, run all attacks on them, show the leaderboard."""
    from advdpnp.datasets import load_dataset

    dataset = load_dataset("digits")
    runs = [_train(name, dataset, out / "runs", seed, device) for name in RECIPES]  # continues what is there
    _evaluate_curve(out, runs, dataset, seed, limit, device)
    evaluate(runs, dataset="digits", limit=limit, seed=seed, out=out / "results", device=device)


def _train(name: str, dataset: "Dataset", folder: Path, seed: int, device: str) -> Path:
    from advdpnp.training.recipe import resolve_recipe
    from advdpnp.training.trainer import Hardware, train

    run = folder / (name if seed == 0 else f"{name}-s{seed}")
    with training_bar(run.name) as report:
        train(
            resolve_recipe(name, "digits", {"seed": seed}),
            dataset,
            run,
            resume=True,
            hardware=Hardware(device),
            report=report,
            resume_command="advdpnp demo",
        )
    return run


def _evaluate_curve(out: Path, runs: list[Path], dataset: "Dataset", seed: int, limit: int, device: str) -> None:
    """Fast attacks at other radii, for the curve of accuracy against eps; their rows follow in the same tables."""
    from advdpnp.eval.api import evaluate_models
    from advdpnp.eval.run.progress import following
    from advdpnp.models.loading import load_model

    with following(True) as progress:
        evaluate_models(
            [load_model(str(run), dataset=dataset) for run in runs],
            dataset,
            out=out / "results",
            attacks=CURVE_ATTACKS,
            eps=CURVE,
            limit=limit,
            seed=seed,
            device=device,
            progress=progress,
        )
