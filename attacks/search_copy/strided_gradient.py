"""A faster gradient of a strided convolution with respect to its input image.

Every attack step ends with the gradient of the first layer with respect to an image of one to four channels. A
transposed convolution with so few output channels uses a tenth of a CPU's throughput. All pixels of one phase (position
modulo the stride) use the same taps of the kernel. So one convolution of stride 1 with stride^2 times as many output
channels computes all phases, and a pixel shuffle puts them in order.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_FEW_CHANNELS = 4
_VECTOR = 8  # output channels are padded to a multiple of this


def is_image_convolution(module: nn.Module) -> bool:
    """Whether ``ImageConvolution`` can replace ``module`` and is faster."""
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= _FEW_CHANNELS
        and module.groups == 1
        and module.stride[0] == module.stride[1] > 1
        and module.dilation == (1, 1)
        and isinstance(module.padding, tuple)
        and module.padding_mode == "zeros"
    )


class ImageConvolution(nn.Module):
    """The same function as ``convolution`` with a faster input gradient and without a gradient for its weights.

    The gradient uses the weights at the time of construction.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.kernel, self.first_offset, self.last_offset = _phases(convolution)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = _Convolve.apply(x, self) if torch.is_grad_enabled() else self.convolution(x)
        return convolved

    def input_gradient(self, gradient: Tensor, channels: int, height: int, width: int) -> Tensor:
        """Map the output gradient, (n, out, h', w'), to the image gradient, (n, channels, height, width)."""
        stride = self.convolution.stride[0]
        rows, columns = -(-height // stride), -(-width // stride)
        (top, left), (bottom, right) = self.first_offset, self.last_offset
        padding = (
            -left, columns - 1 + right - (gradient.shape[3] - 1), -top, rows - 1 + bottom - (gradient.shape[2] - 1)
        )  # fmt: skip
        gradient = gradient.to(self.kernel.dtype)  # lower precision if the model's forward enables autocast
        padded = functional.pad(gradient, padding).contiguous(memory_format=torch.channels_last)
        phases = functional.conv2d(padded, self.kernel)[:, : channels * stride**2]
        return functional.pixel_shuffle(phases.contiguous(), stride)[:, :, :height, :width]


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: ImageConvolution) -> Tensor:
        ctx.module, ctx.image = module, x.shape[1:]
        convolved: Tensor = module.convolution(x)
        return convolved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.module.input_gradient(gradient, *ctx.image), None


def _phases(convolution: nn.Conv2d) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    """The kernel (padded in * stride^2, out, vertical offsets, horizontal offsets) and the first and last offsets.

    Output o and tap t contribute to pixel s * q + a if s * o - p + t = s * q + a. Then o = q + d with the offset
    d = (a + p - t) / s.
    """
    weight, stride, padding = convolution.weight.detach(), convolution.stride[0], convolution.padding
    assert isinstance(padding, tuple), "strided convolutions have no named padding"
    steps = [_offsets(size, stride, pad) for size, pad in zip(weight.shape[2:], padding, strict=True)]
    first = (min(d for _, _, d in steps[0]), min(d for _, _, d in steps[1]))
    last = (max(d for _, _, d in steps[0]), max(d for _, _, d in steps[1]))
    outputs, inputs = weight.shape[:2]
    kernel = weight.new_zeros(inputs, stride, stride, outputs, last[0] - first[0] + 1, last[1] - first[1] + 1)
    for a, tap, d in steps[0]:
        for b, tap_across, across in steps[1]:
            kernel[:, a, b, :, d - first[0], across - first[1]] = weight[:, :, tap, tap_across].T
    flat = kernel.reshape(inputs * stride**2, outputs, *kernel.shape[-2:])
    filled = functional.pad(flat, (0, 0, 0, 0, 0, 0, 0, -len(flat) % _VECTOR))
    return filled.contiguous(memory_format=torch.channels_last), first, last


def _offsets(size: int, stride: int, padding: int) -> list[tuple[int, int, int]]:
    """(phase, tap, offset) of all taps along one axis."""
    return [
        (phase, tap, (phase + padding - tap) // stride)
        for phase in range(stride)
        for tap in range(size)
        if (phase + padding - tap) % stride == 0
    ]
