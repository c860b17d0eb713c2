"""The attacks that the installed libraries offer, by library, read without importing them."""

from advdpnp.attacks.packages import adv_lib, art, foolbox, torchattacks


def offered() -> dict[str, list[str]]:
    """Names of attacks by library, sorted; libraries that are not installed are left out.

    ``LIBRARY:NAME`` is the name on the command line.
    """
    modules = {"torchattacks": torchattacks, "foolbox": foolbox, "adv-lib": adv_lib, "art": art}
    found = {library: module.names() for library, module in modules.items()}
    return {library: names for library, names in found.items() if names}
