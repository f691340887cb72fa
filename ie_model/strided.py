"""5x5 convolutions of stride 2 and their transposes, computed the way that CPUs are fast at.

A library's input gradient of a strided convolution, which is also the forward pass of its transpose, scatters; on a CPU
it takes several times as long as the forward pass. It can be written as one 3x3 convolution of stride 1 that
gives the four phases of each 2x2 block as channels: the sub-pixel form (Shi et al., CVPR 2016). The values are the same
but for rounding. Elsewhere than on a CPU, and by `torch.compile`, the library's own are used, with channels last, as
tensor cores want them.

Shapes: x `[B, C, H, W]`, y `[B, D, ceil(H / 2), ceil(W / 2)]`, weight `[D, C, 5, 5]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Up to as many channels of x the four phases of x beside each other, as channels, make the faster forward pass too.
_FEW_CHANNELS = 4


class StridedConv2d(nn.Conv2d):
    """`nn.Conv2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=5, stride=2, padding=2)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, D, ceil(H / 2), ceil(W / 2)]`."""
        assert self.bias is not None
        if _by_library(input):
            return F.conv2d(_channels_last(input), _channels_last(self.weight), self.bias, stride=2, padding=2)
        x, weight, bias = _as_autocast(input, self.weight, self.bias)
        if self.in_channels <= _FEW_CHANNELS:
            return F.conv2d(_unshuffle(x), _phases(weight), bias, padding=1)
        result: Tensor = _Convolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result


class StridedConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d(in_channels, out_channels, 5, stride=2, padding=2)` to images of a given size."""

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        # Stride 2 makes 2n - 1 of n; an even size takes one more.
        extra = (1 - size[0] % 2, 1 - size[1] % 2)
        super().__init__(in_channels, out_channels, 5, stride=2, padding=2, output_padding=extra)
        self.size = size

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, D, ceil(H / 2), ceil(W / 2)]` -> `[B, C, H, W]`; `output_size` is not used, the layer has its size."""
        assert self.bias is not None
        if _by_library(input):
            weight, extra = _channels_last(self.weight), self.output_padding
            return F.conv_transpose2d(
                _channels_last(input), weight, self.bias, stride=2, padding=2, output_padding=extra
            )
        y, weight, bias = _as_autocast(input, self.weight, self.bias)
        result: Tensor = _Transpose.apply(y, weight, bias, self.size)  # type: ignore[no-untyped-call]
        return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = _channels_last(x)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, stride=2, padding=2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = _channels_last(grads[0])
        grad_x = _transpose(grad, weight, (x.shape[2], x.shape[3])) if ctx.needs_input_grad[0] else None
        return grad_x, _weight_gradient(grad, x, weight), grad.sum((0, 2, 3))


class _Transpose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
        y = _channels_last(y)
        ctx.save_for_backward(y, weight)
        return _transpose(y, weight, size) + bias.view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        y, weight = ctx.saved_tensors
        grad = _channels_last(grads[0])
        grad_y = F.conv2d(grad, weight, stride=2, padding=2) if ctx.needs_input_grad[0] else None
        return grad_y, _weight_gradient(y, grad, weight), grad.sum((0, 2, 3)), None


def _transpose(y: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The adjoint of the convolution: y `[B, D, h, w]` -> `[B, C, *size]`."""
    channels, (height, width) = weight.shape[1], y.shape[2:]
    phases = F.conv2d(y, _channels_last(_phases(weight).flip(2, 3).transpose(0, 1)), padding=1)
    blocks = phases.permute(0, 2, 3, 1).reshape(-1, height, width, 2, 2, channels).transpose(2, 3)
    x = blocks.reshape(-1, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    return x[:, :, : size[0], : size[1]]


def _phases(weight: Tensor) -> Tensor:
    """Kernel `[D, C, 5, 5]` as that of stride 1 on the four phases of x as channels, `[D, 4C, 3, 3]`."""
    out_channels, channels = weight.shape[:2]
    phases = F.pad(weight, (0, 1, 0, 1)).view(out_channels, channels, 3, 2, 3, 2)
    return _channels_last(phases.permute(0, 3, 5, 1, 2, 4).reshape(out_channels, 4 * channels, 3, 3))


def _unshuffle(x: Tensor) -> Tensor:
    """The four phases of x `[B, C, H, W]` as channels, `[B, 4C, ceil(H / 2), ceil(W / 2)]`."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)).permute(0, 2, 3, 1)
    phases = [x[:, i::2, j::2] for i in range(2) for j in range(2)]
    return torch.cat(phases, dim=-1).permute(0, 3, 1, 2)


def _weight_gradient(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of <y, convolution(x)> by the kernel, `[D, C, 5, 5]`."""
    strides: tuple[list[int], list[int], list[int]] = ([2, 2], [2, 2], [1, 1])
    grads = torch.ops.aten.convolution_backward(y, x, weight, None, *strides, False, [0, 0], 1, [False, True, False])
    result: Tensor = grads[1]
    return result


def _by_library(x: Tensor) -> bool:
    """Elsewhere than on a CPU, and where a compiler makes its own of it."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the precision that autocast gives to convolutions."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(tensor.to(dtype) if tensor.dtype == torch.float32 else tensor for tensor in tensors)
