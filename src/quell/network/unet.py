"""The network: a U-Net over (bin, frame) planes with an optional recurrence at its deepest level."""

import torch
from torch import Tensor, nn

from quell.config import NetworkConfig, check
from quell.network import layers


class UNet(nn.Module):
    """Encoder, optional recurrence, decoder with skips by concatenation.

    Downsampling "stride": the first convolution of a level halves the bins, and the level's output is the skip
    connection. "pool": the convolutions keep the resolution, their output is the skip connection, and a max-pooling
    halves it. A level turns m rows into ceil(m / 2), and the decoder crops to m, so any number of bins and frames is
    legal.

    Args:
        bins: of the planes; only a recurrence over time depends on this number.
        planes: input and output channels. The first output passes the output activation, the others are linear and
            start at zero.
        window_frames: least length of the windows of a recurrence in both directions.

    Errors as of `quell.config.check`.
    """

    def __init__(self, config: NetworkConfig, bins: int, window_frames: int = 256, planes: int = 1) -> None:
        super().__init__()
        check(config)
        levels = range(config.depth)
        self.pooled = config.downsampling == "pool"
        channels = [4 * max(1, round(config.base_channels * config.growth**level / 4)) for level in levels]
        strides = [(2, 1 if level == 0 else config.time_stride) for level in levels]
        self.time_factor = config.time_stride ** (config.depth - 1)  # frames for each one of the deepest level
        self.encoder_reach, self.decoder_reach = _reach(config, [stride[1] for stride in strides])
        self.use_skips = config.skips
        widths = [planes, *channels]
        self.encoder = nn.ModuleList(
            _down(config, widths[level], widths[level + 1], strides[level]) for level in levels
        )
        self.pools = nn.ModuleList(_pool(stride, config.causal) if self.pooled else nn.Identity() for stride in strides)
        self.decoder = nn.ModuleList()
        # Channels of the decoder's output at each level, and of the skip connection there.
        out_channels = channels if self.pooled else [planes, *channels[:-1]]
        skip_channels = [0] * config.depth if not config.skips else channels if self.pooled else [0, *channels[:-1]]
        in_channels = channels[-1]
        for level in reversed(levels):
            self.decoder.append(_up(config, level, in_channels, out_channels[level], strides[level]))
            in_channels = out_channels[level] + skip_channels[level]
        bins = -(-bins // 2**config.depth)
        slope = layers.SLOPES[config.activation]
        self.head = layers.he_normal(nn.Conv2d(in_channels, planes, 1), slope) if self.pooled else nn.Identity()
        layers.zero_all_but_first(self.head if self.pooled else self.decoder[-1].get_submodule("0"))
        self.bottleneck: layers.Recurrence | None = None
        self.narrow: nn.Module | None = None  # from all channels to those of the recurrence, and back
        self.widen: nn.Module | None = None
        self.window_frames = 0  # of a recurrence in both directions; 0 without one
        if config.bottleneck != "none":
            rows = max(2, 2 * -(-window_frames // (2 * self.time_factor)))
            width = min(config.bottleneck_channels or channels[-1], channels[-1])
            if width < channels[-1]:
                self.narrow = layers.he_normal(nn.Conv2d(channels[-1], width, 1))
                self.widen = layers.he_normal(nn.Conv2d(width, channels[-1], 1))
            self.bottleneck = layers.Recurrence(config.bottleneck, width, bins, config.bottleneck_units, rows)
            self.window_frames = rows * self.time_factor if config.bottleneck == "both" else 0
        self.state_units = config.bottleneck_units if config.bottleneck == "forward" else 0
        self.activation = layers.OUTPUT_LAYERS[config.output]()

    @property
    def look_ahead_frames(self) -> int:
        """Frames after a frame on which the output depends through convolutions."""
        return self.encoder_reach[1] + self.decoder_reach[1]

    def forward(self, features: Tensor) -> Tensor:
        """Output for a whole signal. Shape: (B, planes, F, N), returned alike."""
        return self.forward_block(features, self.first_state(features), 0, 0)[0]

    def first_state(self, like: Tensor) -> Tensor:
        """State of a recurrence forwards before the first frame, (1, B, units); units is 0 without one."""
        return torch.zeros(1, like.shape[0], self.state_units, device=like.device)

    def forward_block(
        self, features: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        """`forward` for a block of a longer signal: a recurrence forwards starts from `state`.

        Args:
            context_frames: leading frames, at the deepest level, that only give context; the recurrence starts after
                them.
            state_frame: frame of the deepest level, at least `context_frames`, before which the returned state is.
        """
        x = features
        skips: list[Tensor] = []
        for encode, pool in zip(self.encoder, self.pools, strict=True):
            before = x
            x = encode(x)
            skips.append(x if self.pooled else before)
            x = pool(x)
        if self.bottleneck is not None:
            if self.narrow is not None and self.widen is not None:
                narrow, state = self.bottleneck(self.narrow(x), state, context_frames, state_frame)
                x = x + self.widen(narrow)
            else:
                x, state = self.bottleneck(x, state, context_frames, state_frame)
        for decode in self.decoder:
            skip = skips.pop()
            x = self._cropped(decode(x), skip.shape[2], skip.shape[3])
            # Without pooling the last skip is the input itself: it gives the size only.
            if self.use_skips and (self.pooled or len(skips) > 0):
                x = torch.cat([x, skip], dim=1)
        output: Tensor = self.head(x)
        return torch.cat([self.activation(output[:, :1]), output[:, 1:]], 1), state

    def _cropped(self, x: Tensor, bins: int, frames: int) -> Tensor:
        if not self.training:
            return x[:, :, :bins, :frames]
        # The gradient of a slice is laid out channels first, and every layer before would rearrange it: a training step
        # took 1.1 times as long.
        return nn.functional.pad(x, (0, frames - x.shape[3], 0, bins - x.shape[2]))


def _down(config: NetworkConfig, in_channels: int, channels: int, stride: tuple[int, int]) -> nn.Sequential:
    first = layers.down_convolution(config, in_channels, channels, (1, 1) if config.downsampling == "pool" else stride)
    return _blocks(config, first, channels)


def _up(config: NetworkConfig, level: int, in_channels: int, channels: int, stride: tuple[int, int]) -> nn.Sequential:
    first = layers.up_convolution(config, in_channels, channels, stride)
    if level == 0 and config.downsampling != "pool":
        return nn.Sequential(first)  # its output is the network's
    return _blocks(config, first, channels)


def _blocks(config: NetworkConfig, first: nn.Module, channels: int) -> nn.Sequential:
    repeats = range(config.convolutions_per_level - 1)
    more = (layers.down_convolution(config, channels, channels, (1, 1)) for _ in repeats)
    return nn.Sequential(*(layers.block(config, convolution, channels) for convolution in (first, *more)))


def _pool(stride: tuple[int, int], causal: bool) -> nn.Module:
    pool = nn.MaxPool2d(stride, stride, ceil_mode=True)
    if not causal:
        return pool
    # Frames 2 n - 1 and 2 n give frame n.
    return nn.Sequential(nn.ZeroPad2d((stride[1] - 1, 0, 0, 0)), pool)


def _reach(config: NetworkConfig, time_strides: list[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Frames (before, after) on which a frame of the deepest level depends, and a frame of the output on that level.

    A convolution of k frames reaches k // 2 steps to each side, or k - 1 back, in units of the strides so far; a
    transposed one spreads as far.
    """
    pooled = config.downsampling == "pool"
    encoder, decoder = [0, 0], [0, 0]
    scale = 1
    for level, stride in enumerate(time_strides):
        wide = scale * stride
        more = config.convolutions_per_level - 1
        plain = _steps(config.kernel_frames, config.causal)
        strided = _steps(max(config.kernel_frames, 2 * stride - 1), config.causal)
        again = 0 if level == 0 and not pooled else more  # the last convolution up has none after it
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
