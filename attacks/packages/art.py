"""Evasion attacks of the Adversarial Robustness Toolbox (ART) by their names, run unchanged and verified by us."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.packages.library_attack import LibraryAttack, Others, P, check_steps, find_name, with_steps
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_art
from advdpnp.base.libraries import ART, offered


class ArtAttack(LibraryAttack):
    """One evasion attack of ART, through its PyTorchClassifier. Raises as its base does."""

    library = "art"
    notes = {"AutoAttack": "not AutoAttack: the toolbox has its recipe of before August 2020"}  # noqa: RUF012

    @property
    def distribution(self) -> str:
        return "adversarial-robustness-toolbox"

    @property
    def norms(self) -> tuple[str, ...]:
        return tuple(ART[self.attack].split())

    @property
    def minimum_norm(self) -> bool:
        return "eps" not in self._parameters

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self, "max_iter" if "max_iter" in self._parameters else None)

    @property
    def _parameters(self) -> dict[str, Any]:
        """Parameters of the constructor with their defaults."""
        kind = getattr(import_art().attacks.evasion, self.attack)
        return {each.name: each.default for each in list(inspect.signature(kind.__init__).parameters.values())[2:]}

    def arguments(self, seed: int) -> dict[str, Any]:
        defaults = self._parameters
        given: dict[str, Any] = {"norm": self.threat.norm, "targeted": False, "verbose": False, "max_iter": self.steps}
        if "eps" in defaults:
            given |= {"eps": self.threat.eps}
            if "eps_step" in defaults:
                given |= {"eps_step": defaults["eps_step"] * self.threat.eps / defaults["eps"]}
        return {name: value for name, value in given.items() if name in defaults and value is not None}

    def craft(self, model: QueryCounter, batch: Batch, seed: int, others: Others) -> tuple[Tensor, Tensor | None]:
        package, device = import_art(), batch.x.device
        arguments = self.arguments(seed)
        if "norm" in arguments:
            arguments["norm"] = P[self.threat.norm]
        if "batch_size" in self._parameters and self.attack != "SimBA":  # SimBA refuses batches
            arguments["batch_size"] = len(batch)
        # ART knows "gpu", which is torch's current device, and "cpu".
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            classifier = package.estimators.classification.PyTorchClassifier(
                model, nn.CrossEntropyLoss(), tuple(batch.x.shape[1:]), self.classes,
                clip_values=(self.threat.low, self.threat.high), device_type="gpu" if device.type == "cuda" else "cpu",
            )  # fmt: skip
            classifier._device = device  # those that are neither; otherwise it is the same
            model.to(device)
            made = getattr(package.attacks.evasion, self.attack)(classifier, **arguments)
            x_adv = made.generate(batch.x.cpu().numpy(), batch.y.cpu().numpy())
        return torch.from_numpy(x_adv).float(), None


@ATTACKS.register(
    "art:{attack}",
    description="attacks of the Adversarial Robustness Toolbox by their own names, such as art:DeepFool or "
    "art:ProjectedGradientDescent-20",
    reference="Nicolae et al., Adversarial Robustness Toolbox v1.0.0, 2018",
)
def art_attack(threat: ThreatModel, classes: int, attack: str) -> ArtAttack:
    import_art()
    name, steps = with_steps(attack)
    return ArtAttack(threat, classes, find_name("art", name, offered().get("art", [])), steps)
