"""Attacks: threat models, the ask/tell protocol, algorithms, the engine that runs and verifies them.

The trainer and the evaluation use this package. It does not depend on training, data sets, storage or tables.
"""

from advdpnp.attacks import ensemble as stages
from advdpnp.attacks.algorithms import auto_pgd, autoattack, cw_l2, fab, pgd, square
from advdpnp.attacks.algorithms.margins import ensembles, malt, mm, pma
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.info import AttackInfo
from advdpnp.attacks.names import resolve_attacks
from advdpnp.attacks.packages import adv_lib, art, foolbox, torchattacks
from advdpnp.attacks.packages import pyautoattack as package_autoattack
from advdpnp.attacks.protocol import ATTACKS, Attack, PackageAttack, State, positive_integer
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.libraries import alike

__all__ = [
    "ATTACKS", "Attack", "AttackInfo", "AttackResult", "PackageAttack", "State", "ThreatModel",
    "positive_integer", "resolve_attacks", "search",
]  # fmt: skip

_registering = (
    adv_lib,
    art,
    auto_pgd,
    autoattack,
    cw_l2,
    ensembles,
    fab,
    foolbox,
    malt,
    mm,
    package_autoattack,
    pgd,
    pma,
    square,
    stages,
    torchattacks,
)  # importing a module registers its attacks

ATTACKS.elsewhere = alike
