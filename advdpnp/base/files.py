"""Files that are whole or not there: atomic writes, and one lock per folder."""

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

_NEARLY_NOTHING = 64 * 1024  # bytes: a disk with less free has run full under the writer


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on leaving without an error it takes ``path``'s place in one step.

    A reader sees the old file or the new one, never half of one; a killed writer leaves the old one.

    Raises:
        AdvdpnpError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise _explain(error, path) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are meant to be read by others
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
    """Hold the only writer's place in ``folder``; the operating system frees it when the process dies.

    What killed writers left half-written is cleared away on entry.

    Args:
        timeout: seconds to wait for another process to leave it.
        below: clear away in the folders below too; not where they have locks of their own.

    Raises:
        AdvdpnpError: another process holds it, or the folder cannot be written.
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
        for left_over in (folder.rglob if below else folder.glob)(".*.tmp"):  # nobody else can be writing now
            with suppress(OSError):  # in the way of nothing
                left_over.unlink()
        yield
    finally:
        lock.release()


def _behind(error: BaseException, folder: Path) -> OSError | None:
    """What has kept a library from writing, which may report it in words of its own."""
    code = re.search(r"os error (\d+)", str(error))  # as libraries written in Rust say it
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
