"""Stride-2 convolutions in the form that CPUs are fast at, against torch's own: values, gradients, precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ie_model.strided import StridedConv2d, StridedConvTranspose2d
from tests.helpers.tiny import seeded

SIZES = st.integers(1, 13)
CHANNELS = st.integers(1, 7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def agree(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> None:
    """The layer gives what its parent class gives, and all three gradients do."""
    parent: type[nn.Module] = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose2d
    x.requires_grad_()
    ours, theirs = layer(x), parent.forward(layer, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    direction = normal(*theirs.shape, seed=1)
    assert layer.bias is not None
    inputs = [x, layer.weight, layer.bias]
    for ours_by, theirs_by in zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(theirs, inputs, direction), strict=True
    ):
        torch.testing.assert_close(ours_by, theirs_by, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(CHANNELS, CHANNELS, SIZES, SIZES)
def test_a_strided_convolution_is_torchs(channels: int, out_channels: int, height: int, width: int) -> None:
    agree(StridedConv2d(channels, out_channels).double(), normal(3, channels, height, width))


@settings(max_examples=60, deadline=None)
@given(CHANNELS, CHANNELS, SIZES, SIZES)
def test_its_transpose_is_torchs_and_gives_the_size_asked_for(
    channels: int, out_channels: int, height: int, width: int
) -> None:
    layer = StridedConvTranspose2d(channels, out_channels, (height, width)).double()
    x = normal(3, channels, (height + 1) // 2, (width + 1) // 2)
    assert layer(x).shape == (3, out_channels, height, width)
    agree(layer, x)


@pytest.mark.parametrize("channels", [2, 5])  # either form of the forward pass
def test_gradients_by_finite_differences(channels: int) -> None:
    convolution = StridedConv2d(channels, 3).double()
    assert torch.autograd.gradcheck(convolution, normal(2, channels, 5, 6).requires_grad_())
    transpose = StridedConvTranspose2d(channels, 3, (5, 6)).double()
    assert torch.autograd.gradcheck(transpose, normal(2, channels, 3, 3).requires_grad_())


@pytest.mark.parametrize("channels", [1, 8])
def test_in_reduced_precision_the_error_is_torchs_own(channels: int) -> None:
    torch.manual_seed(0)
    layer, x = StridedConv2d(channels, 8), normal(4, channels, 12, 12).float()
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = layer(x), nn.Conv2d.forward(layer, x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours - exact).abs().max().item() <= 1.5 * (theirs - exact).abs().max().item() + 1e-6
    ours.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_the_kernels_gradient_is_the_same_where_the_input_needs_none() -> None:
    layer, x = StridedConv2d(5, 3), torch.randn(2, 5, 8, 8, generator=seeded())
    found = [
        torch.autograd.grad(layer(x.requires_grad_(needed)).square().sum(), layer.weight)[0] for needed in (False, True)
    ]
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_an_empty_batch() -> None:
    assert StridedConv2d(5, 3)(torch.zeros(0, 5, 8, 8)).shape == (0, 3, 4, 4)
    assert StridedConvTranspose2d(5, 3, (7, 8))(torch.zeros(0, 5, 4, 4)).shape == (0, 3, 7, 8)


def test_elsewhere_than_on_a_cpu_the_librarys_own_are_used_with_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    x, down, up = torch.randn(3, 5, 9, 14), StridedConv2d(5, 8), StridedConvTranspose2d(8, 5, (9, 14))
    expected = down(x)
    expected_again = up(expected)
    # A compiler takes the same way.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    y = down(x)
    again = up(y)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, expected_again, rtol=1e-4, atol=1e-5)
    for found in (y, again):
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert "Convolution" in type(found.grad_fn).__name__
    with torch.device("meta"):
        assert StridedConv2d(5, 8)(torch.empty(3, 5, 9, 14)).shape == y.shape
