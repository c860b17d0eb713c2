"""The precision of a search. Successes are always verified in float32 (see ``verification``)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advdpnp.base.errors import AdvdpnpError

FLOAT32 = "32"
PRECISIONS = ("auto", FLOAT32, "tf32", "bf16")


def computes_bf16(device: torch.device) -> bool:
    """Whether the device is known to have bf16 instructions. Without them torch converts to float32 and back."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(text: str, device: torch.device) -> str:
    """Resolve a name in PRECISIONS. "auto" is bf16 if the device has it, and float32 otherwise.

    Raises:
        AdvdpnpError: the precision is unknown, or the device does not support it.
    """
    if text not in PRECISIONS:
        raise AdvdpnpError(f"there is no precision called '{text}'; choose one of {', '.join(PRECISIONS)}")
    if text == "auto":
        return "bf16" if computes_bf16(device) else FLOAT32
    if text == "tf32" and device.type != "cuda":
        raise AdvdpnpError("tf32 is a format of NVIDIA GPUs; on a CPU choose 32, or bf16 if the CPU supports it")
    return text


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
