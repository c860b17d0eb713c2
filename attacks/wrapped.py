"""Attacks that wrap another one: what they have in common."""

from dataclasses import dataclass

from advdpnp.attacks.criteria import Criterion, criterion_of
from advdpnp.attacks.protocol import Attack
from advdpnp.attacks.threat import ThreatModel


@dataclass(frozen=True)
class WrappedAttack:
    """Base of attacks that change what another one asks or is told, and are otherwise what it is.

    Attributes:
        attack: the wrapped attack.
    """

    attack: Attack

    @property
    def name(self) -> str:
        """Name of the wrapped attack."""
        return self.attack.name

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms of the wrapped attack."""
        return self.attack.norms

    @property
    def minimum_norm(self) -> bool:
        """Whether the wrapped attack searches for the nearest adversarial image."""
        return self.attack.minimum_norm

    @property
    def criterion(self) -> Criterion:
        """What counts as a success of the wrapped attack."""
        return criterion_of(self.attack)

    @property
    def threat(self) -> ThreatModel:
        """Threat model of the wrapped attack."""
        return self.attack.threat
