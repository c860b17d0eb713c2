"""AutoAttack of the package pyautoattack, the published code, as a reference for our own.

This module repeats the package's loop, because the package cannot report progress or resume. The stages run one after
the other. Each takes batches, in order, of the samples that are robust when it begins.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.apgd import REFERENCE
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.losses import check_classes
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.packages.verified_run import VerifiedRun
from advdpnp.attacks.protocol import ATTACKS, RunOptions, StageRecord, check_norm
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_pyautoattack
from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, first_line
from advdpnp.base.randomness import isolated_rng

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def _apgd_ce(package: Any) -> Any:
    package.apgd.loss = "ce"
    return package.apgd


def _apgd_t(package: Any) -> Any:
    return package.apgd_targeted


def _fab_t(package: Any) -> Any:
    package.fab.targeted, package.fab.n_restarts = True, 1
    return package.fab


def _square(package: Any) -> Any:
    return package.square


STAGES: dict[str, Callable[[Any], Any]] = {
    "apgd-ce": _apgd_ce, "apgd-t": _apgd_t, "fab-t": _fab_t, "square": _square,
}  # fmt: skip
"""Functions that return the attack of a stage, configured as in the package's loop."""


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack on whole batches. Its results depend on the order of the samples and on the batch size.

    Attributes:
        classes: number of classes of the model. With fewer than ten, there are fewer than the nine standard targets.
        stages: names in STAGES, in order.
        name: name in tables.
    """

    threat: ThreatModel
    classes: int
    stages: tuple[str, ...] = tuple(STAGES)
    name: str = "pyautoattack"

    norms = tuple(NORMS)

    def __post_init__(self) -> None:
        check_norm(self)

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "autoattack", "package": "pyautoattack", "package_version": version("pyautoattack"),
            "stages": list(self.stages), "classes": self.classes, "order_dependent": True, "version": 1,
        }  # fmt: skip

    def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[StageRecord | AttackResult]:
        """Attack stage by stage. Each stage takes the samples that are robust when it begins."""
        done, batch_size = options.done, options.batch_size
        if len(samples) == 0:
            return
        with evaluation_mode(model):
            verified = VerifiedRun(model, self.threat, samples, options)
            counted = QueryCounter(model).eval()
            package = self._package(counted, options)
            yield verified.clean(torch.nonzero(~verified.right)[:, 0])
            reported = ~verified.right
            if done:
                verified.resume(done[-1])
                reported = reported | done[-1].misclassified[0].bool()
            misclassified = _clean_mistakes(counted, verified, batch_size)
            for number, stage in enumerate(self.stages):
                batches = [index for index in torch.nonzero(~misclassified)[:, 0].split(batch_size) if len(index)]
                records = [record for record in done if int(record.stage) == number]
                misclassified = records[-1].misclassified[0].bool().clone() if records else misclassified
                for batch, index in list(enumerate(batches))[len(records) :]:
                    adversarial, x_adv = self._batch(STAGES[stage](package), counted, verified, index, options.seed)
                    misclassified[index[adversarial]] = True
                    new = adversarial & ~reported[index]
                    reported[index[new]] = True
                    if bool(new.any()):
                        yield verified.verify(index[new], x_adv[new])
                    yield verified.record(number, batch, misclassified)
            yield verified.clean(torch.nonzero(~reported)[:, 0])

    def _package(self, counted: QueryCounter, options: RunOptions) -> Any:
        """The package's AutoAttack. Each run needs a new one, because stages change it permanently."""
        package = import_pyautoattack().AutoAttack(
            counted, norm=NORMS[self.threat.norm], eps=self.threat.eps, version="standard", seed=options.seed,
            device=options.device,
        )  # fmt: skip
        for stage in (package.apgd_targeted, package.fab):
            stage.n_target_classes = min(stage.n_target_classes, self.classes - 1)
        return package

    def _batch(
        self, stage: Any, counted: QueryCounter, verified: VerifiedRun, index: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Run one stage on one batch. Returns which images are adversarial, bool (m,), and the images, on the CPU."""
        device = verified.executor.device
        x, y = verified.x[index].to(device), verified.y[index].to(device)
        counted.reset()
        with isolated_rng(), torch.no_grad():
            stage.seed = seed
            try:
                x_adv = stage.perturb(x.clone(), y.clone())
            except (*OUT_OF_MEMORY, AdvdpnpError):
                raise
            except Exception as error:
                raise AdvdpnpError(
                    f"'{self.name}' fails on this model and these images: {first_line(error)}; choose another attack"
                ) from error
            misclassified = counted(x_adv).argmax(1) != y
        verified.charge(index, counted)
        return misclassified.cpu(), x_adv.cpu()


def _clean_mistakes(counted: QueryCounter, verified: VerifiedRun, batch_size: int) -> Tensor:
    """Clean images that the package's loop counts as misclassified, in its own batches, bool (n,)."""
    device = verified.executor.device
    with isolated_rng(), torch.no_grad():
        wrong = [
            (counted(x.to(device)).argmax(1) != y.to(device)).cpu()
            for x, y in zip(verified.x.split(batch_size), verified.y.split(batch_size), strict=True)
        ]
    return torch.cat(wrong)


STANDARD = tuple(STAGES)
FEW_CLASSES = tuple(stage for stage in STAGES if stage != "apgd-t")


@ATTACKS.register(
    "pyautoattack", description="AutoAttack of the package pyautoattack, the published code", reference=REFERENCE
)
def package_autoattack(threat: ThreatModel, classes: int) -> AutoAttack:
    return AutoAttack(threat, classes, STANDARD if classes >= 4 else FEW_CLASSES)


@ATTACKS.register(
    "pyautoattack:{stage}",
    description="one stage of the package pyautoattack: apgd-ce, apgd-t, fab-t or square",
    reference=REFERENCE,
)
def package_stage(threat: ThreatModel, classes: int, stage: str) -> AutoAttack:
    if stage not in STAGES:
        raise AdvdpnpError(f"AutoAttack has no stage called '{stage}'; it has {', '.join(STAGES)}")
    if stage == "apgd-t":
        check_classes(classes, 4, "the targeted DLR loss", "use apgd-ce")
    return AutoAttack(threat, classes, (stage,), f"pyautoattack:{stage}")
