"""How models are run: in eval mode, in full float32, deterministically, and always in batches of one size.

Convolutions differ in the last bits between batch sizes, so every call is padded to one size. Then the result of a row
does not depend on the rows around it.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.precision import FLOAT32, arithmetic
from advdpnp.attacks.protocol import Loss
from advdpnp.base.errors import AdvdpnpError, ModelError, ModelFailure, first_line
from advdpnp.base.randomness import isolated_rng, seed_of


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 (no TF32, no autocast), deterministic cuDNN, no autotuning; the caller's settings come back."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    with ExitStack() as stack:
        stack.enter_context(
            cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)  # type: ignore[no-untyped-call]
        )
        for kind in ("cpu", "cuda"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # entering "cuda" without a device warns
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, no weight asking for a gradient; each one's own flag, and buffers, come back."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad) for weight in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        model.eval()
        for module, _ in modes:
            module.training = False  # some models override train() and keep parts of themselves in training mode
        for weight, _ in weights:
            weight.requires_grad_(False)
        with exact_arithmetic():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in weights:
            weight.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@contextmanager
def single_threaded(wanted: bool = True) -> Iterator[None]:
    """torch computes on one core in this thread, if ``wanted``; sums over several cores round differently."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(before)


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Refuse anything but a batch of images in [0, 1] with its labels.

    Raises:
        AdvdpnpError: wrong type or shape, values that are not finite or outside [0, 1], labels that are no class.
    """
    if not x.is_floating_point() or x.dim() != 4:
        raise AdvdpnpError(
            f"images must be float tensors (n, c, h, w) in [0, 1], got {x.dtype} of shape {tuple(x.shape)}; "
            "convert uint8 images with images.float() / 255"
        )
    if y.shape != (len(x),) or y.is_floating_point() or y.dtype == torch.bool:
        raise AdvdpnpError(f"labels must be {len(x)} integers, one per image, got {y.dtype} of shape {tuple(y.shape)}")
    if len(x) == 0:
        return
    if not bool(torch.isfinite(x).all()):
        raise AdvdpnpError("some images hold NaN or infinite values; check how they are loaded")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise AdvdpnpError(
            f"images must lie in [0, 1] but range from {low:.4g} to {high:.4g}; give them unnormalised and let the "
            "model normalise them in its first layer"
        )
    if int(y.min()) < 0:
        raise AdvdpnpError(f"label {int(y.min())} is negative; classes are counted from 0")


class Executor:
    """Runs one model on batches of exactly ``static_batch_size`` rows.

    The caller keeps the model in ``evaluation_mode`` and on ``device``.

    Args:
        static_batch_size: rows of every model call; smaller batches are padded with copies of their last row.
        device: where the model is.
        seed: for randomised models: their noise is drawn from this and the number of the call. None: not randomised.
        searched: the model that attacks query: the same function, faster (see ``make_search_copy``). ``model``
            verifies successes.
        precision: of the model that attacks query.
    """

    def __init__(
        self,
        model: nn.Module,
        static_batch_size: int,
        device: torch.device | str,
        seed: int | None = None,
        searched: nn.Module | None = None,
        precision: str = FLOAT32,
    ) -> None:
        if static_batch_size < 1:
            raise AdvdpnpError(f"the static batch size must be at least 1, got {static_batch_size}")
        self.model, self.static_batch_size, self.device, self.seed = (
            model,
            static_batch_size,
            torch.device(device),
            seed,
        )
        self.searched = model if searched is None else searched
        self.precision = precision
        self.batch_sizes = {static_batch_size}  # which ones a call may have; more where the results are the same
        self.classes: int | None = None
        self._calls = 0

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes), float32, of any number of images."""
        with torch.no_grad():
            chunks = [
                self._forward(self.model, self._pad(chunk))[: len(chunk)] for chunk in x.split(self.static_batch_size)
            ]
        return torch.cat(chunks).float()

    def searched_logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes), float32, of the model that attacks query, in one call; n is one of ``batch_sizes``."""
        with torch.no_grad(), arithmetic(self.precision, self.device):
            return self._forward(self.searched, x.contiguous(), judged=False).float()

    def logits_and_gradient(self, x: Tensor, objective: Loss) -> tuple[Tensor, Tensor]:
        """The same, and the objective's gradient (n, c, h, w); what is not finite in it counts as zero."""
        logits, gradient = self.logits_and_raw_gradient(x, objective)
        return logits, finite(gradient)

    def logits_and_raw_gradient(self, x: Tensor, objective: Loss) -> tuple[Tensor, Tensor]:
        """The same with the gradient as the model gives it; zero where its output does not depend on the image."""
        with torch.enable_grad(), arithmetic(self.precision, self.device):
            queries = x.detach().contiguous().to(self.device).requires_grad_()
            logits = self._forward(self.searched, queries, judged=False).float()
            gradient = None
            if logits.requires_grad:
                with _blaming_model("its backward pass"):
                    (gradient,) = torch.autograd.grad(objective(logits).sum(), queries, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(queries)
        return logits.detach(), gradient.detach().contiguous()

    def check_labels(self, y: Tensor) -> None:
        """Refuse labels that are no class of the model; call it after the first logits."""
        if self.classes is not None and len(y) and int(y.max()) >= self.classes:
            raise AdvdpnpError(
                f"label {int(y.max())} is no class of the model, which has {self.classes} (counted from 0); "
                "check that model and data set belong together"
            )

    def _pad(self, x: Tensor) -> Tensor:
        x = x.to(self.device).contiguous()
        return (
            x
            if len(x) in self.batch_sizes
            else torch.cat([x, x[-1:].expand(self.static_batch_size - len(x), *x.shape[1:])])
        )

    def _forward(self, model: nn.Module, x: Tensor, judged: bool = True) -> Tensor:
        self._calls += 1
        # A copy: some nets normalise in place, which would change the images they are judged on.
        with _blaming_model("its forward pass"):
            if self.seed is None:
                logits = model(x.clone())
            else:
                with isolated_rng():
                    torch.manual_seed(seed_of(self.seed, "model", self._calls))
                    logits = model(x.clone())
        self._check(logits, len(x), judged)
        return logits  # type: ignore[no-any-return]

    def _check(self, logits: object, rows: int, judged: bool) -> None:
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the model must return logits (n, classes), got {shape} for {rows} images; wrap it so that it does"
            )
        if not logits.is_floating_point():
            raise ModelError(f"the model returns {logits.dtype} values; wrap it so that it returns float logits")
        if judged and self.classes not in (None, logits.shape[1]):
            raise ModelError(
                f"the model returned {self.classes} classes before and {logits.shape[1]} now; it must not change"
            )
        if judged:
            self.classes = logits.shape[1]
        # The sum is a quick check: it may overflow for finite logits, but a NaN or infinity always shows in it.
        if not math.isfinite(float(logits.detach().sum())) and not bool(torch.isfinite(logits).all()):
            raise ModelError(
                "the model's logits hold NaN or infinite values for some images; check its weights and input range"
            )


