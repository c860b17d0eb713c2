"""How far the prototypes of Adv-DPNP turn in training, moved by clean images alone or by adversarial ones too.

    python -m benchmarks.claims.stability --out results/studies/prototype-branches.csv

Trains the recipe on digits, three seeds each way. No test image is touched.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from advdpnp.base.files import write_text
from advdpnp.base.statistics import SIGNIFICANT, welch
from advdpnp.datasets import load_dataset
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.state import VECTORS
from advdpnp.training.trainer import train
from benchmarks import timing
from benchmarks.claims.findings import Finding, of_difference, p_text

CHOICES = ("clean", "both")
SEEDS = (0, 1, 2)


def turned(vectors: Tensor) -> float:
    """Degrees by which a class vector turns from one epoch to the next, mean over epochs and classes.

    Args:
        vectors: (epochs, classes, dim), as training stores them.
    """
    directions = normalize(vectors.double(), dim=-1)
    cosines = (directions[1:] * directions[:-1]).sum(-1).clamp(-1, 1)
    return float(torch.rad2deg(cosines.arccos()).mean())


def stable(results: Path) -> list[Finding]:
    """Whether prototypes that clean images alone move turn less, by Welch's test over the seeds."""
    table = pd.read_csv(results / "studies" / "prototype-branches.csv")
    clean, both = (table[table["branches"] == choice] for choice in CHOICES)
    found = welch(both["turned"].tolist(), clean["turned"].tolist())
    said = "; ".join(
        f"{words} {clean[column].mean():.{digits}f} ± {clean[column].std():.{digits}f} against "
        f"{both[column].mean():.{digits}f} ± {both[column].std():.{digits}f} {unit}"
        for column, words, unit, digits in (
            ("turned", "a prototype turns by", "degrees an epoch", 2),
            ("validation_clean", "clean accuracy", "%", 1),
            ("validation_pgd_margin", "PGD on the margin", "%", 1),
        )
    )
    return [
        Finding(
            of_difference(found.value, found.low, found.p, level=SIGNIFICANT, competes=False),
            f"small CNN on digits, 137 held-out images, {len(clean)} seeds, clean images alone against both branches: "
            f"{said}; {p_text(found.p)} for the turns (Welch)",
        )
    ]


def main(
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("results/studies/prototype-branches.csv"),
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
) -> None:
    """Train each way and write a line for each net, of its last epoch."""
    dataset, lines = load_dataset("digits"), []
    for choice in CHOICES:
        for seed in SEEDS:
            settings = [f"method.prototype_branches={choice}", f"seed={seed}"]
            recipe = resolve_recipe("adv-dpnp", dataset.name, None, settings)
            with timing.threads(threads), tempfile.TemporaryDirectory() as folder:
                train(recipe, dataset, Path(folder))
                last = pd.read_csv(Path(folder) / "metrics.csv").iloc[-1]
                vectors = load_file(Path(folder) / VECTORS)["vectors"]
            accuracies = {name: 100 * float(last[name]) for name in ("validation_clean", "validation_pgd_margin")}
            lines.append({"branches": choice, "seed": seed, "turned": turned(vectors), **accuracies})
            print(lines[-1], flush=True)
    write_text(out, pd.DataFrame(lines).to_csv(index=False, float_format="%.4f"))


if __name__ == "__main__":
    typer.run(main)
