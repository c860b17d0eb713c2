"""Writes the page of claims: ``python -m benchmarks.claims --out results/claims.md``."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.base.files import write_text
from benchmarks.claims.findings import together
from benchmarks.claims.list import CLAIMS

INTRODUCTION = """# What the papers claim, and what was measured here

Every claim of the three abstracts, in our words. The methods are reconstructions (see [papers](../docs/papers.md)),
the nets are small and the budgets short: a claim that does not hold here may hold at the papers' scale, and the other
way round.

Intervals are 95 % intervals. A claim to be better is not decided where the interval includes zero; a claim to compete
holds where it excludes a loss of 3 points. A claim holds if one measurement says so and none says the opposite, and in
part if both occur, or if a measurement has two parts and one of them holds. With one seed, p and interval speak of the
images, not of trainings. The small CNN and the tiny ResNet of adv-dpnp were trained by the recipe as it was before
([its values](cifar10/README.md)), the ResNet-18 by that of now. RIVAL is a method and NET a checkpoint. Made from
stored results by

    python -m benchmarks.claims --out results/claims.md
"""


def page(results: Path) -> str:
    """The page as Markdown, from the folder of results."""
    lines = [INTRODUCTION]
    for paper, claims in CLAIMS.items():
        lines += [f"## {paper}\n", "| claim | here | measured | command |", "|:--|:--|:--|:--|"]
        for claim in claims:
            findings = claim.test(results)
            several = len(findings) > 1
            words = "<br>".join(f"{each.words}" + several * f" ({each.verdict})" for each in findings)
            lines.append(f"| {claim.words} | **{together(findings)}** | {words} | `{claim.command}` |")
        lines.append("")
    return "\n".join(lines)


def main(
    results: Annotated[Path, typer.Option(help="Folder of the stored results.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("results/claims.md"),
) -> None:
    """Judge every claim from stored results and write the page."""
    write_text(out, page(results))
    print(out)


if __name__ == "__main__":
    typer.run(main)
