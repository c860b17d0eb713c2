"""Make the table and the figure from stored verdicts.

python -m benchmarks.price
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from advdpnp.base.files import write_text
from benchmarks import timing
from benchmarks.price.figure import draw
from benchmarks.price.nets import RESULTS
from benchmarks.price.table import all_rows, summary

_MEANINGS = """Columns, over the nets:

- `difference`: robust accuracy less AutoAttack's on the same images, in points, mean; `worst`: of the worst net
- `missed`: images that AutoAttack breaks and the attack does not; `beyond`: the other way round
- `passes`: forwards and backwards of an image, mean over all images: those that are wrong unchanged or break early cost
  little; `share`: of AutoAttack's; `most`: of the dearest image"""


def main(
    out: Annotated[Path, typer.Option(help="Folder of the verdicts, the tables and the figure.")] = RESULTS / "price",
) -> None:
    """Write price.csv, price.md and price.png beside the verdicts."""
    rows = all_rows(pd.read_parquet(out / "verdicts.parquet"))
    table = summary(rows)
    write_text(out / "price.csv", rows.to_csv(index=False, float_format="%.4f"))
    write_text(out / "price.md", as_text(rows, table))
    draw(rows, table, out / "price.png")
    typer.echo(table.round(3).to_string(index=False))


def as_text(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """The tables in Markdown: over the nets, and of each."""
    shown = table.assign(
        difference=table["difference"].map("{:+.2f}".format), worst=table["worst"].map("{:+.2f}".format),
        passes=table["passes"].map("{:,.0f}".format), share=(100 * table["share"]).map("{:.1f} %".format),
        most=table["most"].map("{:,}".format),
    )  # fmt: skip
    each = rows.pivot(index="model", columns="attack", values="difference")[[*table["attack"]]]
    left = rows[rows["attack"] == "autoattack"].set_index("model")["robust"].rename("autoattack leaves")
    each = left.to_frame().join(each.drop(columns="autoattack")).loc[rows["model"].unique()]
    cells = each.map(lambda value: "" if pd.isna(value) else f"{value:+.1f}")
    cells["autoattack leaves"] = left.map("{:.1f}".format)
    parts = (
        "# What attacks cost and what they miss", _MEANINGS,
        shown.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (shown.shape[1] - 1)),
        "## Points above AutoAttack, net by net",
        cells.to_markdown(disable_numparse=True, colalign=["left"] + ["right"] * cells.shape[1]),
    )  # fmt: skip
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    timing.run_script(main)
