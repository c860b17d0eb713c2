"""Attacks: threat models, searches that are asked and told, the engine that runs and verifies them."""

from advdpnp.attacks import apgd, autoattack, cw_l2, fab, pgd, square, stages
from advdpnp.attacks.adapters import autoattack as package_autoattack
from advdpnp.attacks.adapters import torchattacks
from advdpnp.attacks.contract import ATTACKS, Attack, State, WholeBatchAttack
from advdpnp.attacks.engine import search
from advdpnp.attacks.flight import Findings
from advdpnp.attacks.select import resolve_attacks
from advdpnp.attacks.threat import ThreatModel

__all__ = ["ATTACKS", "Attack", "Findings", "State", "ThreatModel", "WholeBatchAttack", "resolve_attacks", "search"]

_registering = (
    apgd,
    autoattack,
    cw_l2,
    fab,
    package_autoattack,
    pgd,
    square,
    stages,
    torchattacks,
)  # importing a module registers what it declares
