"""Ed25519 signatures of sealed results, by the library ``cryptography`` (the extra ``seal``)."""

import base64
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.rules.seal import SEAL, Seal, covered_files


class _NotInstalled(AdvdpnpError):
    """The library is not there."""


_HOW = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"


def sign(folder: Path, key_file: Path) -> Seal:
    """Seal a folder of results as it is now.

    Args:
        key_file: a private Ed25519 key without password, in PEM or OpenSSH format.

    Raises:
        AdvdpnpError: there are no results, or the key cannot be used.
    """
    files = covered_files(folder)
    if not files:
        raise AdvdpnpError(f"there are no results in {folder}; give a folder that 'advdpnp eval --out' has written")
    private = _private_key(key_file)
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    unsigned = Seal(folder, files, public, "")
    return Seal(folder, files, public, base64.b64encode(private.sign(unsigned.signed)).decode())


def refuse_forged(seals: Iterable[Seal]) -> None:
    """Check the signatures, where the library is installed.

    Raises:
        AdvdpnpError: one is not that of its key.
    """
    for seal in seals:
        with suppress(_NotInstalled):
            if not is_signed(seal):
                raise AdvdpnpError(
                    f"the signature of {seal.folder / SEAL} is not that of its key {seal.fingerprint}: the list was "
                    "changed; get the sealed files again"
                )


def is_signed(seal: Seal) -> bool:
    """Whether the signature of a seal is that of its key.

    Raises:
        AdvdpnpError: the library is not installed.
    """
    ed25519 = _library()
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(seal.key))
        public.verify(base64.b64decode(seal.signature), seal.signed)
    except Exception:  # the library has several errors for a wrong signature and a wrong key
        return False
    return True


def _private_key(path: Path) -> Any:
    ed25519 = _library()
    from cryptography.hazmat.primitives import serialization

    try:
        content = path.read_bytes()
    except OSError as error:
        raise AdvdpnpError(f"the key {path} cannot be read; {_HOW}") from error
    for load in (serialization.load_pem_private_key, serialization.load_ssh_private_key):
        try:
            key = load(content, None)
        except (ValueError, TypeError):
            continue
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key
    raise AdvdpnpError(f"{path} is no private Ed25519 key without password; {_HOW}")


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise _NotInstalled("signatures need the library cryptography; pip install 'advdpnp[seal]'") from error
    return ed25519
