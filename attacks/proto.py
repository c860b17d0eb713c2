"""An attack on the features of prototype models: towards the prototype of each rival class.

White-box attacks follow the logits; a model that was trained to hold its features near its prototypes might hide behind
the head. This one does not look at the head at all: it moves h(x') to the vector that stands for a rival, rival after
rival, with the steps of Auto-PGD (an adaptive attack in the sense of Tramer et al. 2020, arXiv 2002.08347).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.apgd import APGD, APGDState
from advdpnp.attacks.contract import ATTACKS
from advdpnp.attacks.targets import likely_targets, target_of
from advdpnp.attacks.threat import ThreatModel
from advdpnp.errors import AdvdpnpError
from advdpnp.models.network import Network
from advdpnp.prototypes import class_vectors
from advdpnp.randomness import Draw


class _Closeness(nn.Module):
    """Logits, and for each class minus the squared distance of the features to its vector, over its squared length."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to (n, 2 * classes)."""
        features, vectors = self.network.features(x), class_vectors(self.network.head)
        distance = (features[:, None] - vectors).square().sum(2) / vectors.square().sum(1).clamp(min=1e-12)
        return torch.cat([self.network.head(features), -distance], dim=1)


@dataclass(frozen=True)
class Proto(APGD):
    """Auto-PGD on the distance of the features to a rival's prototype, for each of the likeliest rivals."""

    objective: str = "closeness"
    name: str = "proto"

    def definition(self) -> dict[str, Any]:
        return {"attack": "proto", "iterations": self.iterations, "runs": self.runs, "version": 1}

    def look(self, model: nn.Module) -> nn.Module:
        """The model with its closeness to every class after the logits."""
        if not isinstance(model, Network):
            raise AdvdpnpError(
                f"the attack 'proto' looks at features and prototypes, which a {type(model).__name__} does not show; "
                "leave it out for models that were not trained here"
            )
        return _Closeness(model)

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> APGDState:
        if logits is None:
            raise ValueError("a targeted objective needs the logits of the clean images")
        return self._begin(x, y, likely_targets(logits, y, self.runs), draw)

    def _loss(self, state: APGDState, logits: Tensor) -> Tensor:
        closeness = logits[:, logits.shape[1] // 2 :]
        return closeness.gather(1, target_of(state.targets, state.run)[:, None])[:, 0]


@ATTACKS.register(
    "proto",
    description="features moved to the prototypes of the 9 likeliest rivals, 100 steps each; models trained here only",
    reference="adaptive, after Tramer et al., On Adaptive Attacks to Adversarial Example Defenses, 2020",
)
def proto(threat: ThreatModel, classes: int) -> Proto:
    return Proto(threat, runs=min(9, classes - 1))
