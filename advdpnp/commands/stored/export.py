"""``advdpnp export``: stored results for a paper, the Hub, RobustBench or another program."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advdpnp.base.errors import AdvdpnpError, did_you_mean
from advdpnp.commands.support import console
from advdpnp.commands.support.options import DataRoot

if TYPE_CHECKING:
    from advdpnp.eval.analysis.rows import Row

EPILOG = (
    "Examples: `advdpnp export latex results/cifar10 --columns clean,pgd-20,autoattack` and "
    "`advdpnp export model-card results/cifar10 --model cifar10-pgd-at-s0 --out README.md`"
)

FORMATS = ("latex", "bibtex", "model-card", "robustbench", "npz", "png")

Format = Annotated[
    str,
    typer.Argument(
        metavar="FORMAT",
        help="`latex` (tables), `bibtex` (of attacks and methods), `model-card` (Hugging Face), `robustbench` (its "
        "model_info), `npz` or `png` (adversarial images).",
    ),
]
Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Folders with verdicts, searched to any depth.")]
Columns = Annotated[
    str | None,
    typer.Option(help="latex: columns in this order, comma-separated.", show_default="all that have numbers"),
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only this model; needed where there are several, but for tables.")
]
Attack = Annotated[str | None, typer.Option(help="npz, png: whose images; needed where there are several.")]
Out = Annotated[Path | None, typer.Option(help="File (png: folder) to write.", show_default="standard output")]


def export(
    format_: Format,
    folders: Folders,
    columns: Columns = None,
    model: Model = None,
    attack: Attack = None,
    out: Out = None,
    data_root: DataRoot = None,
) -> None:
    """Print or write stored results as LaTeX, BibTeX, a model card, an entry for RobustBench, or images."""
    from advdpnp.eval.analysis.rows import make_rows
    from advdpnp.eval.store.reader import readable_results

    if format_ not in FORMATS:
        hint = did_you_mean(format_, FORMATS, otherwise=f"choose one of {', '.join(FORMATS)}")
        raise AdvdpnpError(f"there is no export called '{format_}'; {hint}")
    if attack is not None and format_ not in ("npz", "png"):
        raise AdvdpnpError(f"--attack chooses images for npz and png; leave it out for {format_}")
    if columns is not None and format_ != "latex":
        raise AdvdpnpError(f"--columns chooses columns of latex tables; leave it out for {format_}")
    with readable_results(folders) as found:
        rows = make_rows(found)
        if model is not None or format_ not in ("latex", "bibtex"):
            rows = _of_one_model(rows, model)
        if format_ in ("npz", "png"):
            _write_images(_with_attack(rows, attack), format_, out, data_root)
            return
        _write(_TEXTS[format_](rows, [name.strip() for name in columns.split(",")] if columns else None), out)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    from advdpnp.base.files import write_text

    write_text(out, text)
    console.out.print(f"{out}")


def _latex(rows: "Sequence[Row]", columns: Sequence[str] | None) -> str:
    from advdpnp.eval.report.exports.latex import to_latex
    from advdpnp.eval.report.leaderboard import tabulate_rows

    return to_latex(tabulate_rows(rows), columns)


def _bibtex(rows: "Sequence[Row]", columns: Sequence[str] | None) -> str:
    from advdpnp.eval.report.exports.bibtex import to_bibtex

    return to_bibtex(rows)


def _model_card(rows: "Sequence[Row]", columns: Sequence[str] | None) -> str:
    from advdpnp.eval.report.exports.model_card import to_model_card
    from advdpnp.eval.report.leaderboard import tabulate_rows

    return to_model_card(tabulate_rows(rows), rows)


def _robustbench(rows: "Sequence[Row]", columns: Sequence[str] | None) -> str:
    from advdpnp.eval.report.exports.model_info import to_model_info

    return to_model_info(rows)


_TEXTS: dict[str, Callable[["Sequence[Row]", Sequence[str] | None], str]] = {
    "latex": _latex, "bibtex": _bibtex, "model-card": _model_card, "robustbench": _robustbench,
}  # fmt: skip


def _of_one_model(rows: "Sequence[Row]", name: str | None) -> "list[Row]":
    """Raises:
    AdvdpnpError: no model, or several, are meant.
    """
    names = sorted({row.model.name for row in rows})
    if name is None and len(names) > 1:
        raise AdvdpnpError(f"there are results of {len(names)} models; choose one with --model: {', '.join(names)}")
    if name is not None and name not in names:
        hint = did_you_mean(name, names, otherwise=f"choose one of {', '.join(names)}")
        raise AdvdpnpError(f"there are no results of a model called '{name}'; {hint}")
    found = [row for row in rows if name in (None, row.model.name)]
    if len({row.model.weights_hash for row in found}) > 1:
        folders = ", ".join(sorted({str(row.clean.folder) for row in found}))
        raise AdvdpnpError(
            f"models with different weights are called '{found[0].model.name}'; name the folder of one: {folders}"
        )
    return found


def _with_attack(rows: "Sequence[Row]", attack: str | None) -> "tuple[Row, str]":
    """Raises:
    AdvdpnpError: no attack, or several, are meant.
    """
    stored = [(row, label) for row in rows for label, unit in row.attacks.items() if unit.record.saved]
    found = [(row, label) for row, label in stored if attack in (None, label)]
    if len(found) == 1:
        return found[0]
    choices = "; ".join(f"{label} ({row.threat.label}, seed {row.seed})" for row, label in stored)
    if not stored:
        raise AdvdpnpError(
            "no adversarial images are stored here; repeat the evaluation with --save-adversarials, which searches the "
            "broken samples again"
        )
    if not found:
        raise AdvdpnpError(f"no images of '{attack}' are stored here; choose with --attack: {choices}")
    if attack is None:
        raise AdvdpnpError(f"images of several attacks are stored here; choose with --attack: {choices}")
    raise AdvdpnpError(f"'{attack}' has images of several evaluations here; name a folder with one of them: {choices}")


def _write_images(chosen: "tuple[Row, str]", format_: str, out: Path | None, data_root: Path | None) -> None:
    from advdpnp.datasets import load_dataset
    from advdpnp.eval.report.exports.images import broken_images, write_npz, write_pngs

    if out is None:
        raise AdvdpnpError(f"{format_} writes files; name {'a folder' if format_ == 'png' else 'a file'} with --out")
    row, attack = chosen
    images = broken_images(row, attack, load_dataset(row.dataset, data_root=data_root, train=False))
    count = len(images["sample"])
    if format_ == "npz":
        write_npz(images, out)
        console.out.print(f"{out}: {count} images of {attack}")
        return
    changed = write_pngs(images, out)
    note = (
        f"; rounding to bytes changed {changed}, which may no longer fool the model (npz keeps them)" if changed else ""
    )
    console.out.print(f"{out}: {count} images of {attack}{note}")
