"""Run the attacks that the table lacks, then write the table and the figure.

python -m benchmarks.attack_libraries --weights data/checkpoints/cifar_cnn_a_adv.model --out results/attack-libraries
"""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from advdpnp.base.files import write_text
from advdpnp.datasets import load_dataset, to_float
from advdpnp.models.loading import load_model
from benchmarks import timing
from benchmarks.attack_libraries.chosen import RADII, in_turns
from benchmarks.attack_libraries.figure import draw
from benchmarks.attack_libraries.run import COLUMNS, measure, settled


def main(
    weights: Annotated[Path, typer.Option(help="Weights of the net.")] = Path("data/checkpoints/cifar_cnn_a_adv.model"),
    net: Annotated[str, typer.Option(help="Factory of the net.")] = "benchmarks.public_models:cifar_cnn_a",
    samples: Annotated[int, typer.Option(min=1, help="CIFAR-10 test images.")] = 100,
    norms: Annotated[str, typer.Option(help="Norms to run, with commas.")] = ",".join(RADII),
    minutes: Annotated[float, typer.Option(help="After which no further attack begins.")] = 20,
    seconds: Annotated[
        int, typer.Option(min=1, help="Of processor time, after which one attack is stopped; one that had less is run.")
    ] = 60,
    out: Annotated[Path, typer.Option(help="Folder of the table; attacks in it are not run again.")] = Path(
        "results/attack-libraries"
    ),
) -> None:
    """Run, save after every attack, and draw."""
    torch.set_num_threads(1)
    data = load_dataset("cifar10", train=False)
    model = load_model(net, weights=weights, dataset=data).model.eval()
    x, y = to_float(data.test.images[:samples]), data.test.labels[:samples]
    path = out / "attacks.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = settled(rows, seconds)
    done = {(row["norm"], row["attack"]) for row in rows}
    begin = time.monotonic()
    for norm, name in in_turns():
        if norm not in norms.split(",") or (norm, name) in done or time.monotonic() - begin > 60 * minutes:
            continue
        rows.append(measure(norm, name, RADII[norm], model, x, y, seconds))
        print(rows[-1], flush=True)
        write_text(path, ordered(pd.DataFrame(rows)).to_csv(index=False, float_format="%.4f"))
    table = ordered(pd.DataFrame(rows))
    draw(table, out / "attacks.png")
    facts = timing.circumstances("python -m benchmarks.attack_libraries", 1, torch.device("cpu"))
    libraries = {each: version(each) for each in ("foolbox", "adv-lib", "adversarial-robustness-toolbox")}
    facts["versions"] += "".join(f", {name} {number}" for name, number in libraries.items())
    about = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    norms = [f"{norm.capitalize()} {eps}" for norm, eps in zip(table["norm"], table["eps"], strict=True)]
    whole = {column: table[column].map("{:.0f}".format).replace("nan", "") for column in ("verified", "refused")}
    nearest = table["median distance"].map("{:.4g}".format).replace("nan", "")
    shown = table.assign(part=norms, note=table["note"].fillna(""), **whole, **{"median distance": nearest})
    text = timing.as_markdown(shown.drop(columns=["norm", "eps"]))
    write_text(out / "attacks.md", f"# All attacks on {samples} images\n\n{about}\n\n{text}\n")


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by norm, accuracy and cost; attacks without numbers last."""
    table = table.reindex(columns=COLUMNS)  # rows with a note alone lack those of numbers
    table = table.assign(cost=table["forwards"] + table["backwards"], place=table["norm"].map(list(RADII).index))
    return table.sort_values(["place", "accuracy", "cost", "attack"]).drop(columns=["cost", "place"])


if __name__ == "__main__":
    timing.run_script(main)
