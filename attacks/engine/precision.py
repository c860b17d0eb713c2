"""The precision of a search. Successes are always verified in float32 (see ``verification``)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.search_copy.low_precision import make_low_precision_copy
from advdpnp.attacks.search_copy.make import make_search_copy
from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError

FLOAT32 = "32"
PRECISIONS = ("auto", FLOAT32, "tf32", "bf16")
_SPELLINGS = {"float32": FLOAT32, "fp32": FLOAT32, "bfloat16": "bf16"}

SEARCH_VERSION = 2
"""Version of what a search in low precision does, part of its definition. It grows when the same search would find
something else. Version 2 searches again in float32 only what was near, and whole attacks and not only ensembles."""

NEAR = 8.0
"""A margin is near if it is within this many times the rounding error of the row's clean logits."""

GAIN = 1.8
"""How many times as fast as float32 a pass must be for "auto" to take it. What was near is searched again in float32:
AutoAttack on a net whose passes are 1.6 times as fast in bf16 took half as long again as in float32."""

_SECONDS = 1.0  # of all timings of one network together, if two turns fit in
_SLOW = 0.15  # a call that takes longer is timed on fewer rows


def computes_bf16(device: torch.device) -> bool:
    """Whether the device is known to have bf16 instructions. Without them torch converts to float32 and back."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def as_precision(text: str) -> str:
    """A precision by our name, as PRECISIONS has it, or by that of torch."""
    return _SPELLINGS.get(text, text)


def check_precision(text: str, device: torch.device) -> str:
    """Check a name in PRECISIONS and return it.

    Raises:
        AdvdpnpError: the precision is unknown, or the device does not support it.
    """
    if text not in PRECISIONS:
        raise AdvdpnpError(f"there is no precision called '{text}'; choose one of {', '.join(PRECISIONS)}")
    if text == "tf32" and device.type != "cuda":
        raise AdvdpnpError("tf32 is a format of NVIDIA GPUs; on a CPU choose 32, or bf16 if the CPU supports it")
    return text


def search_precision(attack: Any, precision: str) -> str:
    """The precision in which an attack searches: float32 for a minimum-norm attack, which ends at margin zero."""
    return FLOAT32 if attack.minimum_norm else precision


def candidates(device: torch.device) -> tuple[str, ...]:
    """The precisions that "auto" chooses from, the highest first."""
    low = ("bf16",) if computes_bf16(device) else ()
    return (FLOAT32, "tf32", *low) if device.type == "cuda" else (FLOAT32, *low)


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute with this precision inside the context. Restores the caller's ``exact_arithmetic``."""
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    elif precision == "tf32":
        before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
        torch.set_float32_matmul_precision("high")
        try:
            with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=True):  # type: ignore[no-untyped-call]
                yield
        finally:
            torch.set_float32_matmul_precision(before)
    else:
        yield


def model_to_search(model: nn.Module, example: Tensor, precision: str) -> tuple[nn.Module, str]:
    """The model that attacks query, and the precision of the ``arithmetic`` around its calls.

    A copy in bf16 needs no such arithmetic. Where none can be made, autocast converts the weights in every call.

    Args:
        model: in evaluation mode, without gradients for parameters.
        example: images in [0, 1], (n, c, h, w), on which copies are compared with the model.
        precision: "32", "tf32" or "bf16".
    """
    searched = make_search_copy(model, example)
    low = make_low_precision_copy(searched, example) if precision == "bf16" else None
    return (searched, precision) if low is None else (low, FLOAT32)


def near_within(logits: Tensor, exact: Tensor) -> Tensor:
    """Margin that a search cannot tell from a success: ``NEAR`` times its largest error on the clean image, (n,).

    It depends on the row alone, so what is searched again does not depend on other rows.

    Args:
        logits: of the clean images in the precision of the search, (n, classes).
        exact: the same in float32.
    """
    error = (logits - exact).abs().amax(1)
    return torch.nan_to_num(NEAR * error, nan=torch.inf, posinf=torch.inf)


@dataclass(frozen=True)
class Choice:
    """What "auto" took, and why.

    Attributes:
        precision: "32", "tf32" or "bf16".
        milliseconds: of a forward and backward pass in each precision; empty where nothing was timed.
        rows: images in each of these passes.
    """

    precision: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """For the record of a run: ``{"timed": {"rows": 128, "32": 253.1, "bf16": 146.7}}`` if anything was timed."""
        return {"timed": {"rows": self.rows, **self.milliseconds}} if self.milliseconds else {}


_known: dict[tuple[object, ...], Choice] = {}


def fastest_precision(model: nn.Module, images: Tensor, rows: int, device: torch.device) -> Choice:
    """The precision in which searches on this model are fastest; a lower one must be ``GAIN`` times as fast.

    Precisions in which the model's own code fails are left out. It takes about a second. The same architecture on the
    same device and shape is timed once in a process.

    Args:
        model: in evaluation mode, without gradients for parameters; on ``device``.
        images: some images in [0, 1], (n, c, h, w).
        rows: images per model call of the search.
    """
    names = candidates(device)
    if len(names) == 1:
        return Choice(names[0])
    weights = [(name, tuple(value.shape), value.dtype) for name, value in model.state_dict().items()]
    key = (repr(model), tuple(weights), tuple(images.shape[1:]), rows, str(device), torch.get_num_threads())
    if key not in _known:
        _known[key] = _timed(model, images, rows, device, names)
    return _known[key]


def _timed(model: nn.Module, images: Tensor, rows: int, device: torch.device, names: tuple[str, ...]) -> Choice:
    batch = images[torch.arange(rows) % len(images)].to(device)
    calls = {name: _call(*model_to_search(model, batch[:8], name), device) for name in names}
    calls = {name: call for name, call in calls.items() if name == FLOAT32 or _runs(call, batch)}
    while len(batch) > 8 and _seconds(partial(calls[FLOAT32], batch[:8]), device) * len(batch) / 8 > _SLOW:
        batch = batch[: len(batch) // 2]
    best = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        call(batch)
    ends, turns = time.monotonic() + _SECONDS, 0
    while turns < 3 or time.monotonic() < ends:
        for name, call in calls.items():
            best[name] = min(best[name], _seconds(partial(call, batch), device))
        turns += 1
    chosen = FLOAT32
    for name in best:
        if best[name] * GAIN <= best[chosen]:
            chosen = name
    return Choice(chosen, {name: round(1000 * seconds, 3) for name, seconds in best.items()}, len(batch))


def _call(model: nn.Module, precision: str, device: torch.device) -> Callable[[Tensor], None]:
    def call(x: Tensor) -> None:
        with torch.enable_grad(), arithmetic(precision, device):
            queries = x.detach().clone().requires_grad_()
            logits = model(queries).float()
            if logits.requires_grad:
                torch.autograd.grad(logits.logsumexp(1).sum(), queries, allow_unused=True)

    return call


def _runs(call: Callable[[Tensor], None], batch: Tensor) -> bool:
    try:
        call(batch[:8])
    except OUT_OF_MEMORY:
        raise
    except (Exception, SystemExit):  # a model's own code may fail in low precision: "dtypes do not match"
        return False
    return True


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # other programs do not count
    _wait(device)
    begin = clock()
    work()
    _wait(device)
    return clock() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
