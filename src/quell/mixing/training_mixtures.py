"""Noisy mixtures at chosen SNRs, drawn in whole batches on the device that trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from quell.config import MixingConfig, TrainingConfig, weights_objection
from quell.corpus.memory_map import Clip, Corpus, Split
from quell.levels import noise_gain, rms, speech_level
from quell.mixing.augmentation import (
    CLIP_DB,
    CODECS,
    COMPRESSION,
    LOWEST_EDGE_HZ,
    OCTAVES,
    band_limited,
    clipped,
    coded,
    coloured,
    room_response,
)

SECOND_DB = 10.0  # that a second noise is softer at most


class Mixtures(NamedTuple):
    """A training batch: noisy and clean (B, T), and the level (B, 1) that the denoiser shall work at."""

    noisy: Tensor
    clean: Tensor
    level: Tensor


class MixtureSampler:
    """Draws random mixtures from a split: no per-item Python, but for codecs, no loader processes, nothing written.

    Clean crops are drawn by duration, so that every second of speech is heard equally often; clips shorter than the
    segment are placed at random in silence. Noise is drawn by category, then by duration, and is repeated when too
    short. Of pairs both sides are cut alike, and what the noisy one has more is their noise, at its own level.

    Args:
        segment: samples per mixture.
        sample_rate: Hz.
        generator: on the device that trains; the only source of randomness.
        config: how. In a room, coloured and band-limited are both sides: what is learnt is to remove noise. Clipped
            and coded is the noisy side alone.

    Raises:
        ValueError: a weight for a kind of noise that is not there, or none that is above 0.
    """

    def __init__(
        self, split: Split, segment: int, sample_rate: int, generator: torch.Generator, config: MixingConfig
    ) -> None:
        self.segment = segment
        self.sample_rate = sample_rate
        self.config = config
        self.generator = generator
        self.device = generator.device
        # Copied out of the map: 2 bytes a sample, and a crop never waits for the disk.
        self.samples = torch.from_numpy(split.samples.copy()).to(self.device)
        pairs = split.pairs()
        self.clean = _Pool([clean for _, clean in pairs] or split.of("clean"), self.device)
        self.noisy_offset = torch.tensor([noisy.offset for noisy, _ in pairs], device=self.device) if pairs else None
        noise = split.of("noise")
        self.noise = _Pool(noise, self.device, config.noise_weights) if noise else None
        self.steps = torch.arange(segment, device=self.device)
        self.responses = self._responses(split) if config.rooms > 0 else None

    def draw(self, batch: int) -> Mixtures:
        """A batch of mixtures, float32, (batch, segment)."""
        config = self.config
        chosen = self.clean.choose(self._uniform(batch, 1))
        spare = self.clean.length[chosen] - self.segment
        start = torch.minimum(spare, torch.zeros_like(spare))
        start = start + (self._uniform(batch, 1) * (spare.abs() + 1)).long()
        at = start + self.steps
        inside = (at >= 0) & (at < self.clean.length[chosen])
        at = at.clamp_min(0).minimum(self.clean.length[chosen] - 1)
        spoken = self._at(self.clean.offset[chosen] + at) * inside
        clean = spoken
        if self.responses is not None:
            clean = self._in_rooms(clean, self.responses)

        noise = self._noise(batch)
        if config.colour_db > 0:
            clean, noise = self._coloured(clean), self._coloured(noise)
        gain = self._gain(clean, noise)
        if self.noisy_offset is not None:
            recorded = self._at(self.noisy_offset[chosen] + at) * inside - spoken
            as_it_is = self._uniform(batch, 1) >= (config.remix if self.noise is not None else 0.0)
            noise, gain = torch.where(as_it_is, recorded, noise), torch.where(as_it_is, 1.0, gain)
        if config.clean > 0:
            gain = gain * (self._uniform(batch, 1) >= config.clean)
        noisy, clean = self._through_devices(clean + noise * gain, clean)
        off_db = config.level_db * (2 * self._uniform(batch, 1) - 1)
        return Mixtures(noisy, clean, rms(noisy) * 10 ** (off_db / 20))

    def _at(self, places: Tensor) -> Tensor:
        drawn: Tensor = self.samples[places].float() / 32768
        return drawn

    def _gain(self, clean: Tensor, noise: Tensor) -> Tensor:
        if self.config.noise_level is not None:  # every recording has its peak at full scale
            low, high = self.config.noise_level
            return low + (high - low) * self._uniform(len(clean), 1)
        low, high = self.config.snr_db
        gain = noise_gain(clean, noise, low + (high - low) * self._uniform(len(clean), 1))
        if self.config.snr_active:
            gain = gain * speech_level(clean, self.sample_rate) / rms(clean).clamp_min(1e-8)
        return gain

    def _noise(self, batch: int) -> Tensor:
        if self.noise is None:
            return torch.zeros(batch, self.segment, device=self.device)
        noise = self._noises(batch, self.noise)
        if self.config.second_noise > 0:
            noise, second = (side / rms(side).clamp_min(1e-8) for side in (noise, self._noises(batch, self.noise)))
            share = 10 ** (-SECOND_DB / 20 * self._uniform(batch, 1))
            noise = noise + second * share * (self._uniform(batch, 1) < self.config.second_noise)
        return noise

    def _noises(self, batch: int, pool: _Pool) -> Tensor:
        chosen = pool.choose(self._uniform(batch, 1))
        start = (self._uniform(batch, 1) * pool.length[chosen]).long()
        return self._at(pool.offset[chosen] + (start + self.steps) % pool.length[chosen])

    def _through_devices(self, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """What a device makes of both sides, or of the noisy one alone; of the shares that the configuration names."""
        config, batch = self.config, len(noisy)
        if config.band_limit > 0:
            low, high = math.log(LOWEST_EDGE_HZ), math.log(self.sample_rate / 2)
            edges = (min(low, high) + (high - min(low, high)) * self._uniform(batch, 1)).exp()
            chosen = self._uniform(batch, 1) < config.band_limit
            noisy, clean = (
                torch.where(chosen, band_limited(side, edges, self.sample_rate), side) for side in (noisy, clean)
            )
        if config.clipping > 0:
            low, high = CLIP_DB
            depths = low + (high - low) * self._uniform(batch, 1)
            noisy = torch.where(self._uniform(batch, 1) < config.clipping, clipped(noisy, depths), noisy)
        if config.codec > 0:
            drawn = self._uniform(batch, 3).tolist()
            for place, (share, codec, compression) in enumerate(drawn):
                if share < config.codec:
                    low, high = COMPRESSION
                    heard = noisy[place].cpu().numpy()
                    heard = coded(heard, self.sample_rate, int(codec * len(CODECS)), low + (high - low) * compression)
                    noisy[place] = torch.from_numpy(heard).to(self.device)
        return noisy, clean

    def _coloured(self, waveforms: Tensor) -> Tensor:
        return coloured(waveforms, self.config.colour_db * (2 * self._uniform(len(waveforms), OCTAVES) - 1))

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
        return torch.where(self._uniform(len(clean), 1) < self.config.rooms, heard, clean)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)


class _Pool:
    """Clips to draw from: each category as often as it weighs, within it by duration. Clean speech is one category."""

    def __init__(self, clips: list[Clip], device: torch.device, weights: Mapping[str, float] | None = None) -> None:
        self.offset = torch.tensor([clip.offset for clip in clips], device=device)
        self.length = torch.tensor([clip.length for clip in clips], device=device)
        totals: dict[str, int] = {}
        for clip in clips:
            totals[clip.category] = totals.get(clip.category, 0) + clip.length
        weights = weights or {}
        if weights and (problem := weights_objection(weights, totals)):
            raise ValueError(f"noise_weights: {problem}")
        whole = sum(weights.get(category, 1.0) for category in totals)
        shares = [weights.get(clip.category, 1.0) * clip.length / totals[clip.category] / whole for clip in clips]
        self.cumulative_share = torch.tensor(shares, dtype=torch.float64).cumsum(0).float().to(device)

    def choose(self, uniform: Tensor) -> Tensor:
        """Indices of clips, shape of `uniform`, whose values lie in [0, 1)."""
        return torch.searchsorted(self.cumulative_share, uniform, right=True).clamp_max(len(self.cumulative_share) - 1)


def sampler(config: TrainingConfig, corpus: Corpus, generator: torch.Generator) -> MixtureSampler:
    """What draws the mixtures of a training, on the generator's device."""
    segment = round(config.segment_s * corpus.sample_rate)
    return MixtureSampler(corpus.splits["train"], segment, corpus.sample_rate, generator, config)
