"""Run the attacks whose verdicts no evaluation has stored yet, and keep their verdicts in one file.

python -m benchmarks.price.search --public data/checkpoints --work /tmp/price
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from advdpnp.base.files import atomic_path
from advdpnp.datasets import load_dataset
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.store.reader import StoredEvaluation, find_results
from benchmarks import timing
from benchmarks.price.nets import NETS, RESULTS

SEARCHED = ("apgd-ce", "mm-3", "mm-5", "mm-9", "quick", "pma", "strong")
COLUMNS = ("sample", "label", "clean_prediction", "success", "forwards", "backwards", "stage")
"""What is kept of a verdict, beside the model and the attack."""


def main(
    public: Annotated[Path, typer.Option(help="Folder of the public nets.")] = Path("data/checkpoints"),
    work: Annotated[Path, typer.Option(help="Results folder; what it holds is not searched again.")] = Path("price"),
    attacks: Annotated[str, typer.Option(help="Attacks to run, with commas.")] = ",".join(SEARCHED),
    nets: Annotated[str, typer.Option(help="Names of nets, with commas.")] = ",".join(net.name for net in NETS),
    limit: Annotated[int, typer.Option(min=1, help="First test images.")] = 200,
    out: Annotated[Path, typer.Option(help="File of the verdicts.")] = RESULTS / "price" / "verdicts.parquet",
) -> None:
    """One attack after the other on all nets; the file is written after each."""
    torch.set_num_threads(1)
    data = load_dataset("cifar10", train=False)
    for attack in attacks.split(","):
        for net in (net for net in NETS if net.name in nets.split(",")):
            options = {"attacks": attack, "eps": [net.eps], "limit": limit, "sanity": False, "device": "cpu"}
            evaluate_models([net.load(data, public)], data, out=work, **options)
            frame = joined(out, gathered(find_results([work])))
            with atomic_path(out) as temporary:
                frame.to_parquet(temporary, index=False, compression="zstd")
            print(net.name, attack, flush=True)


def joined(path: Path, new: pd.DataFrame) -> pd.DataFrame:
    """The verdicts of the file, if there is one, and the new ones, which replace those of the same samples."""
    both = pd.concat([pd.read_parquet(path), new]) if path.exists() else new
    kept = both.drop_duplicates(["model", "attack", "sample"], keep="last")
    return kept.sort_values(["model", "attack", "sample"], ignore_index=True)


def gathered(units: Sequence[StoredEvaluation]) -> pd.DataFrame:
    """The verdicts of all attacks in one table."""
    parts = [
        unit.verdicts.frame[list(COLUMNS)].assign(model=unit.model.name, attack=unit.label)
        for unit in units
        if unit.threat is not None and unit.label in SEARCHED
    ]
    return pd.concat(parts, ignore_index=True)[["model", "attack", *COLUMNS]]


if __name__ == "__main__":
    timing.run_script(main)
