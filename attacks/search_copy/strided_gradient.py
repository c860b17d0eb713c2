"""A faster gradient of a strided convolution with respect to its input, which every attack step needs.

A transposed convolution uses a third of a CPU's throughput, and with the few output channels of an image a tenth. All
pixels of one phase (position modulo the stride) use the same taps of the kernel, on outputs next to each other. So one
convolution of stride 1 with stride^2 times as many output channels, and a kernel that is that much smaller, computes
all phases. Phases differ in where their first output is, so each is a window of the result of its own.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOST = 16
"""Most input channels, times the multiplications for each that is not by zero: with more, torch's own is faster."""


def has_slow_gradient(module: nn.Module) -> bool:
    """Whether ``StridedConvolution`` can replace ``module`` and is faster."""
    if type(module) is not nn.Conv2d or not module.stride[0] == module.stride[1] > 1:
        return False
    stride = module.stride[0]
    filled = math.prod(-(-size // stride) * stride / size for size in module.kernel_size)
    return (
        module.in_channels * filled <= _MOST
        and module.groups == 1
        and module.dilation == (1, 1)
        and isinstance(module.padding, tuple)
        and module.padding_mode == "zeros"
    )


class StridedConvolution(nn.Module):
    """The same function as ``convolution`` with a faster input gradient and without a gradient for its weights.

    The gradient uses the weights at the time of construction.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.kernel, self.first = _phases(convolution)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = _Convolve.apply(x, self) if torch.is_grad_enabled() else self.convolution(x)
        return convolved

    def input_gradient(self, gradient: Tensor, shape: torch.Size, layout: torch.memory_format) -> Tensor:
        """Map the output gradient, (n, out, h', w'), to the input gradient, of this shape (n, channels, h, w)."""
        stride, channels = self.convolution.stride[0], shape[1]
        sizes = [-(-size // stride) for size in shape[2:]]
        # The least padding, on both sides alike, in which every phase finds all outputs that it needs.
        padding = [
            max(0, -min(first), size + max(first) + taps - 1 - outputs)
            for first, size, taps, outputs in zip(
                self.first, sizes, self.kernel.shape[2:], gradient.shape[2:], strict=True
            )
        ]
        gradient = gradient.to(self.kernel.dtype)  # lower precision if the model's forward enables autocast
        phases = functional.conv2d(gradient, self.kernel, padding=padding)
        whole = torch.empty(
            (len(gradient), channels, *(size * stride for size in sizes)),
            dtype=phases.dtype, device=phases.device, memory_format=layout,
        )  # fmt: skip
        tops, lefts = ([first + pad for first in each] for each, pad in zip(self.first, padding, strict=True))
        for a, top in enumerate(tops):
            for b, left in enumerate(lefts):
                place = (a * stride + b) * channels
                window = phases[:, place : place + channels, top : top + sizes[0], left : left + sizes[1]]
                whole[:, :, a::stride, b::stride] = window
        return whole[:, :, : shape[2], : shape[3]]


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: StridedConvolution) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        ctx.module, ctx.shape = module, x.shape
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        convolved: Tensor = module.convolution(x)
        return convolved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.module.input_gradient(gradient, ctx.shape, ctx.layout), None


def _phases(convolution: nn.Conv2d) -> tuple[Tensor, list[list[int]]]:
    """The kernel (stride^2 * in, out, taps, taps), and for both axes the first output that each phase needs.

    Output o and tap t contribute to pixel s * q + a if s * o - p + t = s * q + a. Then o = q + d with the offset
    d = (a + p - t) / s.
    """
    weight, stride, padding = convolution.weight.detach(), convolution.stride[0], convolution.padding
    assert isinstance(padding, tuple), "strided convolutions have no named padding"
    axes = [_taps(size, stride, pad) for size, pad in zip(weight.shape[2:], padding, strict=True)]
    outputs, inputs = weight.shape[:2]
    taps = [-(-size // stride) for size in weight.shape[2:]]
    kernel = weight.new_zeros(stride, stride, inputs, outputs, *taps)
    for a, (rows, _) in enumerate(axes[0]):
        for b, (columns, _) in enumerate(axes[1]):
            part = weight[:, :, rows][:, :, :, columns].transpose(0, 1)
            kernel[a, b, :, :, : len(rows), : len(columns)] = part
    layout = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return kernel.flatten(0, 2).contiguous(memory_format=layout), [[first for _, first in axis] for axis in axes]


def _taps(size: int, stride: int, padding: int) -> list[tuple[list[int], int]]:
    """For each phase of one axis its taps, by rising offset, and the offset of the first."""
    found = []
    for phase in range(stride):
        taps = [tap for tap in reversed(range(size)) if (phase + padding - tap) % stride == 0]
        found.append((taps, (phase + padding - taps[0]) // stride if taps else 0))
    return found
