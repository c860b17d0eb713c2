"""``advdpnp seal``: a signed list of the files of a results folder."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.commands.support import console

EPILOG = "Example: `advdpnp seal results/cifar10 --key key.pem`"

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of results.")]
Key = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Private Ed25519 key (openssl genpkey -algorithm ed25519 -out key.pem)."),
]


def seal(folder: Folder, key: Key) -> None:
    """Sign the verdicts of a folder, so that whoever reads them later sees that they are the same."""
    from advdpnp.eval.audit.signature import sign
    from advdpnp.eval.store.rules.seal import write_seal

    made = sign(folder, key)
    path = write_seal(made)
    console.out.print(f"{len(made.files)} files sealed by the key {made.fingerprint}: {path}")
