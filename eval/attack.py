"""Adversarial images for one batch: ``attack`` searches and verifies, ``perturb`` is for training loops."""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.algorithms.pgd import perturb as perturb_rows
from advdpnp.attacks.engine.executor import (
    Executor,
    check_classes_of,
    check_inputs,
    evaluation_mode,
    is_randomised,
    keeping_modes,
)
from advdpnp.attacks.engine.precision import FLOAT32, as_precision
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.info import describe
from advdpnp.attacks.names import FEW_CLASSES
from advdpnp.attacks.protocol import PackageAttack, RunOptions
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.devices import OUT_OF_MEMORY, widest_float
from advdpnp.base.errors import AdvdpnpError, ModelError, with_known_options
from advdpnp.base.randomness import Draw, isolated_rng, seed_of
from advdpnp.datasets import to_float
from advdpnp.eval.arrays import Images, Labels, check_kinds, refuse_meta, to_images, to_labels
from advdpnp.eval.choice import IN_THE_NAME, Eps, criterion_for, one_attack
from advdpnp.eval.config import check_batch_size
from advdpnp.eval.images import AdversarialImages
from advdpnp.eval.run.components import choose_precision, small_batch_size
from advdpnp.eval.run.device import choose_device, on_device, require_answers, user_code
from advdpnp.eval.run.progress import Progress, following
from advdpnp.eval.run.tasks import PACKAGE_BATCH_SIZE
from advdpnp.eval.run.work import ModelPlan, Work
from advdpnp.models.classifier import InputRange, as_classifier
from advdpnp.models.loading import net_of

_FEW = 8  # images on which the model is tried before the search
_calls = itertools.count()


@with_known_options(IN_THE_NAME)
def attack(
    model: Callable[..., Any],
    x: Images,
    y: Labels,
    attack: Any = "pgd-20",
    *,
    eps: Eps | Sequence[Eps] | None = None,
    norm: str | None = None,
    targets: str | Labels | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = FLOAT32,
    input_range: InputRange | None = None,
    progress: bool = False,
) -> Any:
    """Adversarial images for a batch, with the verdicts of ``evaluate``: each success is verified on the model itself.

    The model, its modes and gradients, and the random generators are left as they were. It works inside
    ``torch.no_grad``, ``torch.inference_mode`` and autocast; the search ignores them.

    Args:
        model: maps float32 images (n, c, h, w) in [0, 1] to logits (n, classes); anything that ``evaluate`` takes.
        x: images (n, c, h, w): uint8, or floats in [0, 1].
        y: labels, integers (n,).
        attack: a name of ``advdpnp list attacks``, or an attack object.
        eps: radius, a number or "8/255". Of a list, every radius gets a result; a minimum-norm attack then searches
            once.
        norm: "linf", "l2", "l1" or "l0" (changed pixels). Both are by default as for ``evaluate``.
        targets: makes the attack targeted: a success is an image that is taken for its target. "least-likely",
            "random", "next", or a target class for each image, which must not be its label.
        seed: of everything random in the attack.
        batch_size: most images in work at once; for attacks of other packages their batch size.
        device: where to run; None is where the model is.
        precision: of the search: "32", "tf32", "bf16" or "auto".
        input_range: what the model expects for black and white, if not (0, 1): (0, 255), (-1, 1). ``x`` and the result
            stay in [0, 1].
        progress: show how far it is, also in a notebook.

    Returns:
        AdversarialImages, on the device of ``x``, in float32, in which they are verified (float64 for tensors of it);
        of several ``eps`` a list of them, in their order.

    Raises:
        AdvdpnpError: unusable images, labels, targets or logits; an unknown attack, or one without targets.

    Example:
        >>> x_adv, success = advdpnp.attack(net, x, y, "pgd-20", eps="8/255")  # doctest: +SKIP
    """
    check_kinds(norm=(norm, (str, Real, NoneType)), seed=(seed, int), batch_size=(batch_size, (int, NoneType)))
    with torch.inference_mode(False), torch.enable_grad(), isolated_rng():
        net = as_classifier(net_of(model, input_range))
        job = _Job.of(net, to_images(x), to_labels(y), seed, batch_size, device, as_precision(precision), progress)
        criterion = None if targets is None else criterion_for(targets, job.batch.y)
        with on_device(job.model, job.device):
            found = job.run(lambda classes: one_attack(attack, eps, norm, model, classes, criterion))
    if isinstance(x, Tensor) and x.dtype == torch.float64:
        found = [_in_float64(each, x) for each in found]
    return found if isinstance(eps, list | tuple | np.ndarray) else found[0]


