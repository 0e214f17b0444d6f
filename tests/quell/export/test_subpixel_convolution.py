"""A sub-pixel convolution equals the transposed one, and replaces it where that is faster."""

import itertools

import pytest
import torch
from torch import nn

from quell.export.subpixel_convolution import (
    SubpixelConvolution,
    faster_in_onnxruntime,
    faster_in_torchscript,
    use_subpixel,
)

KERNELS = [1, 3, 5, 7]


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_subpixel_convolution_gives_the_first_rows_of_the_transposed_one(
    groups: int, stride: tuple[int, int], causal: bool
) -> None:
    for kernel in itertools.product(KERNELS, KERNELS):
        if kernel[0] < 2 * stride[0] - 1 or kernel[1] < 2 * stride[1] - 1:
            continue
        padding = (kernel[0] // 2, 0 if causal else kernel[1] // 2)
        spare = (stride[0] - 1, 0 if causal else stride[1] - 1)
        up = nn.ConvTranspose2d(4, 4, kernel, stride, padding, spare, groups=groups).double()
        assert up.bias is not None
        nn.init.normal_(up.bias)
        for bins, frames in ((1, 1), (7, 1), (5, 6)):
            x = torch.randn(2, 4, bins, frames, dtype=torch.float64)
            expected = up(x)[:, :, : bins * stride[0], : frames * stride[1]]
            torch.testing.assert_close(SubpixelConvolution(up)(x), expected, rtol=1e-12, atol=1e-12)


def test_transposed_convolutions_stay_where_subpixel_ones_would_be_slower() -> None:
    wide = nn.ConvTranspose2d(2, 2, 5, 2, 2, 1)
    module = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, 2, 1, 1), nn.Sequential(wide))
    use_subpixel(module, faster_in_torchscript)
    assert isinstance(module[0], nn.ConvTranspose2d)
    assert isinstance(module[1][0], SubpixelConvolution)
    module = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, groups=2), nn.ConvTranspose2d(2, 1, 3), wide)
    use_subpixel(module, faster_in_onnxruntime)
    assert [isinstance(up, SubpixelConvolution) for up in module] == [False, False, True]
