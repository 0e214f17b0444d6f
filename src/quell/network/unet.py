"""The network: a U-Net over (bin, frame) planes, from a plain stack of convolutions to a recurrent one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quell.config import NetworkConfig, check
from quell.network.layers import (
    OUTPUT_LAYERS,
    SLOPES,
    Recurrence,
    block,
    down_convolution,
    he_normal,
    silence_beyond_first,
    up_convolution,
)


class UNet(nn.Module):
    """Encoder, optional recurrence, decoder with skips by concatenation.

    "stride": a level's first convolution halves the bins, its output is what the decoder is reminded of. "pool":
    convolutions at full resolution, their output is the skip, and a max-pooling halves it. A level of m rows makes
    ceil(m / 2) and the decoder crops to what it was, so any number of bins and frames is legal.

    Args:
        bins: of the planes. Only a recurrence over time is tied to this number.
        planes: that the network sees, and as many that it answers with: the first goes through the configuration's
            output layer, the others come as they are and are 0 until a training has moved their weights.
        window_frames: that a recurrence in both directions hears at once, at least.

    Raises:
        ValueError: a configuration that cannot be built; the message names the value.
    """

    def __init__(self, config: NetworkConfig, bins: int, window_frames: int = 256, planes: int = 1) -> None:
        super().__init__()
        check(config)
        levels = range(config.depth)
        self.pooled = config.downsampling == "pool"
        channels = [4 * max(1, round(config.base_channels * config.growth**level / 4)) for level in levels]
        strides = [(2, 1 if level == 0 else config.time_stride) for level in levels]
        self.time_factor = config.time_stride ** (config.depth - 1)  # frames that the deepest level sees as one
        self.encoder_reach, self.decoder_reach = _reach(config, [stride[1] for stride in strides])
        self.use_skips = config.skips
        self.encoder = nn.ModuleList(_down(config, level, [planes, *channels], strides[level]) for level in levels)
        self.pools = nn.ModuleList(
            _pool(strides[level], config.causal) if self.pooled else nn.Identity() for level in levels
        )
        self.decoder = nn.ModuleList()
        # What the decoder makes at each resolution, and what it is reminded of there.
        made = channels if self.pooled else [planes, *channels[:-1]]
        remembered = [0] * config.depth if not config.skips else channels if self.pooled else [0, *channels[:-1]]
        coming = channels[-1]
        for level in reversed(levels):
            self.decoder.append(_up(config, level, coming, made[level], strides[level]))
            coming = made[level] + remembered[level]
        for _ in levels:
            bins = -(-bins // 2)
        slope = SLOPES[config.activation]
        self.head = he_normal(nn.Conv2d(coming, planes, 1), slope) if self.pooled else nn.Identity()
        silence_beyond_first(self.head if self.pooled else self.decoder[-1].get_submodule("0"))
        self.bottleneck: Recurrence | None = None
        self.narrow: nn.Module | None = None  # channels that the recurrence hears, and what it says to all of them
        self.widen: nn.Module | None = None
        self.window_frames = 0  # of a recurrence in both directions; 0 without one
        if config.bottleneck != "none":
            units, rows = config.bottleneck_units, max(2, 2 * -(-window_frames // (2 * self.time_factor)))
            few = config.bottleneck_channels or channels[-1]
            if few < channels[-1]:
                self.narrow = he_normal(nn.Conv2d(channels[-1], few, 1))
                self.widen = he_normal(nn.Conv2d(few, channels[-1], 1))
            self.bottleneck = Recurrence(config.bottleneck, min(few, channels[-1]), bins, units, rows)
            self.window_frames = rows * self.time_factor if config.bottleneck == "both" else 0
        self.state_units = config.bottleneck_units if config.bottleneck == "forward" else 0
        self.activation = OUTPUT_LAYERS[config.output]()

    @property
    def context_frames(self) -> int:
        """Frames before or after a frame that its answer depends on, through convolutions."""
        return max(past + more for past, more in zip(self.encoder_reach, self.decoder_reach, strict=True))

    @property
    def look_ahead_frames(self) -> int:
        """Frames after a frame that its answer waits for, through convolutions."""
        return self.encoder_reach[1] + self.decoder_reach[1]

    def forward(self, features: Tensor) -> Tensor:
        """The network's answer for every bin and frame, in one pass.

        Shape:
            features: (B, planes, F, N), returned alike.
        """
        return self.forward_block(features, self.first_state(features), 0, 0)[0]

    def first_state(self, like: Tensor) -> Tensor:
        """State of a recurrence forwards before the first frame of a batch, (1, B, units); of no units without one."""
        return torch.zeros(1, like.shape[0], self.state_units, device=like.device)

    def forward_block(
        self, features: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        """`forward` for a block of a longer signal: a recurrence forwards starts from `state`.

        Args:
            context_frames: leading frames, at the deepest level, that only give context: the recurrence starts after
                them.
            state_frame: the frame of the deepest level, at least `context_frames`, before which the returned state is
                taken.
        """
        x = features
        skips: list[Tensor] = []
        for encode, pool in zip(self.encoder, self.pools, strict=True):
            if not self.pooled:
                skips.append(x)
            x = encode(x)
            if self.pooled:
                skips.append(x)
                x = pool(x)
        if self.bottleneck is not None:
            if self.narrow is not None and self.widen is not None:
                heard, state = self.bottleneck(self.narrow(x), state, context_frames, state_frame)
                x = x + self.widen(heard)
            else:
                x, state = self.bottleneck(x, state, context_frames, state_frame)
        for decode in self.decoder:
            skip = skips.pop()
            x = self._cropped(decode(x), skip.shape[2], skip.shape[3])
            # Without pooling the last skip is the input itself: it gives the size only.
            if self.use_skips and (self.pooled or len(skips) > 0):
                x = torch.cat([x, skip], dim=1)
        answer: Tensor = self.head(x)
        return torch.cat([self.activation(answer[:, :1]), answer[:, 1:]], 1), state

    def _cropped(self, x: Tensor, bins: int, frames: int) -> Tensor:
        if not self.training:
            return x[:, :, :bins, :frames]
        # The gradient of a slice is laid out channels first, and all layers before it would turn it around: a step of
        # training took 1.1 times as long.
        return nn.functional.pad(x, (0, frames - x.shape[3], 0, bins - x.shape[2]))


def _down(config: NetworkConfig, level: int, widths: list[int], stride: tuple[int, int]) -> nn.Sequential:
    below, wide = widths[level], widths[level + 1]
    first = down_convolution(config, below, wide, (1, 1) if config.downsampling == "pool" else stride)
    more = (down_convolution(config, wide, wide, (1, 1)) for _ in range(config.convolutions_per_level - 1))
    return nn.Sequential(*(block(config, convolution, wide) for convolution in (first, *more)))


def _up(config: NetworkConfig, level: int, coming: int, made: int, stride: tuple[int, int]) -> nn.Sequential:
    first = up_convolution(config, coming, made, stride)
    if level == 0 and config.downsampling != "pool":
        return nn.Sequential(first)  # the answer itself
    more = (down_convolution(config, made, made, (1, 1)) for _ in range(config.convolutions_per_level - 1))
    return nn.Sequential(*(block(config, convolution, made) for convolution in (first, *more)))


def _pool(stride: tuple[int, int], causal: bool) -> nn.Module:
    pool = nn.MaxPool2d(stride, stride, ceil_mode=True)
    if not causal:
        return pool
    # Frames 2 n - 1 and 2 n make frame n.
    return nn.Sequential(nn.ZeroPad2d((stride[1] - 1, 0, 0, 0)), pool)


def _reach(config: NetworkConfig, time_strides: list[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Frames (before, after) a frame of the deepest level that it depends on, and likewise for a frame of the answer
    and the deepest level.

    A convolution of k frames looks k // 2 steps to each side, or k - 1 back, in units of the strides so far; its
    transposed twin spreads as far.
    """
    pooled = config.downsampling == "pool"
    encoder, decoder = [0, 0], [0, 0]
    scale = 1
    for level, stride in enumerate(time_strides):
        wide = scale * stride
        more = config.convolutions_per_level - 1
        plain = _steps(config.kernel_frames, config.causal)
        strided = _steps(max(config.kernel_frames, 2 * stride - 1), config.causal)
        again = 0 if level == 0 and not pooled else more  # the last convolution up stands alone
        for side in (0, 1):
            first, others = (plain[side], scale) if pooled else (strided[side], wide)
            encoder[side] += first * scale + more * plain[side] * others
            decoder[side] += (strided[side] + again * plain[side]) * scale
        if pooled:
            encoder[0 if config.causal else 1] += wide - scale
        scale = wide
    return (encoder[0], encoder[1]), (decoder[0], decoder[1])


def _steps(kernel: int, causal: bool) -> tuple[int, int]:
    return (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