def _in_float64(found: AdversarialImages, x: Tensor) -> AdversarialImages:
    """The same images, with the caller's own values where nothing has moved."""
    return replace(found, x_adv=torch.where(found.x_adv == found.x, x, found.x_adv.double()), x=x)


@with_known_options(IN_THE_NAME)
def perturb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: str | PGD = "pgd-10",
    *,
    eps: Eps | None = None,
    norm: str | None = None,
    seed: int | None = None,
) -> Tensor:
    """Adversarial images for one step of a training loop: all steps for all images, no verification, no measurements.

    The model is attacked in eval mode, so that BatchNorm keeps its statistics, and is left in its own modes. No graph
    is kept; gradients of the parameters and the random generators do not change. An autocast of the caller holds.

    Args:
        model: maps images (n, c, h, w) in [0, 1] to logits (n, classes).
        x: images in [0, 1], float (n, c, h, w), on the device of the model.
        y: labels, int64 (n,).
        attack: "fgsm", "pgd-N" or "cw", or a ``PGD`` object.
        eps, norm: as for ``attack``.
        seed: of the random start; None takes another one at every call. A program that begins with the same
            ``torch.manual_seed`` makes the same images.

    Returns:
        images within eps and [0, 1], (n, c, h, w), detached.

    Raises:
        AdvdpnpError: unusable images or labels, or another attack.

    Example:
        >>> loss = cross_entropy(net(advdpnp.perturb(net, x, y, "pgd-10", eps="8/255")), y)  # doctest: +SKIP
    """
    if isinstance(eps, list | tuple | np.ndarray):
        raise AdvdpnpError("perturb takes one eps; call it once for each")
    (chosen,) = one_attack(attack, eps, norm, model, FEW_CLASSES)
    if not isinstance(chosen, PGD) or chosen.criterion.targets:
        raise AdvdpnpError(
            f"perturb runs fgsm, pgd-N and cw, not '{chosen.name}'; for verified images use advdpnp.attack"
        )
    refuse_meta(images=x, labels=y)
    check_inputs(x, y)
    number = seed_of(torch.initial_seed(), "perturb", next(_calls)) if seed is None else seed_of(seed, "perturb")
    model = as_classifier(net_of(model))
    with torch.inference_mode(False), keeping_modes(model):
        model.eval()
        x, y = (each.clone() if each.is_inference() else each for each in (x, y))
        draw = Draw.of(number, torch.arange(len(x), device=x.device))
        with _answering(model, y):
            return perturb_rows(model, x, y, chosen, draw)


_NO_GRADIENT = (
    "the model's logits have no gradient for an attack to follow; remove detach() or torch.no_grad() from its forward"
)


