"""The denoiser as one graph without loops or conditions, for ONNX and torch.export.

Transforms are convolutions: ONNX Runtime's own DFT is slow and inexact for lengths that are not a power of two, and no
runtime supports complex numbers. A recurrence is ONNX's GRU. All lengths and batches use the same nodes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quell.errors import ExportError
from quell.export.subpixel_convolution import faster_in_onnxruntime, use_subpixel
from quell.levels import rms
from quell.network.denoiser import SILENCE, Denoiser, cpu_copy, phase_features, phase_rotation
from quell.network.layers import Recurrence
from quell.network.stft import FLOOR, Spectrogram
from quell.network.torch_private import sizes_of_one_stay_dynamic

# Added to the update gate to keep a state: the gate's sigmoid is then 1 to the last digit of float32.
HOLD = 1e4


class Graph(nn.Module):
    """A copy of a denoiser for inference, made of operations that `torch.export` and ONNX support.

    With `onnx` a recurrence becomes an ONNX node, which only `torch.onnx.export` supports.
    """

    def __init__(self, denoiser: Denoiser, *, onnx: bool) -> None:
        super().__init__()
        denoiser = cpu_copy(denoiser)
        self.transforms = Transforms(denoiser.spectrogram)
        self.network, self.target = denoiser.network, denoiser.target
        use_subpixel(self.network, faster_in_onnxruntime)
        self.estimates_phase = denoiser.estimates_phase
        for pool in self.network.pools:
            if isinstance(pool, nn.Sequential):
                pad = pool[0]
                assert isinstance(pad, nn.ZeroPad2d)
                pool[0] = ZerosBefore(pad.padding[0])
        self.state_units = self.network.state_units
        if onnx and self.network.bottleneck is not None:
            self.network.bottleneck = OnnxRecurrence(self.network.bottleneck)  # type: ignore[assignment]

    def forward(
        self,
        noisy: Tensor,
        level: Tensor | None = None,
        state: Tensor | None = None,
        lead: Tensor | int = 0,
        mark: Tensor | int = 0,
    ) -> tuple[Tensor, ...]:
        """Clean waveform, and the next state of a recurrence forwards if there is one.

        Shape:
            noisy: (B, T), T >= 1. level: (1, 1), rms that signals are divided by; 0 for the own rms of each. state:
            (1, 1, units); lead, mark: `context_frames` and `state_frame` of `UNet.forward_block`. Returns (B, T) and
            (1, B, units).
        """
        own = rms(noisy)
        scale = (own if level is None else torch.where(level > 0, level, own)).clamp_min(SILENCE)
        real, imaginary = self.transforms(noisy / scale)
        # As quell.network.stft.magnitude; exporters remove an addend of 1e-10.
        magnitude = FLOOR * ((real.square() + imaginary.square()) * FLOOR**-2 + 1).sqrt()
        features = self.target.representation(magnitude)
        if state is None:
            state = torch.zeros(1, 1, self.state_units)
        state = state.expand(1, noisy.shape[0], self.state_units)
        planes = features.unsqueeze(1)
        if self.estimates_phase:
            direction = torch.stack([real, imaginary], 1) / magnitude.unsqueeze(1)
            planes = phase_features(features - self.target.representation.bottom, direction)
        output, state = self.network.forward_block(planes, state, lead, mark)  # type: ignore[arg-type]
        gain = self.target(output[:, 0], magnitude, features) / magnitude
        real, imaginary = real * gain, imaginary * gain
        if self.estimates_phase:
            cosine, sine = phase_rotation(output[:, 1:]).unbind(1)
            real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        clean = self.transforms.inverse(real, imaginary, noisy.shape[-1]) * scale
        return (clean, state) if self.state_units else (clean,)


class Transforms(nn.Module):
    """`Spectrogram` as convolutions, with separate real and imaginary parts."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, spectrogram: Spectrogram) -> None:
        super().__init__()
        self.win_length, self.hop_length, self.bins = spectrogram.win_length, spectrogram.hop_length, spectrogram.bins
        spectra = torch.fft.rfft(torch.diag(spectrogram.analysis.double()))  # of each single sample of a window
        bins = torch.eye(self.bins, dtype=torch.complex128)
        frames = torch.fft.irfft(torch.cat([bins, 1j * bins]), n=self.win_length) * spectrogram.dual.double()
        self.register_buffer("analysis", torch.cat([spectra.real, spectra.imag], 1).T.unsqueeze(1).float().contiguous())
        self.register_buffer("synthesis", frames.unsqueeze(1).float().contiguous())

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: (B, T). Returns real and imaginary parts, (B, F, N) each, as `Spectrogram`."""
        lead = self.win_length - self.hop_length
        frames = (waveform.shape[-1] - 1 + lead) // self.hop_length + 1
        padded = nn.functional.pad(waveform, (lead, self.win_length)).unsqueeze(1)
        both = nn.functional.conv1d(padded, self.analysis, stride=self.hop_length)[:, :, :frames]
        return both[:, : self.bins], both[:, self.bins :]

    def inverse(self, real: Tensor, imaginary: Tensor, length: int) -> Tensor:
        """Shape: (B, F, N) each. Returns (B, length)."""
        frames = torch.cat([real, imaginary], 1)
        summed = nn.functional.conv_transpose1d(frames, self.synthesis, stride=self.hop_length)
        lead = self.win_length - self.hop_length
        return summed[:, 0, lead : lead + length]


class ZerosBefore(nn.Module):
    """Adds frames of zeros before the first. ONNX Runtime (1.31) would fuse a padding with the max-pooling after it,
    which ignores padded values instead of taking them for 0."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, F, N). Returns (B, C, F, frames + N)."""
        if self.frames == 0:
            return x
        return torch.cat([torch.zeros(x.shape[0], x.shape[1], x.shape[2], self.frames), x], -1)


