"""Random mixtures at chosen SNRs to train on, drawn in whole batches on the training device."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from quell.config import MixingConfig, TrainingConfig, weights_problem
from quell.corpus.memory_map import Clip, Corpus, Split
from quell.levels import noise_gain, rms, speech_level
from quell.mixing.augmentation import RandomAugmentation, room_response
from quell.mixing.excerpts import speech_only

SECOND_DB = 10.0  # most dB by which a second noise is softer


class Mixtures(NamedTuple):
    """A training batch: noisy and clean (B, T), and the level (B, 1) at which the denoiser is to work."""

    noisy: Tensor
    clean: Tensor
    level: Tensor


class _Pool:
    """Clips to draw from: categories by their weights, within a category by duration. Speech is one category."""

    def __init__(self, clips: list[Clip], device: torch.device, weights: Mapping[str, float] | None = None) -> None:
        self.offset = torch.tensor([clip.offset for clip in clips], device=device)
        self.length = torch.tensor([clip.length for clip in clips], device=device)
        totals: dict[str, int] = {}
        for clip in clips:
            totals[clip.category] = totals.get(clip.category, 0) + clip.length
        weights = weights or {}
        if weights and (problem := weights_problem(weights, totals)):
            raise ValueError(f"noise_weights: {problem}")
        whole = sum(weights.get(category, 1.0) for category in totals)
        shares = [weights.get(clip.category, 1.0) * clip.length / totals[clip.category] / whole for clip in clips]
        self.cumulative_share = torch.tensor(shares, dtype=torch.float64).cumsum(0).float().to(device)

    def choose(self, uniform: Tensor) -> Tensor:
        """Indices of clips, of the shape of `uniform`, whose values lie in [0, 1)."""
        return torch.searchsorted(self.cumulative_share, uniform, right=True).clamp_max(len(self.cumulative_share) - 1)


class MixtureSampler:
    """Draws random mixtures from a split: no Python per item but for codecs, no loader processes, no files.

    Speech is drawn by duration, so that every second of it is equally likely; clips shorter than the segment lie at a
    random place in silence. Noise is drawn by category, then by duration, and repeated when too short. In pairs, the
    noise is the difference of the two sides, at its own level.

    Args:
        segment: samples per mixture.
        generator: on the device that trains; the only source of randomness.

    Raises:
        CorpusError: samples are damaged.
        ValueError: a weight for a kind of noise that the split lacks, or no weight above 0.
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
        self.samples = torch.from_numpy(split.whole().copy()).to(self.device)
        pairs = split.pairs()
        whole = [clean for _, clean in pairs] or split.of("clean")
        speech = speech_only(split, whole, sample_rate)
        self.clean = _Pool([clip for _, clip in speech], self.device)
        # A noisy recording is in step with its clean version, which it lies beside.
        offsets = [pairs[number][0].offset + clip.offset - whole[number].offset for number, clip in speech if pairs]
        self.noisy_offset = torch.tensor(offsets, device=self.device) if pairs else None
        noise = split.of("noise")
        self.noise = _Pool(noise, self.device, config.noise_weights) if noise else None
        self.steps = torch.arange(segment, device=self.device)
        responses = [room_response(split.waveform(clip)) for clip in split.of("room")] if config.rooms > 0 else []
        self.augmentation = RandomAugmentation(config, segment, sample_rate, generator, responses)

    def draw(self, batch: int) -> Mixtures:
        """A batch of mixtures, float32, (batch, segment)."""
        config = self.config
        clip = self.clean.choose(self._uniform(batch, 1))
        spare = self.clean.length[clip] - self.segment
        start = spare.clamp_max(0) + (self._uniform(batch, 1) * (spare.abs() + 1)).long()
        position = start + self.steps
        is_inside = (position >= 0) & (position < self.clean.length[clip])
        position = position.clamp_min(0).minimum(self.clean.length[clip] - 1)
        speech = self._waveforms(self.clean.offset[clip] + position) * is_inside

        clean, noise = self.augmentation.in_rooms(speech), self._noise(batch)
        clean, noise = self.augmentation.equalised(clean), self.augmentation.equalised(noise)
        gain = self._gain(clean, noise)
        if self.noisy_offset is not None:
            difference = self._waveforms(self.noisy_offset[clip] + position) * is_inside - speech
            as_recorded = self._uniform(batch, 1) >= (config.remix if self.noise is not None else 0.0)
            noise, gain = torch.where(as_recorded, difference, noise), torch.where(as_recorded, 1.0, gain)
        if config.clean > 0:
            gain = gain * (self._uniform(batch, 1) >= config.clean)
        noisy, clean = self.augmentation.through_devices(clean + noise * gain, clean)
        level_error_db = config.level_db * (2 * self._uniform(batch, 1) - 1)
        return Mixtures(noisy, clean, rms(noisy) * 10 ** (level_error_db / 20))

    def _waveforms(self, positions: Tensor) -> Tensor:
        return self.samples[positions].float() / 32768

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
        noise = self._crops(batch, self.noise)
        if self.config.second_noise > 0:
            noise, second = (side / rms(side).clamp_min(1e-8) for side in (noise, self._crops(batch, self.noise)))
            share = 10 ** (-SECOND_DB / 20 * self._uniform(batch, 1))
            noise = noise + second * share * (self._uniform(batch, 1) < self.config.second_noise)
        return noise

    def _crops(self, batch: int, pool: _Pool) -> Tensor:
        clip = pool.choose(self._uniform(batch, 1))
        start = (self._uniform(batch, 1) * pool.length[clip]).long()
        return self._waveforms(pool.offset[clip] + (start + self.steps) % pool.length[clip])

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)


def sampler(config: TrainingConfig, corpus: Corpus, generator: torch.Generator) -> MixtureSampler:
    """The sampler of a training's mixtures, on the generator's device."""
    segment = round(config.segment_s * corpus.sample_rate)
    return MixtureSampler(corpus.splits["train"], segment, corpus.sample_rate, generator, config)
