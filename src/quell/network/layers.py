"""Layers of the network: convolutions down and up, normalisation, activation, recurrence."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from quell.config import NetworkConfig

# Initial slope of each activation for negative inputs; for normal inputs ELU has the power of a slope of 0.54.
SLOPES: Mapping[str, float] = {"leaky_relu": 0.2, "prelu": 0.25, "elu": 0.54}
OUTPUT_LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "linear": nn.Identity,
}


def down_convolution(shape: NetworkConfig, in_channels: int, channels: int, stride: tuple[int, int]) -> nn.Module:
    """A convolution from m rows to ceil(m / stride); a causal one depends on no later frame.

    A separable one (depthwise, then pointwise: Howard et al. 2017, arXiv:1704.04861) is full from one channel, where
    separating saves nothing.
    """
    kernel, padding = _kernel(shape, stride)
    slope = SLOPES[shape.activation]
    if shape.convolution == "separable" and in_channels > 1:
        depthwise = nn.Conv2d(in_channels, in_channels, kernel, stride, padding, groups=in_channels)
        stages: list[nn.Module] = [he_normal(depthwise, slope), he_normal(nn.Conv2d(in_channels, channels, 1))]
    else:
        stages = [he_normal(nn.Conv2d(in_channels, channels, kernel, stride, padding), slope)]
    if shape.causal:
        stages.insert(0, nn.ZeroPad2d((kernel[1] - 1, 0, 0, 0)))
    return stages[0] if len(stages) == 1 else nn.Sequential(*stages)


def up_convolution(shape: NetworkConfig, channels: int, out_channels: int, stride: tuple[int, int]) -> nn.Module:
    """The transposed `down_convolution`, from m rows to at least m * stride, of which the first are used.

    A separable one is pointwise first, where there are fewest rows.
    """
    kernel, padding = _kernel(shape, stride)
    spare = (stride[0] - 1, 0 if shape.causal else stride[1] - 1)
    slope = SLOPES[shape.activation]
    if shape.convolution == "separable" and out_channels > 1:
        depthwise = nn.ConvTranspose2d(out_channels, out_channels, kernel, stride, padding, spare, groups=out_channels)
        return nn.Sequential(he_normal(nn.Conv2d(channels, out_channels, 1), slope), he_normal(depthwise))
    return he_normal(nn.ConvTranspose2d(channels, out_channels, kernel, stride, padding, spare), slope)


def _kernel(shape: NetworkConfig, stride: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel size and padding. At least 3 for a stride of 2: a kernel of 1 would skip every other row, and the frozen
    transposed convolution corrupts memory (torch 2.13, CPU, channels last, kernel (1, 5), stride (2, 1))."""
    bins, frames = max(shape.kernel_bins, 2 * stride[0] - 1), max(shape.kernel_frames, 2 * stride[1] - 1)
    return (bins, frames), (bins // 2, 0 if shape.causal else frames // 2)


def block(shape: NetworkConfig, convolution: nn.Module, channels: int) -> nn.Sequential:
    """A convolution, followed by normalisation, activation and dropout."""
    layers = [convolution]
    if shape.normalisation == "batch":
        layers.append(nn.BatchNorm2d(channels))
    elif shape.normalisation == "frame":
        layers.append(FrameNorm(channels))
    if shape.activation == "prelu":
        layers.append(nn.PReLU(channels, init=SLOPES["prelu"]))
    elif shape.activation == "leaky_relu":
        layers.append(nn.LeakyReLU(SLOPES["leaky_relu"]))
    else:
        layers.append(nn.ELU())
    if shape.dropout > 0:
        # Whole channels: neighbouring values are so correlated that dropping single ones has no effect (Tompson et al.
        # 2015, arXiv:1411.4280).
        layers.append(nn.Dropout2d(shape.dropout))
    return nn.Sequential(*layers)


def he_normal(convolution: nn.Conv2d | nn.ConvTranspose2d, slope: float = 1.0) -> nn.Module:
    """The convolution with weights of variance 2 / ((1 + slope^2) fan) and biases 0 (He et al. 2015, arXiv:1502.01852).

    Args:
        slope: for negative inputs, of the activation before it; 1 without one.

    The fan is the number of products in one output: that of a transposed convolution, which spreads each input over
    `stride` outputs, is smaller by the strides.
    """
    fan = convolution.in_channels / convolution.groups * math.prod(convolution.kernel_size)
    if isinstance(convolution, nn.ConvTranspose2d):
        fan /= math.prod(convolution.stride)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (1 + slope**2) / fan))
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def zero_all_but_first(convolution: nn.Module) -> None:
    """Sets the weights of all output channels but the first to zero, also of a separable convolution."""
    last = convolution[-1] if isinstance(convolution, nn.Sequential) else convolution
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
    inputs_first = isinstance(last, nn.ConvTranspose2d) and last.groups == 1  # (in, out, ...) instead of (out, in, ...)
    with torch.no_grad():
        (last.weight[:, 1:] if inputs_first else last.weight[1:]).zero_()


