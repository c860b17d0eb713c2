"""Centre loss: cross-entropy with a linear classifier, and attraction of the features to a learned class centre."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models.network import Network
from advdpnp.models.prototypes import CentreHead
from advdpnp.training.methods.base import METHODS, STRICT, Common, Terms, accuracy
from advdpnp.training.methods.prototypes.losses import pull


@METHODS.register(
    "center",
    description="cross-entropy and centre loss: features attracted to a learned class centre; clean images",
    reference="Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, 2016",
)
@dataclass(frozen=True, config=STRICT)
class CentreLoss(Common):
    """CE + lambda_pos * ||h(x) - c_y||^2 (Wen et al. 2016, equation 5, whose lambda is twice this one).

    The centres are trained by SGD like the weights; the paper uses a separate update rule.

    Attributes:
        lambda_pos: weight of the attraction.
    """

    adversarial: ClassVar[bool] = False
    head: ClassVar[str] = "centre"
    lambda_pos: float = 0.01

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        if not (isinstance(model, Network) and isinstance(model.head, CentreHead)):
            raise AdvdpnpError("centre loss needs a network with centres; build it with head='centre'")
        features = model.features(x)
        logits = model.head(features)
        ce, pos = self.cross_entropy(logits, y), pull(features, model.head.centres, y)
        return ce + self.lambda_pos * pos, {"ce": ce, "pos": pos, "clean_accuracy": accuracy(logits, y)}