@contextmanager
def _answering(model: nn.Module, y: Tensor) -> Iterator[None]:
    """Look at what the model answers inside: two-dimensional logits with a gradient and a class for every label."""
    largest = int(y.max()) if len(y) else -1

    def look(module: nn.Module, images: Any, logits: Any) -> None:
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(f"the model must return a torch.Tensor of logits (n, classes), not {kind}")
        check_classes_of(largest, logits.shape[1])
        if torch.is_grad_enabled() and not logits.requires_grad:
            raise ModelError(_NO_GRADIENT)

    hook = model.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class _Job:
    """One model, one batch."""

    model: nn.Module
    batch: Batch
    seed: int
    batch_size: int | None
    device: torch.device
    precision: str
    progress: bool

    @classmethod
    def of(
        cls, model: nn.Module, x: Tensor, y: Tensor, seed: int, batch_size: int | None,
        device: str | torch.device | None, precision: str, progress: bool,
    ) -> "_Job":  # fmt: skip
        """A job on the device of the model unless another one is named; images may be bytes."""
        x = to_float(x) if x.dtype == torch.uint8 else x
        check_inputs(x, y)
        if not len(x):
            raise AdvdpnpError("there are no images to attack")
        check_batch_size(batch_size)
        place = next((each.device for each in (*model.parameters(), *model.buffers())), x.device)
        batch = Batch(x, y.to(x.device), torch.arange(len(x), device=x.device))
        return cls(model, batch, seed, batch_size, choose_device(device or place), precision, progress)

    def run(self, resolve: Callable[[int], list[Any]]) -> list[AdversarialImages]:
        """Results for every attack that ``resolve`` makes for this number of classes."""
        few = self.batch.x[:_FEW].to(self.device)
        what = f"the model fails on images of shape {tuple(few.shape[1:])}"
        with (
            user_code(what, "give it the images that it was made for, or fix its forward"),
            evaluation_mode(self.model),
        ):
            logits = Executor(self.model, len(few), self.device).logits(few)
            classes = logits.shape[1]
            randomised = is_randomised(self.model, few)
            has_gradient = bool(self.model(few.clone().requires_grad_()).requires_grad)
        require_answers(logits)
        check_classes_of(int(self.batch.y.max()), classes)
        attacks = resolve(classes)
        if not has_gradient and any(describe(each).uses_gradients is not False for each in attacks):
            warnings.warn(_NO_GRADIENT, stacklevel=3)
        shared = len(attacks) > 1 and all(describe(each).minimum_norm for each in attacks)
        widest = max(attacks, key=lambda each: each.threat.eps)
        if shared:  # its search does not depend on eps
            whole = self._search(widest, randomised)
            return [self._read(whole, each.name, each.threat) for each in attacks]
        return [self._read(self._search(each, randomised), each.name, each.threat) for each in attacks]

    def _search(self, attack: Any, randomised: bool) -> AttackResult:
        """All results, in the order of the batch; smaller model calls where memory is short."""
        size = small_batch_size(len(self.batch), self.device)
        if isinstance(attack, PackageAttack):
            size = self.batch_size or PACKAGE_BATCH_SIZE
        while True:
            try:
                with self._following(attack) as progress:
                    parts = []
                    for part in self._parts(attack, size, randomised, progress):
                        parts.append(part)
                        progress.advance(len(part), int((~part.success).sum()))
                    progress.finish()
                whole = AttackResult.concatenate(parts)
                return whole[whole.sample.argsort()]
            except OUT_OF_MEMORY:
                if size == 1:
                    raise AdvdpnpError(f"one image does not fit in the memory of {self.device}") from None
                size //= 2

    @contextmanager
    def _following(self, attack: Any) -> Iterator[Progress]:
        with following(self.progress) as progress:
            threat, n = attack.threat.label, len(self.batch)
            work = Work(f"{attack.name}, {threat}", threat, n, describe(attack).evaluations)
            progress.plan(ModelPlan("attack", [work], right=1.0, seconds=None))
            progress.start("attack", work.unit, n, 0)
            yield progress

    def _parts(self, attack: Any, size: int, randomised: bool, progress: Progress) -> Iterator[AttackResult]:
        if isinstance(attack, PackageAttack):
            options = RunOptions(self.seed, size, self.device)
            yield from (each for each in attack.run(self.model, self.batch, options) if isinstance(each, AttackResult))
            return
        shape, images = (size, len(self.batch)), None if randomised else self.batch.x[:size]
        precision = choose_precision(self.precision, self.model, images, shape, self.device).precision
        yield from search(
            self.model, attack, self.batch.x, self.batch.y, self.batch.sample, seed=self.seed, static_batch_size=size,
            max_active=self.batch_size, device=self.device, randomised=randomised,
            precision=precision, on_status=progress.search,
        )  # fmt: skip

    def _read(self, found: AttackResult, label: str, threat: ThreatModel) -> AdversarialImages:
        """What a search found, as far as it is within a threat model that is not wider than the search's."""
        place = self.batch.x.device
        found = found.within(threat, self.batch.x.cpu())
        found = replace(found, norm=found.norm.to(widest_float(place))).to(place)
        return AdversarialImages(
            found.x_adv, found.success, found.norm, found.adversarial_prediction, found.forwards, found.backwards,
            self.batch.x, label, threat,
        )  # fmt: skip
