"""Fast adversarial training: one large step from a random start instead of many small steps."""

from pydantic.dataclasses import dataclass

from advdpnp.training.methods.base import METHODS, STRICT
from advdpnp.training.methods.pgd_at import PGDAdversarialTraining


@METHODS.register(
    "fgsm-rs",
    description="fast adversarial training: one step of 1.25 eps from a random start",
    reference="Wong et al., Fast is Better than Free, 2020 (arXiv 2001.03994)",
)
@dataclass(frozen=True, config=STRICT)
class FastAdversarialTraining(PGDAdversarialTraining):
    """The loss of adversarial training; the recipe sets the single step (Wong et al. 2020, section 4)."""
