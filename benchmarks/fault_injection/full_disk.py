"""Small file systems in memory, to run full and to be write-protected. Linux, as root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PLENTY = 256 * 1024 * 1024  # bytes


@dataclass(frozen=True)
class Disk:
    """One that is mounted."""

    path: Path

    def grow(self) -> None:
        """Let there be space."""
        _run("mount", "-o", f"remount,size={_PLENTY}", str(self.path))

    def write_protect(self, on: bool) -> None:
        """Let nobody write to it, root neither; or let them again."""
        _run("mount", "-o", "remount,ro" if on else "remount,rw", str(self.path))


@contextmanager
def small_disk(path: Path, size: int | None) -> Iterator[Disk]:
    """A new disk of ``size`` bytes at ``path``, or of plenty; gone when the block is left."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size or _PLENTY}", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        _run("umount", "--lazy", str(path))


def can_mount(folder: Path) -> bool:
    """Whether this user may."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    try:
        with small_disk(folder / "tried", 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