class OnnxRecurrence(nn.Module):
    """`Recurrence` with ONNX's GRU, which has another order of gates, and time as the first axis.

    A recurrence forwards ignores the first `lead` frames: there an additional input is 1, which keeps the state. Its
    outputs are its states, from which the one before `mark` is selected.
    """

    weights: Tensor
    recurrent: Tensor
    biases: Tensor

    def __init__(self, recurrence: Recurrence) -> None:
        super().__init__()
        self.over, self.window = recurrence.over, recurrence.window
        self.size, self.back = recurrence.size, recurrence.back
        parameters = dict(recurrence.gru.named_parameters())
        self.units = recurrence.gru.hidden_size
        ways = ["", "_reverse"] if recurrence.gru.bidirectional else [""]

        def gates(name: str) -> list[Tensor]:
            """ONNX begins with the update gate, torch with the reset gate."""
            parts = [parameters[f"{name}_l0{way}"].detach().chunk(3) for way in ways]
            return [torch.cat([update, reset, new]) for reset, update, new in parts]

        weights = gates("weight_ih")
        if self.over == "forward":
            hold = torch.cat([torch.full((self.units, 1), HOLD), torch.zeros(2 * self.units, 1)])
            weights = [torch.cat([weights[0], hold], 1)]
        biases = [torch.cat(pair) for pair in zip(gates("bias_ih"), gates("bias_hh"), strict=True)]
        self.register_buffer("weights", torch.stack(weights))
        self.register_buffer("recurrent", torch.stack(gates("weight_hh")))
        self.register_buffer("biases", torch.stack(biases))

    def forward(self, x: Tensor, state: Tensor, lead: Tensor, mark: Tensor) -> tuple[Tensor, Tensor]:
        """Args and shapes as `Recurrence`."""
        batch, channels, bins, frames = x.shape
        if self.over == "frequency":
            rows = x.permute(2, 0, 3, 1).reshape(bins, batch * frames, channels)
            output = self.back(self._gru(rows, None))
            return x + output.reshape(bins, batch, frames, channels).permute(1, 3, 0, 2), state
        steps = x.permute(3, 0, 1, 2).reshape(frames, batch, self.size)
        if self.over == "both":
            output = self._both(steps)
        else:
            hold = (torch.arange(frames) < lead).float().reshape(-1, 1, 1).expand(-1, batch, 1)
            states = self._gru(torch.cat([steps, hold], -1), state)
            output = self.back(states)
            # The last block may end before `mark`: its state is not used.
            state = torch.cat([state, states]).index_select(0, mark.clamp(0, frames).reshape(1))
        return x + output.reshape(frames, batch, channels, bins).permute(1, 2, 3, 0), state

    def _gru(self, rows: Tensor, state: Tensor | None) -> Tensor:
        """Shape: rows: (N, B, size), state: (1, B, units). Returns (N, B, ways * units)."""
        ways, frames, batch = self.weights.shape[0], rows.shape[0], rows.shape[1]
        begin = () if state is None else (None, state)
        output: Tensor = torch.onnx.ops.symbolic(
            "GRU",
            (rows, self.weights, self.recurrent, self.biases, *begin),
            attrs={
                "hidden_size": self.units,
                "linear_before_reset": 1,
                "direction": "bidirectional" if ways == 2 else "forward",
            },
            dtype=torch.float32,
            shape=(frames, ways, batch, self.units),
        )
        return output.transpose(1, 2).reshape(frames, -1, ways * self.units)

    def _both(self, steps: Tensor) -> Tensor:
        """The windows of `Recurrence._both`. Each frame sums the outputs of the windows around it: at most two of the
        grid, and the one at the end. Shape: (N, B, size), returned alike."""
        frames, batch = steps.shape[0], steps.shape[1]
        window, half = torch.sym_min(frames, self.window), self.window // 2
        # Windows of the grid that would pass the end are moved to it, as the last one is: a number of windows from the
        # quotient of a negative number would be rounded differently by ONNX.
        starts = torch.arange(0, frames, half).clamp_max(frames - window)
        within = torch.arange(window)
        rows = steps.index_select(0, (within.unsqueeze(1) + starts).flatten())
        outputs = self.back(self._gru(rows.reshape(window, -1, self.size), None)).reshape(-1, batch, self.size)
        weight = torch.minimum(within, window - 1 - within) + 0.5
        at, number = torch.arange(frames), starts.shape[0]
        grid = at // half
        summed, total = torch.zeros_like(steps), torch.zeros(frames, 1, 1)
        for index, exists in (
            (grid, grid * half < frames - window),
            (grid - 1, (grid > 0) & ((grid - 1) * half < frames - window)),
            (torch.zeros_like(at) + (number - 1), at >= 0),
        ):
            index = index.clamp(0, number - 1)
            place = at - starts.index_select(0, index)
            inside = exists & (place >= 0) & (place < window)
            place = place.clamp(0, window - 1)
            share = torch.where(inside, weight.index_select(0, place), torch.zeros(())).reshape(-1, 1, 1)
            summed = summed + share * outputs.index_select(0, place * number + index)
            total = total + share
        return summed / total