@contextmanager
def _blaming_model(what: str) -> Iterator[None]:
    """Around a model's own code: even ``sys.exit`` in it is a failure of the model."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, AdvdpnpError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelFailure(what, first_line(error)) from error


def finite(gradient: Tensor) -> Tensor:
    """The gradient with zeros where it is not finite: such a value gives no direction."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def is_randomised(model: nn.Module, x: Tensor) -> bool:
    """Whether two forwards of the same images, under different noise, differ at all. Leaves global generators alone."""
    with evaluation_mode(model), torch.no_grad(), isolated_rng():
        first = model(x.clone())
        return any(not torch.equal(first, model(x.clone())) for _ in range(2))


def is_batch_dependent(executor: Executor, x: Tensor) -> bool:
    """Whether the logits of an image depend on the other images of its batch, beyond rounding.

    The same images are evaluated together, and padded with copies of one of them; this finds a BatchNorm layer without
    running statistics even where a batch is full.
    """
    together = executor.logits(x)
    alone = torch.cat([executor.logits(x[:1]), executor.logits(x[1:])]) if len(x) > 1 else together
    padded = torch.cat([executor.logits(part) for part in x.flip(0).split(max(1, len(x) // 2))]).flip(0)
    scale = float(together.abs().max().clamp_min(1e-12))
    return any(float((other - together).abs().max()) > 1e-3 * scale for other in (alone, padded))
