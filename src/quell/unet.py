"""The network: a U-Net over (bin, frame) planes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Encoder of strided convolutions, decoder of transposed ones, skips by concatenation; output in [0, 1].

    Each level halves the bins; from the second level on it also divides the frames by `time_stride`. A level of m rows
    makes ceil(m / 2), and the decoder crops to the size of the skip, so any number of bins and frames is legal.

    Args:
        depth: number of levels, 2 to 7.
        base_channels: channels of the first level.
        growth: channels of a level over those of the one before, rounded to a multiple of 4.
        kernel: (bins, frames), both odd.
        time_stride: 1 or 2.
        dropout: share of channels dropped after each activation while training, 0 to 1 (whole channels: neighbours in
            one map are too alike for single values to matter, Tompson et al. 2015, arXiv:1411.4280).

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        depth: int,
        base_channels: int,
        growth: float,
        kernel: tuple[int, int],
        time_stride: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if not 2 <= depth <= 7:
            raise ValueError(f"depth: {depth}, expected 2 to 7 levels")
        if time_stride not in (1, 2):
            raise ValueError(f"time_stride: {time_stride}, expected 1 or 2")
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"kernel: {kernel}, expected odd numbers of bins and frames")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: {dropout}, expected 0 to 1")
        channels = [4 * max(1, round(base_channels * growth**level / 4)) for level in range(depth)]
        strides = [(2, 1 if level == 0 else time_stride) for level in range(depth)]
        self.time_factor = time_stride ** (depth - 1)  # frames that the deepest level sees as one
        self.context_frames = _context(kernel[1], [stride[1] for stride in strides])
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in range(depth):
            below = 1 if level == 0 else channels[level - 1]
            down = nn.Conv2d(below, channels[level], kernel, strides[level], _half(kernel))
            self.encoder.append(_block(down, channels[level], dropout))
        for level in reversed(range(depth)):
            wide = channels[level] if level == depth - 1 else 2 * channels[level]
            below = 1 if level == 0 else channels[level - 1]
            spare = (strides[level][0] - 1, strides[level][1] - 1)
            up = nn.ConvTranspose2d(wide, below, kernel, strides[level], _half(kernel), spare)
            self.decoder.append(_block(up, below, dropout) if level else up)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=0.25)  # 0.25: the slope that PReLU starts from
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Mask of a plane of features.

        Shape:
            features: (B, F, N). Returns (B, F, N), values in [0, 1].
        """
        x = features.unsqueeze(1)
        skips = [x]
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = skips.pop()
        for decode in self.decoder:
            skip = skips.pop()
            x = decode(x)[:, :, : skip.shape[2], : skip.shape[3]]
            if len(skips) > 0:  # the last skip is the input: it gives the size only
                x = torch.cat([x, skip], dim=1)
        return torch.sigmoid(x).squeeze(1)


def _half(kernel: tuple[int, int]) -> tuple[int, int]:
    return kernel[0] // 2, kernel[1] // 2


def _block(convolution: nn.Module, channels: int, dropout: float) -> nn.Sequential:
    layers = [convolution, nn.BatchNorm2d(channels), nn.PReLU(channels)]
    if dropout > 0:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers)


def _context(kernel_frames: int, time_strides: list[int]) -> int:
    """Frames before and after a frame that its output depends on.

    A convolution of k frames looks k // 2 steps to each side, in units of the stride so far, and its transposed twin in
    the decoder spreads what it gets as far again.
    """
    context = 0
    scale = 1
    for stride in time_strides:
        context += 2 * (kernel_frames // 2) * scale
        scale *= stride
    return context
