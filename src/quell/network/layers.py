"""What the network is made of: its shape, convolutions down and up, normalisation, activation, recurrence."""

# No `from __future__ import annotations`: TorchScript reads the annotations of these classes.
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from quell.config import NetworkConfig

# The slope on the negative side that each activation starts from; ELU's has the power of 0.54 there, for normal inputs.
SLOPES: Mapping[str, float] = {"leaky_relu": 0.2, "prelu": 0.25, "elu": 0.54}
OUTPUT_LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "linear": nn.Identity,
}


def down_convolution(shape: NetworkConfig, below: int, channels: int, stride: tuple[int, int]) -> nn.Module:
    """m rows to ceil(m / stride) rows; a causal one looks back only.

    Separable (depthwise, then pointwise: Howard et al. 2017, arXiv:1704.04861), except from one channel, where
    nothing is saved.
    """
    kernel = _kernel(shape, stride)
    padding = (kernel[0] // 2, 0 if shape.causal else kernel[1] // 2)
    slope = SLOPES[shape.activation]
    if shape.convolution == "separable" and below > 1:
        depthwise = nn.Conv2d(below, below, kernel, stride, padding, groups=below)
        stages: list[nn.Module] = [he_normal(depthwise, slope), he_normal(nn.Conv2d(below, channels, 1))]
    else:
        stages = [he_normal(nn.Conv2d(below, channels, kernel, stride, padding), slope)]
    if shape.causal:
        stages.insert(0, nn.ZeroPad2d((kernel[1] - 1, 0, 0, 0)))
    return stages[0] if len(stages) == 1 else nn.Sequential(*stages)


def up_convolution(shape: NetworkConfig, channels: int, below: int, stride: tuple[int, int]) -> nn.Module:
    """m rows to at least m * stride rows, of which the first ones are to be kept; the twin of `down_convolution`.

    Separable: pointwise first, where there are fewest rows.
    """
    kernel = _kernel(shape, stride)
    padding = (kernel[0] // 2, 0 if shape.causal else kernel[1] // 2)
    spare = (stride[0] - 1, 0 if shape.causal else stride[1] - 1)
    slope = SLOPES[shape.activation]
    if shape.convolution == "separable" and below > 1:
        spread = nn.ConvTranspose2d(below, below, kernel, stride, padding, spare, groups=below)
        return nn.Sequential(he_normal(nn.Conv2d(channels, below, 1), slope), he_normal(spread))
    return he_normal(nn.ConvTranspose2d(channels, below, kernel, stride, padding, spare), slope)


def _kernel(shape: NetworkConfig, stride: tuple[int, int]) -> tuple[int, int]:
    """At least 3 wide where it takes steps of 2: a kernel of 1 would skip every other row, and the frozen transposed
    one corrupts memory (torch 2.13, CPU, channels last, kernel (1, 5), stride (2, 1))."""
    return max(shape.kernel_bins, 2 * stride[0] - 1), max(shape.kernel_frames, 2 * stride[1] - 1)


def block(shape: NetworkConfig, convolution: nn.Module, channels: int) -> nn.Sequential:
    """A convolution with what follows it."""
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
        # Whole channels: neighbours in one map are too alike for single values to matter (Tompson et al. 2015,
        # arXiv:1411.4280).
        layers.append(nn.Dropout2d(shape.dropout))
    return nn.Sequential(*layers)


def he_normal(convolution: nn.Conv2d | nn.ConvTranspose2d, slope: float = 1.0) -> nn.Module:
    """The convolution with weights of variance 2 / ((1 + slope^2) fan) and biases 0 (He et al. 2015, arXiv:1502.01852).

    Args:
        slope: on the negative side, of the activation in front of it; 1 without one.

    The fan counts the products that add up in one output: a transposed convolution spreads each input over `stride`
    outputs, so that its own is smaller by the strides.
    """
    fan = convolution.in_channels / convolution.groups * math.prod(convolution.kernel_size)
    if isinstance(convolution, nn.ConvTranspose2d):
        fan /= math.prod(convolution.stride)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (1 + slope**2) / fan))
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def silence_beyond_first(convolution: nn.Module) -> None:
    """The planes that a convolution, also a separable one, makes begin at 0, but for the first one."""
    last = convolution[-1] if isinstance(convolution, nn.Sequential) else convolution
    assert isinstance(last, nn.Conv2d | nn.ConvTranspose2d)
    spreads = isinstance(last, nn.ConvTranspose2d) and last.groups == 1  # (in, out, ...), all others (out, in, ...)
    with torch.no_grad():
        (last.weight[:, 1:] if spreads else last.weight[1:]).zero_()


class FrameNorm(nn.Module):
    """Normalises every frame by itself, over channels and bins: nothing over time, so blocks and streams equal one
    pass (layer normalisation, Ba et al. 2016, arXiv:1607.06450, with a scale and an offset for each channel)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, F, N), returned alike."""
        centred = x - x.mean((1, 2), keepdim=True)
        spread = centred.square().mean((1, 2), keepdim=True)
        return centred * torch.rsqrt(spread + 1e-5) * self.weight + self.bias


class Recurrence(nn.Module):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) at the deepest level, added to what it hears.

    In both directions over time it works in windows, about as long as training segments, each from a fresh state, and
    fades from one to the next. Over a whole recording it would drift into states that training never saw: of two
    trainings on 2 s, two minutes in one pass lost 0.4 and 1.4 dB SI-SDR at 0 dB SNR against windows of 2 s
    (benchmarks/long_recordings.py). Of a training on 1 s, windows of 2 s gained 0.07 dB against 1 s, and of 4 s
    another 0.04. Windows also make blocks exact.

    Args:
        over: "frequency" (over the bins of each frame, both ways), "forward" (over time, past to future) or "both"
            (over time, both ways). Over time it hears all channels and bins of a frame at once.
        channels, bins: of the deepest level.
        units: for each direction.
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
            heard = self.back(self.gru(rows)[0])
            return x + heard.reshape(batch, frames, bins, channels).permute(0, 3, 2, 1), state
        if channels * bins != self.size:
            raise ValueError(f"{bins} bins at the deepest level, expected {self.size // channels}")
        steps = x.permute(0, 3, 1, 2).reshape(batch, frames, self.size)
        if self.over == "both":
            heard = self._both(steps)
        else:
            # Context before `context_frames` is not heard again, and its answers are thrown away with the context.
            early = steps[:, :context_frames, :]
            before, state = self._advance(steps[:, context_frames:state_frame, :], state)
            after, _ = self._advance(steps[:, max(context_frames, state_frame) :, :], state)
            heard = torch.cat([torch.zeros_like(early), self.back(torch.cat([before, after], 1))], 1)
        return x + heard.reshape(batch, frames, channels, bins).permute(0, 2, 3, 1), state

    def _advance(self, steps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if steps.shape[1] == 0:
            return torch.zeros(steps.shape[0], 0, state.shape[2], device=steps.device), state
        heard, state = self.gru(steps, state)
        return heard, state

    def _both(self, steps: Tensor) -> Tensor:
        """Half-overlapping windows on a fixed grid, and one at the very end; weights rise and fall in straight lines.

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
        heard = self.back(self.gru(rows)[0]).reshape(batch, -1, self.size)
        weight = (torch.minimum(within, window - 1 - within) + 0.5).repeat(starts.shape[0]).unsqueeze(1)
        total = torch.zeros(frames, 1, device=device).index_add(0, at, weight)
        return torch.zeros_like(steps).index_add(1, at, heard * weight) / total
