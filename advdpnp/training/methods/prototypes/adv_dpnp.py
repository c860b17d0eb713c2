"""Adv-DPNP: the prototypes learn from the clean branch, and the feature extractor from both branches."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Terms
from advdpnp.training.methods.prototypes.losses import CONSISTENCIES
from advdpnp.training.methods.prototypes.prototype_based import PullingAndRepelling, with_prototypes

Branches = Literal["both", "clean", "adversarial"]


@METHODS.register(
    "adv-dpnp",
    description="dual-branch adversarial training of DPNP: prototypes learn from clean images only, features from both",
    reference="arXiv 2504.03782 (reconstruction)",
    status="reconstruction",
)
@dataclass(frozen=True, config=STRICT)
class AdvDPNP(PullingAndRepelling):
    """Adv-DPNP (arXiv 2504.03782). With the stop-gradient operator sg and the prototypes c, the loss is

        (L_DPNP(x; c) + beta * [CE + pos + sample_neg](x_adv; sg(c))) / (1 + beta) + lambda_cons * D(x, x_adv; sg(c))

    The division by (1 + beta) is a choice of this project: with a plain sum, the effective learning rate grows with
    beta until training collapses.

    Attributes:
        beta: weight of the adversarial branch relative to the clean one.
        lambda_cons: weight of the consistency term.
        consistency: D, "kl" (from clean to adversarial) or "mse" (between the probabilities).
        pos_branches, sample_neg_branches: the branches whose features are attracted and repelled.
        prototype_branches: the branches that move the prototypes: "clean" as published, or "both" to measure what that
            is worth.
        batchnorm: "joint" computes both branches as one batch, whose BatchNorm statistics are those of test time;
            "separate" uses one pass per branch.
    """

    adversarial: ClassVar[bool] = True
    beta: float = Field(default=1.0, ge=0)
    lambda_cons: float = 1.0
    consistency: Literal["kl", "mse"] = "kl"
    pos_branches: Branches = "both"
    sample_neg_branches: Branches = "both"
    prototype_branches: Literal["clean", "both"] = "clean"
    batchnorm: Literal["joint", "separate"] = "joint"

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        assert x_adv is not None
        network, head = with_prototypes(model)
        if self.batchnorm == "joint":
            clean, adversarial = network.features(torch.cat([x, x_adv])).chunk(2)
        else:
            clean, adversarial = network.features(x), network.features(x_adv)
        prototypes = head.prototypes
        fixed = prototypes.detach() if self.prototype_branches == "clean" else prototypes
        clean_loss, terms = self.sample_terms(
            head,
            clean,
            prototypes,
            y,
            pulls=self.pos_branches != "adversarial",
            repels=self.sample_neg_branches != "adversarial",
        )
        between, class_terms = self.class_term(prototypes)
        adversarial_loss, adversarial_terms = self.sample_terms(
            head,
            adversarial,
            fixed,
            y,
            "_adv",
            pulls=self.pos_branches != "clean",
            repels=self.sample_neg_branches != "clean",
        )
        consistency = CONSISTENCIES[self.consistency](head.logits(clean, fixed), head.logits(adversarial, fixed))
        branches = (clean_loss + between + self.beta * adversarial_loss) / (1 + self.beta)
        return branches + self.lambda_cons * consistency, {
            **terms,
            **class_terms,
            **adversarial_terms,
            "consistency": consistency,
        }
