"""What kinds of devices can and cannot do."""

import torch

TYPES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that evaluations run on: processors, NVIDIA and AMD, Apple, Intel."""

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
"""What is raised where the memory of an accelerator is short, or that of the machine."""

WITHOUT_FLOAT64 = frozenset({"mps"})


def has_float64(device: torch.device) -> bool:
    """Whether tensors of float64 can be there."""
    return device.type not in WITHOUT_FLOAT64


def widest_float(device: torch.device) -> torch.dtype:
    """float64 where the device has it, else float32."""
    return torch.float64 if has_float64(device) else torch.float32
