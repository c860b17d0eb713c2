"""Calls of the model: in eval mode, in full float32, deterministic, and in batches of one size.

Convolutions differ in the last bits between batch sizes, so every batch is padded to one size. Then the result of a row
does not depend on the other rows.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.capture import Capture
from advdpnp.attacks.engine.one_thread import by_this_thread
from advdpnp.attacks.engine.precision import FLOAT32, arithmetic
from advdpnp.attacks.protocol import Loss
from advdpnp.attacks.search_copy.make import is_observed
from advdpnp.base.devices import OUT_OF_MEMORY, TYPES
from advdpnp.base.errors import AdvdpnpError, ModelError, ModelFailure, first_line
from advdpnp.base.randomness import isolated_rng, seed_of, seeded_rng


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 (no TF32, no autocast), deterministic cuDNN, no autotuning. Restores the caller's settings."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    with ExitStack() as stack:
        stack.enter_context(
            cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)  # type: ignore[no-untyped-call]
        )
        for kind in TYPES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about "cuda" on a machine without a GPU
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Restores the mode of every module."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def switch_to_eval(model: nn.Module) -> None:
    """Put all modules in eval mode; some models override ``train`` and keep some modules in training mode.

    Raises:
        ModelFailure: its ``eval()`` fails.
    """
    with _blaming_model("its eval()"):
        model.eval()
    for module in model.modules():
        module.training = False


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode, no gradients for parameters, exact arithmetic. Restores modes, flags and buffers.

    Raises:
        AdvdpnpError: another thread evaluates this model.
        ModelFailure: its ``eval()`` fails.
    """
    with by_this_thread(model):
        weights = [(weight, weight.requires_grad) for weight in model.parameters()]
        buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        try:
            with keeping_modes(model):
                switch_to_eval(model)
                for weight, _ in weights:
                    weight.requires_grad_(False)
                with exact_arithmetic():
                    yield
        finally:
            for weight, requires_grad in weights:
                weight.requires_grad_(requires_grad)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Check that x is a batch of images in [0, 1], (n, c, h, w), and y its labels, (n,).

    Raises:
        AdvdpnpError: wrong type or shape, values that are not finite or outside [0, 1], or negative labels.
    """
    if not x.is_floating_point() or x.dim() != 4:
        remedy = "give all four dimensions, of one image too: images[None]"
        if not x.is_floating_point():
            remedy = "divide bytes by 255: images.float() / 255"
        raise AdvdpnpError(
            f"images must be float tensors (n, c, h, w) in [0, 1], got {x.dtype} of shape {tuple(x.shape)}; {remedy}"
        )
    if y.shape != (len(x),) or y.is_floating_point() or y.dtype == torch.bool:
        raise AdvdpnpError(f"labels must be {len(x)} integers, one per image, got {y.dtype} of shape {tuple(y.shape)}")
    if len(x) == 0:
        return
    if not bool(torch.isfinite(x).all()):
        raise AdvdpnpError("some images contain NaN or infinite values; check how they are loaded")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        remedy = "pass unnormalised images and normalise them in the first layer of the model"
        if low >= 0 and 16 < high <= 255:
            remedy = "divide them by 255; if the model wants them so, say input_range (0, 255)"
        raise AdvdpnpError(f"images must lie in [0, 1] but range from {low:.8g} to {high:.8g}; {remedy}")
    if int(y.min()) < 0:
        raise AdvdpnpError(f"label {int(y.min())} is negative; classes are counted from 0")


def check_classes_of(label: int, classes: int) -> None:
    """Check that the largest label is a class of the model.

    Raises:
        AdvdpnpError: it is not.
    """
    if label >= classes:
        raise AdvdpnpError(
            f"label {label} is not a class of the model, which has {classes} classes (counted from 0); "
            "check that the model matches the data set"
        )


class Executor:
    """Runs one model on batches of exactly ``static_batch_size`` rows.

    The caller keeps the model in ``evaluation_mode`` and on ``device``.

    Args:
        static_batch_size: rows of every model call; smaller batches are padded with copies of their last row.
        device: device of the model.
        seed: for a randomised model, the seed of its noise together with the number of the call. None for a
            deterministic model.
        searched: model that attacks query: a faster copy of ``model`` (see ``make_search_copy``), or ``model`` if
            None. ``model`` verifies successes.
        precision: precision of the arithmetic around calls of ``searched``, which may be in another one itself.
        unasked: a copy of the model from before its first call, see ``judge_twice``.

    Raises:
        AdvdpnpError: ``static_batch_size`` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        static_batch_size: int,
        device: torch.device | str,
        seed: int | None = None,
        searched: nn.Module | None = None,
        precision: str = FLOAT32,
        unasked: nn.Module | None = None,
    ) -> None:
        if static_batch_size < 1:
            raise AdvdpnpError(f"the static batch size must be at least 1, got {static_batch_size}")
        self.model, self.seed, self.unasked = model, seed, unasked
        self.static_batch_size, self.device = static_batch_size, torch.device(device)
        self.searched = model if searched is None else searched
        self.precision = precision
        # Hooks are code of the host.
        self.capture = Capture(self.device, allowed=seed is None and not is_observed(model))
        self.batch_sizes = {static_batch_size}  # allowed sizes of a call; more are added if they give the same results
        self.classes: int | None = None
        self.calls = 0
        self._before: Tensor | None = None  # the last answer as the model gave it
        self._reuses = False

    def logits(self, x: Tensor) -> Tensor:
        """Logits of any number of images, (n, classes): float64 of a float64 model, else float32.

        A row that holds NaN or an infinite value is NaN throughout, in all methods: the model has no answer there.
        """
        with torch.no_grad():
            chunks = [
                self._forward(self.model, self._pad(chunk))[: len(chunk)] for chunk in x.split(self.static_batch_size)
            ]
        logits = torch.cat(chunks)
        return logits if logits.dtype == torch.float64 else logits.float()

    def searched_logits(self, x: Tensor, *, checked: bool = True, with_graph: bool = False) -> Tensor:
        """Logits of the model that attacks query, float32 (n, classes), in one call. n is one of ``batch_sizes``.

        Args:
            checked: whether rows without an answer become NaN; if not, they stay as they are, and nothing waits.
            with_graph: compute as for a gradient, which may take other kernels.
        """
        with torch.set_grad_enabled(with_graph), arithmetic(self.precision, self.device):
            queries = x.detach().contiguous().requires_grad_(with_graph)
            return self._forward(self.searched, queries, verifying=False, checked=checked).float().detach()

    def logits_and_gradient(self, x: Tensor, objective: Loss, *, checked: bool = True) -> tuple[Tensor, Tensor]:
        """The same with the gradient of the loss, (n, c, h, w). Values that are not finite become zero."""
        logits, gradient = self.logits_and_raw_gradient(x, objective, checked=checked)
        return logits, finite(gradient)

    def logits_and_raw_gradient(self, x: Tensor, objective: Loss, *, checked: bool = True) -> tuple[Tensor, Tensor]:
        """The same with the gradient unchanged. It is zero if the output does not depend on the image."""
        with torch.enable_grad(), arithmetic(self.precision, self.device):
            queries = x.detach().contiguous().to(self.device).requires_grad_()
            logits = self._forward(self.searched, queries, verifying=False, checked=checked).float()
            gradient = None
            if logits.requires_grad:
                with _blaming_model("its backward pass"):
                    (gradient,) = torch.autograd.grad(objective(logits).sum(), queries, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(queries)
        return logits.detach(), gradient.detach().contiguous()

    def check_labels(self, y: Tensor) -> None:
        """Check labels against the number of classes, which is known after the first logits.

        Raises:
            AdvdpnpError: a label is not a class of the model.
        """
        if self.classes is not None and len(y):
            check_classes_of(int(y.max()), self.classes)

    def _pad(self, x: Tensor) -> Tensor:
        x = x.to(self.device).contiguous()
        return (
            x
            if len(x) in self.batch_sizes
            else torch.cat([x, x[-1:].expand(self.static_batch_size - len(x), *x.shape[1:])])
        )

    def _forward(self, model: nn.Module, x: Tensor, verifying: bool = True, checked: bool = True) -> Tensor:
        self.calls += 1
        # Clone the images: some models normalise in place, which would change the images under evaluation.
        with _blaming_model("its forward pass"):
            if self.seed is None:
                logits = model(x.clone())
            else:
                with seeded_rng(seed_of(self.seed, "model", self.calls)):
                    logits = model(x.clone())
        return self._own(self._checked(logits, x, verifying, checked))

    def _own(self, logits: Tensor) -> Tensor:
        """The logits, copied if the model answers in a buffer of its own, which its next call overwrites.

        Such a buffer is seen when it comes again while the answer before is held; so the first answer is copied too.
        """
        again = self._before is not None and _place(self._before) == _place(logits) != 0
        first, self._before = self._before is None, logits.detach()
        self._reuses |= again
        return logits.clone() if first or self._reuses else logits

    def _checked(self, logits: object, x: Tensor, verifying: bool, values: bool) -> Tensor:
        rows = len(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != rows or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the model must return logits (n, classes), a torch.Tensor, got {shape} for {rows} images; wrap it"
            )
        if not logits.is_floating_point():
            raise ModelError(f"the model returns {logits.dtype} values; wrap it to return float logits")
        if verifying and self.classes not in (None, logits.shape[1]):
            raise ModelError(
                f"the model returned {self.classes} classes before and {logits.shape[1]} now; it must be constant"
            )
        if verifying:
            self.classes = logits.shape[1]
        if not values:
            return logits
        # The sum is a fast first check: it can overflow for finite logits, but NaN and infinity always propagate to it.
        if math.isfinite(float(logits.detach().sum())) or bool(torch.isfinite(logits).all()):
            return logits
        if not bool(torch.isfinite(x).all()):
            raise not_finite("some")  # the fault of whoever made these images
        return logits.masked_fill(~torch.isfinite(logits.detach()).all(1, keepdim=True), torch.nan)


def _place(tensor: Tensor) -> int:
    """Where the memory of a tensor begins; 0 where a device does not say."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return 0


def not_finite(which: str) -> ModelError:
    """The error about logits that are NaN or infinite for "some" or "all" images."""
    return ModelError(
        f"the model's logits contain NaN or infinite values for {which} images; check its weights and input range"
    )


def lost(logits: Tensor) -> Tensor:
    """Rows without an answer in logits of an ``Executor``, bool (n,)."""
    return logits[:, 0].isnan()


def answered(logits: Tensor) -> Tensor:
    """The logits of an ``Executor``, if every row has an answer.

    Raises:
        ModelError: one has none.
    """
    if bool(lost(logits).any()):
        raise not_finite("some")
    return logits


@contextmanager
def _blaming_model(what: str) -> Iterator[None]:
    """Convert any error in the model's code to a ModelFailure, even ``sys.exit``."""
    try:
        yield
    except (*OUT_OF_MEMORY, AdvdpnpError):
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # so torch says it of a CPU
            raise MemoryError(first_line(error)) from error
        raise ModelFailure(what, first_line(error)) from error


def finite(values: Tensor) -> Tensor:
    """Replace values that are not finite by zero: in a gradient they give no direction."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def is_randomised(model: nn.Module, x: Tensor) -> bool:
    """Whether repeated forward passes of the same images differ. The global generators do not change."""
    with evaluation_mode(model), torch.no_grad(), isolated_rng():
        first = finite(model(x.clone()))
        return any(not torch.equal(first, finite(model(x.clone()))) for _ in range(2))


def is_batch_dependent(executor: Executor, x: Tensor, together: Tensor | None = None) -> bool:
    """Whether the logits of an image depend on the other images of its batch by more than rounding.

    It compares the logits of all images ``together``, which are computed unless they are given, with those of the first
    image alone and of the second half. This detects BatchNorm layers without running statistics even in full batches.
    """
    known = finite(executor.logits(x) if together is None else together.to(executor.device))
    scale = float(known.abs().max().clamp_min(1e-12))
    parts = (slice(0, 1), slice(len(x) // 2, None))
    return any(float((finite(executor.logits(x[part])) - known[part]).abs().max()) > 1e-3 * scale for part in parts)
