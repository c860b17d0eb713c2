"""What is recorded of a run besides its options: the command line, without private paths."""

import shlex
import sys
from pathlib import Path

from advdpnp.base.untrusted.text import printable

_LONGEST = 10_000


def command_line() -> str:
    """The command that is running, if it is ours; of absolute paths only the last part, for results are shared."""
    program = Path(sys.argv[0])
    if program.name not in ("advdpnp", "advdpnp.exe") and program.parts[-2:] != ("advdpnp", "__main__.py"):
        return ""
    return printable(shlex.join(["advdpnp", *map(without_folder, sys.argv[1:])]), _LONGEST)


def without_folder(argument: str) -> str:
    """``--out=/home/me/x`` becomes ``--out=x``, ``npz:/home/x.npz`` ``npz:x.npz``, ``/home/n.py:f`` ``n.py:f``."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={without_folder(value)}"
    parts = argument.rpartition(":")
    return "".join(Path(part).name if Path(part).expanduser().is_absolute() else part for part in parts)