def program(denoiser: Denoiser, *, onnx: bool) -> torch.export.ExportedProgram:
    """The denoiser as a program of `torch.export`, for every batch and length; with `onnx` for `torch.onnx.export`.

    Raises ExportError for a recurrence without `onnx`: torch.export would unroll its steps for one length.
    """
    over = denoiser.config.bottleneck
    if not onnx and over != "none":
        raise ExportError(f"bottleneck: {over!r}, expected 'none' for torch.export; export to torchscript or onnx")
    graph = Graph(denoiser, onnx=onnx).eval()
    noisy = torch.zeros(2, 4 * denoiser.config.win_length)
    optional = [*defaults(graph.state_units).values()] if onnx else []
    any_shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with sizes_of_one_stay_dynamic(), _quiet():
        return torch.export.export(graph, (noisy, *optional), dynamic_shapes=(any_shape, *[None] * len(optional)))


def defaults(state_units: int) -> dict[str, Tensor]:
    """Default values of an ONNX file's inputs other than the waveform: a whole signal at its own level.

    The names are part of the format of exported files.
    """
    values = {"level": torch.zeros(1, 1)}
    if state_units:
        values |= {"state": torch.zeros(1, 1, state_units), "lead": torch.tensor(0), "mark": torch.tensor(0)}
    return values


def onnx_bytes(denoiser: Denoiser, metadata: dict[str, str]) -> bytes:
    """Content of an ONNX file of the denoiser: input `noisy`, optional inputs (`defaults`), output `clean`."""
    from onnx import numpy_helper

    exported = program(denoiser, onnx=True)
    optional = defaults(denoiser.network.state_units)
    outputs = ["clean", "next_state"] if denoiser.network.state_units else ["clean"]
    with _quiet():
        converted = torch.onnx.export(
            exported, dynamo=True, input_names=["noisy", *optional], output_names=outputs, verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    for name, value in optional.items():  # an initializer with the name of an input is its default
        model.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides torch's warnings about its own exporters."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
