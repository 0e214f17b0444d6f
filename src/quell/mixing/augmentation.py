"""Augmentation of training mixtures: rooms, equalisation, band limits, clipping and lossy codecs."""

import io
import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import cache

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional

from quell.audio import FloatArray
from quell.audio.alignment import align
from quell.config import MixingConfig

LOWEST_EDGE_HZ = 3_000.0  # telephones end at 3.4 kHz
EDGE_OCTAVES = 0.1  # from the edge to silence
CLIP_DB = (-15.0, -3.0)  # of the peak
CODECS = (("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))
# libsndfile's scale from the least to the most compression. At 1 MP3 is 8 kbit/s, at which speech is unintelligible.
COMPRESSION = (0.5, 0.95)
OCTAVES = 8  # points of an equaliser: 0, half the sample rate and the octaves below it


@dataclass
class RandomAugmentation:
    """Augments random shares of a batch, as a configuration says.

    Rooms, equalisation and band limits change noisy and clean speech alike: what the denoiser learns is to remove noise
    only. Clipping and codecs change the noisy side only.
    """

    config: MixingConfig
    segment: int  # samples per mixture
    sample_rate: int  # Hz
    generator: torch.Generator  # on the device that trains; the only source of randomness
    responses: InitVar[Sequence[FloatArray]]  # of rooms, (T,) each, from `room_response`

    def __post_init__(self, responses: Sequence[FloatArray]) -> None:
        self.rooms = self._spectra(responses) if self.config.rooms > 0 and responses else None

    def in_rooms(self, clean: Tensor) -> Tensor:
        """Speech (B, T), reverberant in `config.rooms` of the rows."""
        if self.rooms is None:
            return clean
        size = 2 * (self.rooms.shape[-1] - 1)
        room = (self._uniform(len(clean)) * len(self.rooms)).long()
        reverberant = torch.fft.irfft(torch.fft.rfft(clean, n=size) * self.rooms[room], n=size)[:, : self.segment]
        return torch.where(self._uniform(len(clean), 1) < self.config.rooms, reverberant, clean)

    def equalised(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T), each through a random equaliser of up to +-`config.colour_db`."""
        if self.config.colour_db == 0:
            return waveforms
        return coloured(waveforms, self.config.colour_db * (2 * self._uniform(len(waveforms), OCTAVES) - 1))

    def through_devices(self, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """(noisy, clean), (B, T) each, as recorded by devices with band limits, clipping and codecs."""
        config, batch = self.config, len(noisy)
        if config.band_limit > 0:
            low, high = math.log(LOWEST_EDGE_HZ), math.log(self.sample_rate / 2)
            edges = (min(low, high) + (high - min(low, high)) * self._uniform(batch, 1)).exp()
            is_limited = self._uniform(batch, 1) < config.band_limit
            noisy, clean = (
                torch.where(is_limited, band_limited(side, edges, self.sample_rate), side) for side in (noisy, clean)
            )
        if config.clipping > 0:
            low, high = CLIP_DB
            depths = low + (high - low) * self._uniform(batch, 1)
            noisy = torch.where(self._uniform(batch, 1) < config.clipping, clipped(noisy, depths), noisy)
        if config.codec > 0:
            low, high = COMPRESSION
            for row, (share, codec, compression) in enumerate(self._uniform(batch, 3).tolist()):
                if share < config.codec:
                    waveform = noisy[row].cpu().numpy()
                    compression = low + (high - low) * compression
                    decoded = coded(waveform, self.sample_rate, int(codec * len(CODECS)), compression)
                    noisy[row] = torch.from_numpy(decoded).to(noisy.device)
        return noisy, clean

    def _spectra(self, responses: Sequence[FloatArray]) -> Tensor:
        """Spectra of the responses at the length that a reverberant segment takes, (rooms, F)."""
        longest = min(max(len(response) for response in responses), self.segment)
        cut = [torch.from_numpy(response[:longest]) for response in responses]
        padded = torch.stack([functional.pad(response, (0, longest - len(response))) for response in cut])
        size = -(-(self.segment + longest) // 1024) * 1024  # space for the tail, and a size that transforms fast
        spectra: Tensor = torch.fft.rfft(padded.to(self.generator.device), n=size)
        return spectra

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)


def band_limited(waveforms: Tensor, edges_hz: Tensor, sample_rate: int) -> Tensor:
    """Waveforms (B, T) through low-pass filters with edges (B, 1), without delay; circular at the ends."""
    samples = waveforms.shape[1]
    hz = torch.linspace(0, sample_rate / 2, samples // 2 + 1, device=waveforms.device)
    octaves = (hz.clamp_min(1.0) / edges_hz).log2()
    gains = (1 - octaves / EDGE_OCTAVES).clamp(0, 1)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms) * gains, n=samples)
    return filtered


def clipped(waveforms: Tensor, depths_db: Tensor) -> Tensor:
    """Waveforms (B, T) clipped at depths (B, 1), in dB of their peaks."""
    most = waveforms.abs().amax(1, keepdim=True) * 10 ** (depths_db / 20)
    return waveforms.clamp(-most, most)


def coded(waveform: FloatArray, sample_rate: int, codec: int, compression: float) -> FloatArray:
    """A waveform (T,), coded by one of CODECS and decoded, without the codec's delay and at the same level.
    `compression` is 0 to 1, on libsndfile's scale."""
    peak = float(np.abs(waveform).max())
    if peak == 0:
        return waveform
    container, subtype = CODECS[codec]
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", sample_rate, 1, subtype, format=container, compression_level=compression
    ) as stored:
        stored.write(0.9 / peak * waveform)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    # Encoders delay by some hundred samples, which decoders do not always compensate.
    lag = align(decoded, waveform, sample_rate).lag
    decoded = decoded[lag:] if lag > 0 else np.concatenate([np.zeros(-lag, np.float32), decoded])
    out = np.zeros(len(waveform), np.float32)
    out[: len(decoded)] = decoded[: len(out)]
    return out * np.float32(peak / 0.9)


def room_response(recorded: FloatArray) -> FloatArray:
    """An impulse response (T,) without its delay and gain: from its peak, the direct sound, with energy 1."""
    direct = recorded[int(np.abs(recorded).argmax()) :]
    unit: FloatArray = direct / np.sqrt(np.square(direct).sum())
    return unit


@cache
def octaves(bins: int, device: torch.device) -> Tensor:
    """Weights of an equaliser's points for the bins of a spectrum from 0 to half the sample rate: linear interpolation.

    Shape (OCTAVES, bins); the weights of a bin add up to 1.
    """
    points = [0.0, *(2.0 ** -(OCTAVES - 2 - number) for number in range(OCTAVES - 1))]
    position = np.linspace(0, 1, bins)
    weights = [np.interp(position, points, np.eye(OCTAVES)[number]) for number in range(OCTAVES)]
    return torch.tensor(np.array(weights), dtype=torch.float32, device=device)


def coloured(waveforms: Tensor, gains_db: Tensor) -> Tensor:
    """Waveforms (B, T) through equalisers with gains (B, OCTAVES) in dB, zero-phase and circular at the ends."""
    samples = waveforms.shape[1]
    gains = 10 ** (gains_db @ octaves(samples // 2 + 1, waveforms.device) / 20)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms) * gains, n=samples)
    return filtered
