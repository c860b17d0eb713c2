"""Atomic writes of files, and one lock per folder."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from advdpnp.base.errors import AdvdpnpError

_NEARLY_NOTHING = 64 * 1024  # bytes; with less free space than this, the disk filled up during the write


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an OSError in the block that ``path`` cannot be written.

    Raises:
        AdvdpnpError: there was one.
    """
    try:
        yield
    except OSError as error:
        raise _explain(error, path) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; a block that ends without an error renames it to ``path``.

    A reader sees either the old file or the new one, never a partial one. A killed writer leaves the old file.

    Raises:
        AdvdpnpError: the folder cannot be written or the disk is full.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp creates private files, but other users may read results
        os.replace(temporary, path)
    except OSError as error:
        raise _explain(error, path) from error
    except AdvdpnpError:
        raise
    except Exception as error:
        if (behind := _behind(error, path.parent)) is not None:
            raise _explain(behind, path) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def folder_lock(folder: Path, timeout: float = 0.0, *, below: bool = True) -> Iterator[None]:
    """Lock ``folder`` for writing; the operating system releases the lock when the process dies.

    On entry, temporary files that killed writers left behind are deleted.

    Args:
        timeout: seconds to wait for another process to release the lock.
        below: also delete temporary files in subfolders; False if the subfolders have locks of their own.

    Raises:
        AdvdpnpError: another process holds the lock, or the folder cannot be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise AdvdpnpError(
            f"another process is writing to {folder}; wait for it to end or choose another folder"
        ) from None
    except OSError as error:
        raise _explain(error, folder) from error
    try:
        for left_over in (folder.rglob if below else folder.glob)(".*.tmp"):  # no other process is writing now
            with suppress(OSError):  # a file that stays does no harm
                left_over.unlink()
        yield
    finally:
        lock.release()


def _behind(error: BaseException, folder: Path) -> OSError | None:
    """The OSError that made a library fail to write, even if the library reports it as an error of another type."""
    code = re.search(r"os error (\d+)", str(error))  # the wording of libraries written in Rust
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])))
    if "No space left" in str(error) or shutil.disk_usage(folder).free < _NEARLY_NOTHING:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    while (context := error.__cause__ or error.__context__) is not None:
        if isinstance(context, OSError):
            return context
        error = context
    return None


def _explain(error: OSError, path: Path) -> AdvdpnpError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AdvdpnpError(f"the disk is full, {path} was not written; free some space and run the same command again")
    return AdvdpnpError(f"cannot write {path}: {error.strerror or error}; check the path and its permissions")