class FrameNorm(nn.Module):
    """Normalises each frame over channels and bins: nothing over time, so that blocks and streams equal one pass (layer
    normalisation, Ba et al. 2016, arXiv:1607.06450, with a scale and an offset for each channel)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, F, N), returned alike."""
        centred = x - x.mean((1, 2), keepdim=True)
        variance = centred.square().mean((1, 2), keepdim=True)
        return centred * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class Recurrence(nn.Module):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) at the deepest level, added to its input.

    In both directions over time it processes windows, about as long as training segments, each from an initial state of
    zeros, and cross-fades them. Over a whole recording it would drift into states unknown from training: of two
    trainings on 2 s, two minutes in one pass lost 0.4 and 1.4 dB SI-SDR at 0 dB SNR against windows of 2 s
    (benchmarks/long_recordings.py). Of a training on 1 s, windows of 2 s gained 0.07 dB against 1 s, and of 4 s
    another 0.04. Windows also make blocks exact.

    Args:
        over: "frequency" (over the bins of each frame, in both directions), "forward" (over time, past to future) or
            "both" (over time, in both directions). Over time one step is all channels and bins of a frame.
        channels, bins: of the deepest level.
        units: in each direction.
        window: frames of the deepest level, even, for "both".
    """

    def __init__(self, over: str, channels: int, bins: int, units: int, window: int) -> None:
        super().__init__()
        self.over = over
        self.window = window
        self.size = channels if over == "frequency" else channels * bins
        self.gru = nn.GRU(self.size, units, batch_first=True, bidirectional=over != "forward")
        self.back = nn.Linear(units if over == "forward" else 2 * units, self.size)

    def forward(self, x: Tensor, state: Tensor, context_frames: int, state_frame: int) -> tuple[Tensor, Tensor]:
        """Args: as `UNet.forward_block`. Shape: x: (B, C, F, N), returned alike, with the state."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._float32(x, state, context_frames, state_frame)
        return self._without_autocast(x, state, context_frames, state_frame)

    @torch.jit.unused
    def _without_autocast(
        self, x: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        """In training: sums run over hundreds of steps, and autocast would compute cuDNN's recurrences in float16."""
        if not torch.amp.is_autocast_available(x.device.type):  # "meta", on which costs are counted
            return self._float32(x, state, context_frames, state_frame)
        with torch.autocast(x.device.type, enabled=False):
            return self._float32(x, state, context_frames, state_frame)

    def _float32(self, x: Tensor, state: Tensor, context_frames: int, state_frame: int) -> tuple[Tensor, Tensor]:
        batch, channels, bins, frames = x.shape
        x = x.float()  # autocast leaves it in bfloat16
        if self.over == "frequency":
            rows = x.permute(0, 3, 2, 1).reshape(batch * frames, bins, channels)
            output = self.back(self.gru(rows)[0])
            return x + output.reshape(batch, frames, bins, channels).permute(0, 3, 2, 1), state
        if channels * bins != self.size:
            raise ValueError(f"{bins} bins at the deepest level, expected {self.size // channels}")
        steps = x.permute(0, 3, 1, 2).reshape(batch, frames, self.size)
        if self.over == "both":
            output = self._both(steps)
        else:
            # Frames before `context_frames` were steps of the previous block; their output here is cropped later.
            early = steps[:, :context_frames, :]
            before, state = self._run(steps[:, context_frames:state_frame, :], state)
            after, _ = self._run(steps[:, max(context_frames, state_frame) :, :], state)
            output = torch.cat([torch.zeros_like(early), self.back(torch.cat([before, after], 1))], 1)
        return x + output.reshape(batch, frames, channels, bins).permute(0, 2, 3, 1), state

    def _run(self, steps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if steps.shape[1] == 0:
            return torch.zeros(steps.shape[0], 0, state.shape[2], device=steps.device), state
        output, state = self.gru(steps, state)
        return output, state

    def _both(self, steps: Tensor) -> Tensor:
        """Half-overlapping windows on a fixed grid, and one at the end, added with triangular weights.

        Shape: (B, N, size), returned alike.
        """
        batch, frames, window = steps.shape[0], steps.shape[1], self.window
        if frames <= window:
            whole: Tensor = self.back(self.gru(steps)[0])
            return whole
        device = steps.device
        last = torch.full((1,), frames - window, device=device)
        starts = torch.cat([torch.arange(0, frames - window, window // 2, device=device), last])
        within = torch.arange(window, device=device)
        at = (starts.unsqueeze(1) + within).flatten()
        rows = steps[:, at, :].reshape(-1, window, self.size)
        output = self.back(self.gru(rows)[0]).reshape(batch, -1, self.size)
        weight = (torch.minimum(within, window - 1 - within) + 0.5).repeat(starts.shape[0]).unsqueeze(1)
        total = torch.zeros(frames, 1, device=device).index_add(0, at, weight)
        return torch.zeros_like(steps).index_add(1, at, output * weight) / total
