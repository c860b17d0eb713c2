"""MART: adversarial training that gives misclassified clean images more weight."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Common, Terms, accuracy


@METHODS.register(
    "mart",
    description="misclassification-aware adversarial training: boosted CE, and KL weighted by the clean error",
    reference="Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, ICLR 2020",
)
@dataclass(frozen=True, config=STRICT)
class MART(Common):
    """BCE(x_adv) + beta * KL(p(x) || p(x_adv)) * (1 - p_y(x)) (Wang et al. 2020, equation 11).

    BCE is the cross-entropy plus -log(1 - the largest probability of another class), both on the adversarial image.
    Label smoothing changes only the cross-entropy: the other term has no target to smooth.

    Attributes:
        beta: weight of the divergence (the paper's lambda, 5 in its experiments).
    """

    adversarial: ClassVar[bool] = True
    head: ClassVar[str] = "linear"
    beta: float = 5.0

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        clean, adversarial = model(x), model(x_adv)
        own = F.one_hot(y, clean.shape[1]).bool()
        log_clean, log_adversarial = clean.log_softmax(1), adversarial.log_softmax(1)
        # log(1 - p_k) as logsumexp over the other classes, because 1 - p_k rounds to 0 for confident models.
        rival = log_adversarial.detach().masked_fill(own, -torch.inf).argmax(1, keepdim=True)
        not_rival = log_adversarial.scatter(1, rival, -torch.inf).logsumexp(1)
        boosted = (
            F.cross_entropy(adversarial, y, reduction="none", label_smoothing=self.label_smoothing) - not_rival
        ).mean()
        divergence = F.kl_div(log_adversarial, log_clean, reduction="none", log_target=True).sum(1)
        weighted = (divergence * (1 - log_clean.gather(1, y[:, None])[:, 0].exp())).mean()
        terms = {"bce_adv": boosted, "consistency": weighted}
        terms |= {"clean_accuracy": accuracy(clean, y), "adversarial_accuracy": accuracy(adversarial, y)}
        return boosted + self.beta * weighted, terms
