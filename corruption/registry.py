"""The registry of corruptions, and what a corruption is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from advdpnp.corruption.types import BENCHMARK, EXTRA
from advdpnp.errors import AdvdpnpError
from advdpnp.randomness import Draw
from advdpnp.registry import Registry

CORRUPTIONS = Registry("corruption", "advdpnp.corruptions")

SEVERITIES = (1, 2, 3, 4, 5)

Constants = tuple[float, ...]
Operation = Callable[..., Tensor]


@dataclass(frozen=True)
class Corruption:
    """One type of corruption.

    Attributes:
        name: also the file name in the layout of the official files.
        group: "noise", "blur", "weather" or "digital"; a plug-in may name its own.
        benchmark: whether it is one of the 15 types whose mean is reported.
        constants: what the operation takes, for severity 1 to 5; lengths are in pixels of a 32x32 image.
        operation: ``operation(images, draw, *constants) -> images``, uint8 (n, c, h, w) to uint8 of the same shape.
            Every random number comes from ``draw`` (one stream per sample) and no sample may touch another.
    """

    name: str
    group: str
    benchmark: bool
    constants: tuple[Constants, ...]
    operation: Operation

    def constants_at(self, severity: int) -> Constants:
        """The constants of one severity.

        Raises:
            AdvdpnpError: severity is no whole number from 1 to 5.
        """
        if isinstance(severity, bool) or severity not in SEVERITIES:
            raise AdvdpnpError(f"there is no severity {severity!r} of {self.name}; choose a whole number from 1 to 5")
        return self.constants[severity - 1]

    def __call__(self, images: Tensor, severity: int, draw: Draw) -> Tensor:
        """Corrupt uint8 images (n, c, h, w); the result has the same shape and type."""
        return self.operation(images, draw, *self.constants_at(severity))


def declare(
    name: str,
    *,
    group: str,
    constants: tuple[Constants, ...],
    description: str,
    reference: str = "",
    benchmark: bool = False,
) -> Callable[[Operation], Operation]:
    """Decorate an operation (see `Corruption`) so that it can be named; plug-ins use this too.

    Raises:
        AdvdpnpError: the name is taken, or there are not five severities.
    """
    if len(constants) != len(SEVERITIES):
        raise AdvdpnpError(f"the corruption '{name}' has constants for {len(constants)} severities; give five")

    def add(operation: Operation) -> Operation:
        made = Corruption(name, group, benchmark, constants, operation)
        CORRUPTIONS.register(name, description=description, reference=reference)(lambda: made)
        return operation

    return add


def find_corruption(name: str) -> Corruption:
    """The corruption of that name.

    Raises:
        AdvdpnpError: there is none; the message offers the nearest names.
    """
    found = CORRUPTIONS.make(name)
    if not isinstance(found, Corruption):
        raise AdvdpnpError(f"the corruption '{name}' was not made by advdpnp.corruption.declare; mend its package")
    return found


def choose_types(text: str) -> tuple[str, ...]:
    """The types that a user asked for: "benchmark" (15), "all" (these and the 4 extra ones), or names with commas.

    Raises:
        AdvdpnpError: an unknown name, or none at all.
    """
    groups = {"benchmark": BENCHMARK, "all": BENCHMARK + EXTRA}
    names = [part.strip() for part in text.split(",") if part.strip()]
    chosen = tuple(dict.fromkeys(name for part in names for name in groups.get(part, (part,))))
    if not chosen:
        raise AdvdpnpError("no corruption is named; choose benchmark, all, or names of 'advdpnp list corruptions'")
    for name in chosen:
        find_corruption(name)
    return chosen
