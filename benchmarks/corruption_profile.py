r"""How regenerated corruptions compare with the official ones, as far as that can be seen without the files.

    advdpnp eval --dataset cifar10 --model benchmarks.public_models:resnet20 --weights resnet20-12fca82f.th \
        --attacks none --corruptions auto --corruption-types all --limit 2000 --out results/cifar10-public
    python -m benchmarks.corruption_profile --leaderboard results/cifar10-public/leaderboard.csv \
        --net resnet20-12fca82f --out results/benchmarks

A net trained on clean images, on every type: its accuracies beside the published ones of another such net on the
official files. And how far each severity takes images from the clean ones, which must rise but for three types.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import BENCHMARK, EXTRA, SEVERITIES, corrupt
from advdpnp.datasets import load_dataset, to_float
from advdpnp.eval.analysis.columns import read_leaderboard
from benchmarks import timing

PUBLISHED = dict(
    zip(
        BENCHMARK,
        (47.03, 58.78, 55.30, 81.49, 51.00, 77.72, 75.60, 81.89, 75.04, 88.79, 93.28, 82.61, 83.78, 71.98, 77.56),
        strict=True,
    )
)
"""Accuracy in percent of RobustBench's Standard WRN-28-10 (94.78 on clean images) on the official CIFAR-10-C."""
PUBLISHED_SATURATE = (0.046, 0.059, 0.031, 0.079, 0.115)
"""Mean distance to the clean image of the benchmark's own saturate."""


def accuracies(leaderboard: Path, net: str) -> pd.DataFrame:
    """Type by type, ours beside the published; ``off`` is what is left of the difference without its mean.

    Raises:
        AdvdpnpError: the net has no row with all types.
    """
    frame = read_leaderboard(leaderboard)
    columns = [f"corruption:{name}" for name in BENCHMARK]
    rows = frame[frame["model"] == net]
    rows = rows.dropna(subset=columns) if set(columns) <= set(frame) else rows[:0]
    if rows.empty:
        raise AdvdpnpError(f"{leaderboard} has no row of {net} with all 15 corruptions; see the head of this file")
    row = rows.iloc[0]
    table = pd.DataFrame({"case": list(BENCHMARK), "this net": [float(row[column]) for column in columns]})
    table["published"] = list(PUBLISHED.values())
    difference = table["this net"] - table["published"]
    return table.assign(difference=difference, off=difference - difference.mean(), part="accuracy by type")


def distances(count: int) -> pd.DataFrame:
    """Mean absolute distance to the clean image, in [0, 1], by severity."""
    clean = load_dataset("cifar10", train=False).test.images[:count]
    lines = []
    for name in BENCHMARK + EXTRA:
        line = [
            float((to_float(corrupt(clean, name, severity)) - to_float(clean)).abs().mean()) for severity in SEVERITIES
        ]
        rises = all(a < b for a, b in pairwise(line))
        published = " ".join(f"{value:.3f}" for value in PUBLISHED_SATURATE) if name == "saturate" else ""
        shown = {f"severity {place}": f"{value:.4f}" for place, value in zip(SEVERITIES, line, strict=True)}
        lines.append({"case": name, **shown, "rises": "yes" if rises else "no", "published profile": published})
    return pd.DataFrame(lines).assign(part="mean distance to the clean image")


def main(
    leaderboard: Annotated[Path, typer.Option(help="A leaderboard.csv with all types.")],
    net: Annotated[str, typer.Option(help="The model's name there.")],
    images: Annotated[int, typer.Option(min=1, help="For the distances.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the tables.")] = None,
) -> None:
    """Print both tables, and in the last line the rank correlation of the accuracies."""
    profile = accuracies(leaderboard, net)
    rank = profile["this net"].rank().corr(profile["published"].rank())
    off = profile[profile["difference"].abs() > 10]
    last = f"rank correlation with the published profile: {rank:.2f}; types off by more than 10 points: " + (
        ", ".join(f"{row['case']} ({row['difference']:+.1f})" for _, row in off.iterrows()) or "none"
    )
    table = pd.concat([profile, distances(images)], ignore_index=True)
    timing.publish(
        "corruption_profile", "Regenerated corruptions beside the official ones", table, last,
        threads=torch.get_num_threads(), device=torch.device("cpu"), out=out,
    )  # fmt: skip


if __name__ == "__main__":
    timing.run_script(main)
