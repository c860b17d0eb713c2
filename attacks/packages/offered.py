"""The attacks that the installed libraries offer, by library, read without importing them."""

import re

from advdpnp.attacks.packages import adv_lib, art, foolbox, torchattacks
from advdpnp.attacks.protocol import ATTACKS


def offered() -> dict[str, list[str]]:
    """Names of attacks by library, sorted; libraries that are not installed are left out.

    ``LIBRARY:NAME`` is the name on the command line.
    """
    modules = {"torchattacks": torchattacks, "foolbox": foolbox, "adv-lib": adv_lib, "art": art}
    found = {library: module.names() for library, module in modules.items()}
    return {library: names for library, names in found.items() if names}


def alike(name: str) -> list[str]:
    """Attacks of libraries with this name but for a norm before it: DeepFool and L2DeepFool for "deepfool"."""
    pattern = re.compile(rf"(l0|l1|l2|linf|linfinity)?{re.escape(name)}(attack)?", re.IGNORECASE)
    return [f"{library}:{each}" for library, names in offered().items() for each in names if pattern.fullmatch(each)]


ATTACKS.elsewhere = alike
