"""The denoiser, waveform to waveform: STFT, network and inverse STFT in one module; its weights saved and loaded."""

import copy
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quell import check_sums
from quell.atomic import replacing
from quell.config import DenoiserConfig
from quell.errors import ExportError
from quell.levels import rms
from quell.network.representation import Representation, Target
from quell.network.stft import Spectrogram, magnitude
from quell.network.unet import UNet

# Below this rms a signal is silence; float32 squares of smaller values lose their digits.
SILENCE = 1e-12
# Window of a recurrence in both directions: a training segment of the default length.
RECURRENT_WINDOW_S = 2.0


class Estimate(NamedTuple):
    """A denoiser's estimate from a noisy spectrum; shapes are (B, F, N) unless noted."""

    output: Tensor  # of the network, as `representation.Target` defines it
    noisy: Tensor  # magnitude
    features: Tensor  # representation of `noisy`
    clean: Tensor  # estimated magnitude
    # Cosine and sine of the angle from the noisy to the estimated phase, (B, 2, F, N); (B, 0, F, N) for phase "noisy".
    rotation: Tensor


class Denoiser(nn.Module):
    """Estimates the clean waveform: magnitudes -> representation -> U-Net -> clean magnitudes, with the noisy phase or
    an estimated one.

    The signal is divided by its level first and multiplied by it at the end: scaling the input scales the output.

    Raises:
        ValueError: a configuration that cannot be built; the message names the value.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        if config.sample_rate < 1000:
            raise ValueError(f"sample_rate: {config.sample_rate}, expected at least 1000 Hz")
        self.config = config
        self.silence = SILENCE  # TorchScript sees no module constants
        self.spectrogram = Spectrogram(config.win_length, config.hop_length)
        self.target = Target(config.target, config.output, Representation(config.representation, config.power))
        window = round(RECURRENT_WINDOW_S * config.sample_rate) + config.win_length
        self.estimates_phase = config.phase == "estimated"
        planes = 3 if self.estimates_phase else 1
        self.network = UNet(config, self.spectrogram.bins, -(-window // config.hop_length), planes)
        # Blocks of a long signal start on this grid (samples): strided levels and the recurrence's windows then fall on
        # the same frames as in one pass.
        window = self.network.window_frames * config.hop_length
        self.grid: int = window // 2 if window else config.hop_length * self.network.time_factor
        # Samples around a block that make the deepest level exact at its edges (`margin`), and the output (`context`);
        # both are multiples of the grid.
        reach = max(*self.network.encoder_reach, *self.network.decoder_reach)
        self.margin: int = -(-(reach * config.hop_length + 2 * config.win_length) // self.grid) * self.grid
        # One inexact frame makes a whole window of a recurrence inexact.
        self.context = 2 * self.margin + window

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """Clean waveform, in one pass over the signal. Silence gives silence.

        Args:
            noisy: (B, T) float32, T >= 1; returned alike.
            level: rms that the signal is divided by, (B, 1); if omitted, its own.
        """
        if level is None:
            level = rms(noisy)
        return self.forward_block(noisy, level, self.network.first_state(noisy), 0, 0)[0]

    def forward_block(
        self, noisy: Tensor, level: Tensor, state: Tensor, context_frames: int, state_frame: int
    ) -> tuple[Tensor, Tensor]:
        """`forward` for a block of a longer signal at that signal's level. Args: as `UNet.forward_block`."""
        scale = level.clamp_min(self.silence)
        spectrum = self.spectrogram(noisy / scale)
        estimate, state = self.estimate(spectrum, state, context_frames, state_frame)
        clean = clean_spectrum(estimate, spectrum)
        return self.spectrogram.inverse(clean, noisy.shape[-1]) * scale, state

    def estimate(
        self, spectrum: Tensor, state: Tensor | None = None, context_frames: int = 0, state_frame: int = 0
    ) -> tuple[Estimate, Tensor]:
        """Estimate from the noisy spectrum (B, F, N) of a signal at rms 1, and the state at `state_frame`.

        Args: as `UNet.forward_block`; without a state the signal begins here.
        """
        if state is None:
            state = self.network.first_state(spectrum)
        noisy = magnitude(spectrum)
        features = self.target.representation(noisy)
        planes = features.unsqueeze(1)
        if self.estimates_phase:
            direction = torch.view_as_real(spectrum).permute(0, 3, 1, 2) / noisy.unsqueeze(1)
            planes = phase_features(features - self.target.representation.bottom, direction)
        answer, state = self.network.forward_block(planes, state, context_frames, state_frame)
        answer = answer.float()  # autocast leaves it in bfloat16
        output = answer[:, 0]
        clean = self.target(output, noisy, features)
        return Estimate(output, noisy, features, clean, phase_rotation(answer[:, 1:])), state


def phase_features(share: Tensor, direction: Tensor) -> Tensor:
    """Input planes (B, 3, F, N) of a network that estimates the phase: features above the bottom of their scale
    (B, F, N), alone and times the cosine and sine of the phase (B, 2, F, N)."""
    return torch.cat([share.unsqueeze(1), share.unsqueeze(1) * direction], 1)


def phase_rotation(answer: Tensor) -> Tensor:
    """Cosine and sine of the angle that the network's further outputs stand for, 0 for zeros; shape (B, 2 or 0, F, N).

    The constant under the root bounds the slope where the vector is short, and costs 0.4 mdB where it is (1, 0).
    """
    if answer.shape[1] == 0:
        return answer
    along, across = 1 + answer[:, :1], answer[:, 1:]
    return torch.cat([along, across], 1) * torch.rsqrt(along * along + across * across + 1e-4)


def clean_spectrum(estimate: Estimate, spectrum: Tensor) -> Tensor:
    """Complex spectrum (B, F, N) of an estimate, from the noisy one. A silent bin, which has no phase, stays silent."""
    gain = estimate.clean / estimate.noisy
    if estimate.rotation.shape[1] == 0:
        return spectrum * gain
    return spectrum * torch.complex(gain * estimate.rotation[:, 0], gain * estimate.rotation[:, 1])


def cpu_copy(denoiser: Denoiser) -> Denoiser:
    """A copy on the CPU, in inference mode."""
    return copy.deepcopy(denoiser).cpu().eval()


def save_weights(denoiser: Denoiser, path: Path) -> None:
    """Writes configuration and weights atomically."""
    write_sealed({"config": asdict(denoiser.config), "weights": denoiser.state_dict()}, path)


def write_sealed(content: dict[str, Any], path: Path) -> None:
    """Writes a dictionary with tensors atomically, as an archive of torch.save with its check sum.

    In memory first: on a full disk torch's own writer raises a RuntimeError without the reason (2.13), and this the
    system's OSError.
    """
    archive = io.BytesIO()
    torch.save(content, archive)
    with replacing(path) as partial:
        partial.write_bytes(archive.getbuffer())
        check_sums.seal(partial)


def load_weights(path: Path) -> Denoiser:
    """The denoiser of a file that `save_weights` wrote, on the CPU, in inference mode.

    Raises ExportError if the file is missing or damaged, or was not written by `save_weights`.
    """
    try:
        check_sums.check(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        denoiser = Denoiser(DenoiserConfig(**stored["config"]))
        denoiser.load_state_dict(stored["weights"])
    except Exception as error:  # torch.load raises any type of error on damaged bytes
        reasons = {FileNotFoundError: "no such file", check_sums.DamagedFileError: "damaged"}
        reason = reasons.get(type(error), type(error).__name__)
        raise ExportError(f"{path}: {reason}, expected the weights of a trial; run the study again") from error
    return denoiser.eval()
