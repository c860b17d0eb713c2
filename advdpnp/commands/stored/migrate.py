"""``advdpnp migrate``: results of the old layout, one file per evaluation, become today's, in place."""

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: `advdpnp migrate results`"

Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Folders with results, searched to any depth.")]


def migrate(folders: Folders) -> None:
    """Convert results of the old layout (one file per evaluation) in place; if killed, the same command continues."""
    from advdpnp.base.errors import AdvdpnpError
    from advdpnp.base.files import folder_lock
    from advdpnp.commands.support.console import out
    from advdpnp.eval.store.commit import finish_commit
    from advdpnp.eval.store.model_record import find_models, read_model_record
    from advdpnp.eval.store.old_layout import convert, is_old

    for folder in folders:
        if folder.is_dir() and not any(folder.rglob("model.json")):
            raise AdvdpnpError(f"there are no results of an earlier version in {folder}; nothing to migrate")
    models = list(dict.fromkeys(path.parent.resolve() for folder in folders for path in find_models(folder)))
    converted = total = 0
    for folder in models:
        with folder_lock(folder):
            finish_commit(folder)
            if not is_old(folder):
                continue
            before = _size(folder)
            count = convert(folder, read_model_record(folder / "model.json"))
        converted += 1
        total += count
        out.print(f"{folder.name}: {count} evaluations, {before} -> {_size(folder)}")
    known = len(models) - converted
    had = f"; {known} had the new layout already" if known else ""
    out.print(f"converted {total} evaluations of {converted} models{had}")


def _size(folder: Path) -> str:
    files = [path for path in folder.iterdir() if path.is_file() and path.name != ".lock"]
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB"
