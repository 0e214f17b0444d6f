"""The denoiser: analysis, network and synthesis in one module, waveform to waveform."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quell.atomic import replacing
from quell.errors import ExportError
from quell.spectrogram import Spectrogram, magnitude
from quell.unet import UNet

# Below this rms a signal is silence; float32 squares of smaller values lose their digits.
SILENCE = 1e-12


@dataclass(frozen=True)
class DenoiserConfig:
    """Everything that fixes a denoiser's shape. The defaults are the preset `compressed-unet` at 16 kHz."""

    sample_rate: int = 16_000  # Hz
    win_length: int = 512  # samples
    hop_length: int = 128  # samples
    power: float = 0.3  # exponent of the magnitudes that the network sees, over 0 up to 1
    depth: int = 5
    base_channels: int = 16
    growth: float = 1.41
    kernel_bins: int = 5
    kernel_frames: int = 3
    time_stride: int = 2
    dropout: float = 0.0


class Denoiser(nn.Module):
    """Estimates the clean waveform: |X| ** power -> U-Net -> mask on the noisy spectrum, whose phase is kept.

    The signal is divided by its level first and multiplied by it at the end, so the answer to g times an input is g
    times the answer.

    Raises:
        ValueError: a configuration that cannot be built; the message names the value.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        if config.sample_rate < 1000:
            raise ValueError(f"sample_rate: {config.sample_rate}, expected at least 1000 Hz")
        if not 0 < config.power <= 1:
            raise ValueError(f"power: {config.power}, expected above 0 up to 1")
        self.config = config
        self.power = config.power
        self.silence = SILENCE  # TorchScript sees no module constants
        self.spectrogram = Spectrogram(config.win_length, config.hop_length)
        self.network = UNet(
            config.depth,
            config.base_channels,
            config.growth,
            (config.kernel_bins, config.kernel_frames),
            config.time_stride,
            config.dropout,
        )
        # A block of a long signal must start on this grid (samples) for the strided levels to fall on the same frames,
        # and needs this much of its neighbours on each side (a multiple of the grid) to equal one pass.
        self.grid = config.hop_length * self.network.time_factor
        reach = self.network.context_frames * config.hop_length + 2 * config.win_length
        self.context = -(-reach // self.grid) * self.grid

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """Clean waveform, in one pass over the signal.

        Args:
            level: (B, 1), the rms to work at; the signal's own when it is not given. A block of a longer signal is
            given
                the level of the whole.

        Shape:
            noisy: (B, T) float32, T >= 1. Returns (B, T). Silence gives silence.
        """
        if level is None:
            level = rms(noisy)
        scale = level.clamp_min(self.silence)
        return self.spectrogram.inverse(self.denoise_spectrum(self.spectrogram(noisy / scale)), noisy.shape[-1]) * scale

    def denoise_spectrum(self, noisy: Tensor) -> Tensor:
        """Clean spectrum (B, F, N) of the noisy spectrum of a signal at rms 1."""
        mask: Tensor = self.network(magnitude(noisy, self.power))
        return mask * noisy


def rms(waveform: Tensor) -> Tensor:
    """Root mean square over the last axis, which is kept with size 1."""
    return waveform.square().mean(-1, keepdim=True).sqrt()


def save_weights(denoiser: Denoiser, path: Path) -> None:
    """Configuration and weights; the final name appears only when the file is whole."""
    with replacing(path) as partial:
        torch.save({"config": asdict(denoiser.config), "weights": denoiser.state_dict()}, partial)


def load_weights(path: Path) -> Denoiser:
    """The denoiser that `save_weights` stored, on the CPU, ready to run.

    Raises:
        ExportError: the file is missing or is not one of ours.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        denoiser = Denoiser(DenoiserConfig(**stored["config"]))
        denoiser.load_state_dict(stored["weights"])
    except Exception as error:  # torch.load raises whatever the bytes make it raise
        reason = "no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
        raise ExportError(f"{path}: {reason}, expected the weights of a trial; run the study again") from error
    return denoiser.eval()
