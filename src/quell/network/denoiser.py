"""The denoiser: analysis, network and synthesis in one module, waveform to waveform."""

# No `from __future__ import annotations`: TorchScript reads the annotations of these classes.
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quell.atomic import replacing
from quell.config import DenoiserConfig
from quell.errors import ExportError
from quell.levels import rms
from quell.network.representation import Representation, Target
from quell.network.stft import FLOOR, Spectrogram, magnitude
from quell.network.unet import UNet

# Below this rms a signal is silence; float32 squares of smaller values lose their digits.
SILENCE = 1e-12


# What a recurrence in both directions hears at once: a training segment of the default length in one piece.
RECURRENT_WINDOW_S = 2.0


class Estimate(NamedTuple):
    """What a denoiser makes of a noisy spectrum; (B, F, N) where nothing else is said."""

    output: Tensor  # of the network; representation.Target says what it means
    noisy: Tensor  # magnitude
    features: Tensor  # its representation
    clean: Tensor  # magnitude, estimated
    rotation: (
        Tensor  # (B, 2, F, N): cosine and sine of the angle from the noisy to the estimated phase; without it no rows
    )


class Denoiser(nn.Module):
    """Estimates the clean waveform: magnitudes -> representation -> U-Net -> clean magnitudes, with the noisy phase,
    or with one that the network has turned.

    The signal is divided by its level first and multiplied by it at the end, so the answer to g times an input is g
    times the answer.

    Raises:
        ValueError: a configuration that cannot be built; the message names the value.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        if config.sample_rate < 1000:
            raise ValueError(f"sample_rate: {config.sample_rate}, expected at least 1000 Hz")
        self.config = config
        self.silence = SILENCE  # TorchScript sees no module constants
        self.floor = FLOOR
        self.spectrogram = Spectrogram(config.win_length, config.hop_length)
        self.target = Target(config.target, config.output, Representation(config.representation, config.power))
        window = round(RECURRENT_WINDOW_S * config.sample_rate) + config.win_length
        self.estimates_phase = config.phase == "estimated"
        planes = 3 if self.estimates_phase else 1
        self.network = UNet(config, self.spectrogram.bins, -(-window // config.hop_length), planes)
        # A block of a long signal must start on this grid (samples) for the strided levels and the recurrence's windows
        # to fall on the same frames.
        heard = self.network.window_frames * config.hop_length
        self.grid: int = heard // 2 if heard else config.hop_length * self.network.time_factor
        # So much around a block makes the deepest level exact at its edges (`margin`), and once more of it the answer
        # (`context`); both are multiples of the grid.
        reach = max(*self.network.encoder_reach, *self.network.decoder_reach)
        self.margin: int = self._on_grid(reach * config.hop_length + 2 * config.win_length)
        # A window that hears an inexact frame is inexact all over.
        self.context = 2 * self.margin + heard

    def _on_grid(self, samples: int) -> int:
        return -(-samples // self.grid) * self.grid

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """Clean waveform, in one pass over the signal.

        Args:
            level: (B, 1), the rms to work at; the signal's own when it is not given.

        Shape:
            noisy: (B, T) float32, T >= 1. Returns (B, T). Silence gives silence.
        """
        if level is None:
            level = rms(noisy)
        return self.forward_block(noisy, level, self.network.first_state(noisy), 0, 0)[0]

    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        """`forward` for a block of a longer signal, whose level is given: a recurrence forwards starts from `state`.

        Args: as `UNet.forward_block`.
        """
        scale = level.clamp_min(self.silence)
        spectrum = self.spectrogram(noisy / scale)
        found, state = self.estimate(spectrum, state, context_frames, state_frame)
        clean = clean_spectrum(found, spectrum)
        return self.spectrogram.inverse(clean, noisy.shape[-1]) * scale, state

    def estimate(
        self, spectrum: Tensor, state: Tensor | None = None, context_frames: int = 0, state_frame: int = 0
    ) -> tuple[Estimate, Tensor]:
        """Clean magnitudes of the noisy spectrum (B, F, N) of a signal at rms 1, with what led to them, and a state.

        Args: as `UNet.forward_block`; without a state the signal begins here.
        """
        if state is None:
            state = self.network.first_state(spectrum)
        noisy = magnitude(spectrum, 1.0, self.floor)
        features = self.target.representation(noisy)
        planes = features.unsqueeze(1)
        if self.estimates_phase:
            direction = torch.view_as_real(spectrum).permute(0, 3, 1, 2) / noisy.unsqueeze(1)
            planes = phase_features(features - self.target.representation.bottom, direction)
        answer, state = self.network.forward_block(planes, state, context_frames, state_frame)
        answer = answer.float()  # autocast leaves it in bfloat16
        output = answer[:, 0]
        return Estimate(
            output, noisy, features, self.target(output, noisy, features), phase_rotation(answer[:, 1:])
        ), state


def phase_features(share: Tensor, direction: Tensor) -> Tensor:
    """What a network sees that estimates the phase: the share of the scale, and as much along both axes of the plane.

    Shape:
        share: (B, F, N); direction: cosine and sine of the phase, (B, 2, F, N). Returns (B, 3, F, N).
    """
    return torch.cat([share.unsqueeze(1), share.unsqueeze(1) * direction], 1)


def phase_rotation(answer: Tensor) -> Tensor:
    """Cosine and sine of the angle that a network's answer stands for, none for zeros; shape (B, 2 or 0, F, N).

    The root ends the slope where an answer points nowhere, and costs 0.4 mdB where it says none.
    """
    if answer.shape[1] == 0:
        return answer
    along, across = 1 + answer[:, :1], answer[:, 1:]
    return torch.cat([along, across], 1) * torch.rsqrt(along * along + across * across + 1e-4)


def clean_spectrum(found: Estimate, spectrum: Tensor) -> Tensor:
    """Complex spectrum (B, F, N) of an estimate from the noisy one. A bin without a phase stays silent."""
    share = found.clean / found.noisy
    if found.rotation.shape[1] == 0:
        return spectrum * share
    return spectrum * torch.complex(share * found.rotation[:, 0], share * found.rotation[:, 1])


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
