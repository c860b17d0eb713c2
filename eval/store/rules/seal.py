"""A signed list of the files of a results folder: that what was audited is what is shown.

``seal.json`` holds the SHA-256 of every file of verdicts below its folder, and an Ed25519 signature of that list
(RFC 8032). It covers what tables are made of, not the tables, which anybody can make again.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.eval.store.key import canonical_json

SEAL = "seal.json"
_COVERED = ("*.json", "*.parquet", "*.adversarials", "*.npz")  # beside each model.json


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: int = Field(ge=1, le=1)
    files: dict[str, str]
    key: str = Field(max_length=100)
    signature: str = Field(max_length=200)


@dataclass(frozen=True)
class Seal:
    """What ``seal.json`` says.

    Attributes:
        folder: which folder it is of.
        files: SHA-256 hex by path below it, with slashes.
        key: the public key, 32 bytes in base64.
        signature: of ``files``, in base64.
    """

    folder: Path
    files: dict[str, str]
    key: str
    signature: str

    @property
    def fingerprint(self) -> str:
        """What a person compares the key by: the first 16 hex digits of its SHA-256."""
        return hashlib.sha256(base64.b64decode(self.key)).hexdigest()[:16]

    @property
    def signed(self) -> bytes:
        """What the signature is of."""
        return b"advdpnp seal 1\n" + canonical_json(self.files).encode()

    def changes(self) -> list[str]:
        """Files that are no longer as they were sealed: changed, gone or new."""
        now = covered_files(self.folder)
        names = sorted({*now, *self.files})
        return [name for name in names if now.get(name) != self.files.get(name)]


def covered_files(folder: Path) -> dict[str, str]:
    """SHA-256 hex of every file that a seal of ``folder`` covers, by its path below it."""
    models = [path.parent for path in folder.rglob("model.json") if not _is_hidden(path.relative_to(folder))]
    paths = {path for model in models for pattern in _COVERED for path in model.glob(pattern)}
    named = {path.relative_to(folder).as_posix(): path for path in paths if not path.name.startswith(".")}
    return {name: _sha256(path) for name, path in sorted(named.items()) if path.name != SEAL}


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_seal(folder: Path) -> Seal | None:
    """The seal of a folder; None if it has none.

    Raises:
        AdvdpnpError: it is damaged.
    """
    path = folder / SEAL
    try:
        content = _Content.model_validate_json(path.read_bytes())
        for text in (content.key, content.signature):
            base64.b64decode(text, validate=True)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, binascii.Error, ValueError) as error:
        raise AdvdpnpError(f"{path} is damaged; get it again from whoever sealed the results, or delete it") from error
    return Seal(folder, content.files, content.key, content.signature)


def write_seal(seal: Seal) -> Path:
    """Write ``seal.json``; returns its path."""
    content = {"format": 1, "key": seal.key, "signature": seal.signature, "files": seal.files}
    path = seal.folder / SEAL
    write_text(path, _Content.model_validate(content).model_dump_json(indent=1) + "\n")
    return path


def unbroken_seals(folders: Iterable[Path]) -> list[Seal]:
    """The seals in, below and above folders of results, each of which still fits its files.

    Raises:
        AdvdpnpError: files were changed after they were sealed.
    """
    found = {}
    for folder in folders:
        resolved = folder.resolve()
        for place in (resolved, *resolved.parents, *(path.parent for path in resolved.rglob(SEAL))):
            if place not in found and (seal := read_seal(place)) is not None:
                found[place] = seal
    for seal in found.values():
        if changed := seal.changes():
            others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise AdvdpnpError(
                f"{changed[0]}{others} in {seal.folder} is not as it was sealed; get the sealed files again, or seal "
                f"them anew with advdpnp seal (or delete {SEAL})"
            )
    return list(found.values())
