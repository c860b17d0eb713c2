"""One way of tampering."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTHING = "changes nothing that is shown"
LAST_BITS = "moves the last bits of what is searched at most"
PLAN = "tables show which attacks ran; a seal shows it"
BELIEVED = "no file can show it; a seal does"


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        name: what was done.
        do: does it, to the folder of the model.
        why_not: why nothing in the files can show it; "" where it should be noticed.
    """

    name: str
    do: Callable[[Path], Any]
    why_not: str = ""
