"""Noisy mixtures at chosen SNRs, drawn in whole batches on the device that trains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quell.audio import FloatArray
from quell.colour import OCTAVES, coloured
from quell.corpus import Clip, Split
from quell.denoiser import rms

SECOND_DB = 10.0  # that a second noise is softer at most


class Mixtures(NamedTuple):
    """A training batch: noisy and clean (B, T), and the level (B, 1) that the denoiser shall work at."""

    noisy: Tensor
    clean: Tensor
    level: Tensor


def noise_gain(clean: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Factor for `noise` that puts `clean` snr_db above it, energies over the whole signal.

    A silent clean signal gives 0, and silent noise stays silent.

    Shape:
        clean, noise: (B, T); snr_db: (B, 1), dB. Returns (B, 1).
    """
    return rms(clean) / rms(noise).clamp_min(1e-8) * 10 ** (-snr_db / 20)


def room_response(recorded: FloatArray) -> FloatArray:
    """An impulse response that neither delays nor amplifies: it begins with its peak, the direct sound, and has an
    energy of 1. Shape: (T,), shortened at the beginning."""
    direct = recorded[int(np.abs(recorded).argmax()) :]
    unit: FloatArray = direct / np.sqrt(np.square(direct).sum())
    return unit


class MixtureSampler:
    """Draws random mixtures from a split: no per-item Python, no loader processes, nothing written.

    Clean crops are drawn by duration, so that every second of speech is heard equally often; clips shorter than the
    segment are placed at random in silence. Noise is drawn by category, then by duration, and is repeated when too
    short.

    Args:
        segment: samples per mixture.
        snr_db: (low, high), drawn uniformly, dB.
        level_db: the level given to the denoiser is off the mixture's own by up to this much, dB: in use it is the
            whole recording's, and a passage may lie far above or below it.
        clean: share of the mixtures without noise.
        second_noise: share of the mixtures in which a second noise, up to SECOND_DB softer, sounds with the first.
        colour_db: speech and noise each pass a filter that is drawn anew, up to so much up or down, straight lines
            between octaves. The clean side is coloured, too.
        rooms: share of the mixtures whose speech sounds in a room, 0 to 1, where the split has room responses. The
            clean side sounds in the room, too: what is learnt is to remove noise, not reverberation.
        generator: on `device`; the only source of randomness.
    """

    def __init__(
        self,
        split: Split,
        segment: int,
        snr_db: tuple[float, float],
        generator: torch.Generator,
        level_db: float = 10.0,
        rooms: float = 0.5,
        clean: float = 0.0,
        second_noise: float = 0.0,
        colour_db: float = 0.0,
    ) -> None:
        self.segment = segment
        self.snr_db = snr_db
        self.level_db = level_db
        self.without_noise = clean
        self.second_noise = second_noise
        self.colour_db = colour_db
        self.generator = generator
        self.device = generator.device
        # Copied out of the map: 2 bytes a sample, and a crop never waits for the disk.
        self.samples = torch.from_numpy(split.samples.copy()).to(self.device)
        self.clean = _Pool(split.of("clean"), self.device)
        self.noise = _Pool(split.of("noise"), self.device)
        self.steps = torch.arange(segment, device=self.device)
        self.rooms = rooms
        self.responses = self._responses(split) if rooms > 0 else None

    def draw(self, batch: int) -> Mixtures:
        """A batch of mixtures, float32, (batch, segment)."""
        chosen = self.clean.choose(self._uniform(batch, 1))
        spare = self.clean.length[chosen] - self.segment
        start = torch.minimum(spare, torch.zeros_like(spare))
        start = start + (self._uniform(batch, 1) * (spare.abs() + 1)).long()
        at = start + self.steps
        inside = (at >= 0) & (at < self.clean.length[chosen])
        at = at.clamp_min(0).minimum(self.clean.length[chosen] - 1)
        clean = self.samples[self.clean.offset[chosen] + at].float() / 32768 * inside
        if self.responses is not None:
            clean = self._in_rooms(clean, self.responses)

        noise = self._noises(batch)
        if self.second_noise > 0:
            noise, second = (side / rms(side).clamp_min(1e-8) for side in (noise, self._noises(batch)))
            share = 10 ** (-SECOND_DB / 20 * self._uniform(batch, 1))
            noise = noise + second * share * (self._uniform(batch, 1) < self.second_noise)
        if self.colour_db > 0:
            clean, noise = self._coloured(clean), self._coloured(noise)
        low, high = self.snr_db
        gain = noise_gain(clean, noise, low + (high - low) * self._uniform(batch, 1))
        if self.without_noise > 0:
            gain = gain * (self._uniform(batch, 1) >= self.without_noise)
        noisy = clean + noise * gain
        off_db = self.level_db * (2 * self._uniform(batch, 1) - 1)
        return Mixtures(noisy, clean, rms(noisy) * 10 ** (off_db / 20))

    def _noises(self, batch: int) -> Tensor:
        chosen = self.noise.choose(self._uniform(batch, 1))
        start = (self._uniform(batch, 1) * self.noise.length[chosen]).long()
        at = (start + self.steps) % self.noise.length[chosen]
        drawn: Tensor = self.samples[self.noise.offset[chosen] + at].float() / 32768
        return drawn

    def _coloured(self, waveforms: Tensor) -> Tensor:
        return coloured(waveforms, self.colour_db * (2 * self._uniform(len(waveforms), OCTAVES) - 1))

    def _responses(self, split: Split) -> Tensor | None:
        """Spectra of the room responses at the length that a segment in a room takes; None when there are none."""
        waveforms = [torch.from_numpy(room_response(split.waveform(clip))) for clip in split.of("room")]
        if not waveforms:
            return None
        longest = min(max(len(waveform) for waveform in waveforms), self.segment)
        cut = [functional.pad(waveform[:longest], (0, max(0, longest - len(waveform)))) for waveform in waveforms]
        whole = -(-(self.segment + longest) // 1024) * 1024  # room for the tail, and a size that transforms fast
        spectra: Tensor = torch.fft.rfft(torch.stack(cut).to(self.device), n=whole)
        return spectra

    def _in_rooms(self, clean: Tensor, responses: Tensor) -> Tensor:
        size = 2 * (responses.shape[-1] - 1)
        chosen = (self._uniform(len(clean)) * len(responses)).long()
        heard = torch.fft.irfft(torch.fft.rfft(clean, n=size) * responses[chosen], n=size)[:, : self.segment]
        return torch.where(self._uniform(len(clean), 1) < self.rooms, heard, clean)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)


class _Pool:
    """Clips to draw from: each category equally often, within it by duration. Clean speech is one category."""

    def __init__(self, clips: list[Clip], device: torch.device) -> None:
        self.offset = torch.tensor([clip.offset for clip in clips], device=device)
        self.length = torch.tensor([clip.length for clip in clips], device=device)
        totals: dict[str, int] = {}
        for clip in clips:
            totals[clip.category] = totals.get(clip.category, 0) + clip.length
        share = torch.tensor([clip.length / totals[clip.category] / len(totals) for clip in clips], dtype=torch.float64)
        self.upto = share.cumsum(0).float().to(device)

    def choose(self, uniform: Tensor) -> Tensor:
        """Indices of clips, shape of `uniform`, whose values lie in [0, 1)."""
        return torch.searchsorted(self.upto, uniform, right=True).clamp_max(len(self.upto) - 1)
