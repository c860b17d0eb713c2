"""The registry of corruptions, and the class of a corruption."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from numbers import Integral

import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError, first_line
from advdpnp.base.randomness import Draw
from advdpnp.base.registry import Registry, Status
from advdpnp.corruption.types import BENCHMARK, EXTRA

CORRUPTIONS = Registry("corruption", "advdpnp.corruptions")

SEVERITIES = (1, 2, 3, 4, 5)

_SETS = {"benchmark": BENCHMARK, "all": BENCHMARK + EXTRA}
_TAKEN = (*_SETS, "none", "labels")
"""Reserved names: keywords of --corruption-types, and the file of labels."""

Constants = tuple[float, ...]
Operation = Callable[..., Tensor]


@dataclass(frozen=True)
class Corruption:
    """One type of corruption.

    Attributes:
        name: the name, which is also the file name in the layout of the official files.
        group: "noise", "blur", "weather" or "digital"; plug-ins may use other groups.
        constants: arguments of the operation for severity 1 to 5; lengths are in pixels of a 32x32 image.
        operation: ``operation(images, draw, *constants) -> images``, uint8 (n, c, h, w) to uint8 of the same shape.
            All random numbers must come from ``draw`` (one stream per sample), and samples must not affect each other.
    """

    name: str
    group: str
    constants: tuple[Constants, ...]
    operation: Operation

    def constants_at(self, severity: int) -> Constants:
        """The constants of one severity.

        Raises:
            AdvdpnpError: the severity is not a whole number from 1 to 5.
        """
        if isinstance(severity, bool) or not isinstance(severity, Integral) or severity not in SEVERITIES:
            raise AdvdpnpError(f"there is no severity {severity!r} of {self.name}; choose a whole number from 1 to 5")
        return self.constants[severity - 1]

    def __call__(self, images: Tensor, severity: int, draw: Draw) -> Tensor:
        """Corrupt uint8 images (n, c, h, w), which the operation may modify; returns the same shape, type and device.

        Raises:
            AdvdpnpError: the operation fails or returns anything else.
        """
        constants, shape, device = self.constants_at(severity), images.shape, images.device
        try:
            made = self.operation(images, draw, *constants)
        except (torch.OutOfMemoryError, MemoryError, AdvdpnpError):
            raise
        except Exception as error:
            raise AdvdpnpError(
                f"the corruption '{self.name}' fails: {type(error).__name__}: {first_line(error)}; fix its code"
            ) from error
        if not isinstance(made, Tensor) or (made.shape, made.dtype, made.device) != (shape, torch.uint8, device):
            what = f"{made.dtype} of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise AdvdpnpError(
                f"the corruption '{self.name}' returns {what} for images of shape {tuple(shape)}; it must return uint8 "
                f"of the same shape on {device} (clip floats to 0..255 and convert them)"
            )
        return made


def declare(
    name: str,
    *,
    group: str,
    constants: tuple[Constants, ...],
    description: str,
    reference: str = "",
    status: Status = "exact",
) -> Callable[[Operation], Operation]:
    """A decorator that registers an operation (see `Corruption`); plug-ins use it too.

    Other types than the benchmark's 15 do not enter the benchmark's mean.

    Raises:
        AdvdpnpError: the name is reserved or not a file name, or there are not five severities.
    """
    if name in _TAKEN or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise AdvdpnpError(
            f"a corruption cannot be called '{name}'; use letters, digits and _ . + -, and none of {', '.join(_TAKEN)}"
        )
    if len(constants) != len(SEVERITIES) or not all(isinstance(each, tuple) for each in constants):
        raise AdvdpnpError(
            f"the constants of the corruption '{name}' must be five tuples, one for each severity, such as "
            "((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))"
        )

    def add(operation: Operation) -> Operation:
        made = Corruption(name, group, constants, operation)
        build = wraps(operation)(lambda: made)  # in the operation's name, which tells two of one name apart
        CORRUPTIONS.register(name, description=description, reference=reference, status=status)(build)
        return operation

    return add


def find_corruption(name: str) -> Corruption:
    """The corruption with this name.

    Raises:
        AdvdpnpError: there is none; the message suggests similar names.
    """
    found = CORRUPTIONS.make(name)
    if not isinstance(found, Corruption):
        raise AdvdpnpError(f"the corruption '{name}' was not registered by advdpnp.corruption.declare; fix its package")
    return found


def choose_types(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """The requested types: "benchmark" (15), "all" (these and the 4 extra ones), or names.

    Args:
        wanted: comma-separated text, or a sequence of such words.

    Raises:
        AdvdpnpError: a name is unknown, or there is none.
    """
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise AdvdpnpError(f"the types of corruptions are {wanted!r}; give benchmark, all, or names: 'fog,snow'")
    names = [part.strip() for part in parts if part.strip()]
    chosen = tuple(dict.fromkeys(name for part in names for name in _SETS.get(part, (part,))))
    if not chosen:
        raise AdvdpnpError("no corruption is named; choose benchmark, all, or names of 'advdpnp list corruptions'")
    for name in chosen:
        find_corruption(name)
    return chosen
