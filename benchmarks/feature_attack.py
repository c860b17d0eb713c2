"""What an attack on features and prototypes adds to APGD-T: the images that it alone breaks, at equal cost.

    python -m benchmarks.feature_attack results/checkpoints/cifar10-*.safetensors --out results/benchmarks

Both make as many gradients per image. The verdicts are kept, so the same command continues.
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from advdpnp.datasets import load_dataset
from advdpnp.errors import AdvdpnpError
from advdpnp.eval.evaluate import evaluate_models
from advdpnp.eval.results import Row, find_results, make_rows
from advdpnp.statistics import mcnemar
from advdpnp.zoo import load_model
from benchmarks import timing

LOGITS, FEATURES = "apgd-t", "proto"


def line(row: Row) -> dict[str, object]:
    """What each attack leaves of one net's images, in percent, and what either breaks alone."""
    logits, features = row.broken(LOGITS), row.broken(FEATURES)
    alone = row.samples[features & ~logits].tolist()
    return {
        "part": "images broken",
        "case": row.model.name,
        "n": row.n,
        "clean": 100 * float((~row.clean_wrong).mean()),
        LOGITS: 100 * float((~logits).mean()),
        FEATURES: 100 * float((~features).mean()),
        "both": 100 * float((~(logits | features)).mean()),
        "only apgd-t": int((logits & ~features).sum()),
        "only proto": len(alone),
        "p": mcnemar(int((logits & ~features).sum()), len(alone)),
        "samples only proto breaks": " ".join(map(str, alone)),
    }


def main(
    checkpoints: Annotated[list[Path], typer.Argument(help="Nets that were trained here.")],
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
    verdicts: Annotated[Path, typer.Option(help="Folder of the verdicts.")] = Path("runs/feature-attack"),
    limit: Annotated[int, typer.Option(min=1, help="Use the first N test images.")] = 500,
    dataset: str = "cifar10",
) -> None:
    """Run both attacks on every net and print what each finds."""
    data = load_dataset(dataset, train=False)
    models = [load_model(str(path), dataset=data) for path in checkpoints]
    evaluate_models(models, data, out=verdicts, attacks=f"{LOGITS},{FEATURES}", limit=limit)
    rows = make_rows(find_results([verdicts]), np.arange(limit))
    table = pd.DataFrame([line(row) for row in rows if {LOGITS, FEATURES} <= set(row.attacks)])
    last = f"images that {FEATURES} alone breaks: {table['only proto'].sum()} of {table['n'].sum()}"
    timing.publish(
        "feature_attack", "Features and prototypes against logits", table, last, threads=torch.get_num_threads(),
        device=torch.device("cpu"), out=out,
    )  # fmt: skip


if __name__ == "__main__":
    try:
        typer.run(main)
    except AdvdpnpError as error:
        sys.exit(str(error))
