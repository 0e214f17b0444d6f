"""What devices do to sound: they end at some frequency, clip, and send it through lossy codecs."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import soundfile
import torch
from torch import Tensor

from quell.audio import FloatArray
from quell.audio.alignment import align

LOWEST_EDGE_HZ = 3_000.0  # telephones end at 3.4 kHz
EDGE_OCTAVES = 0.1  # from the edge to silence
CLIP_DB = (-15.0, -3.0)  # of the peak
CODECS = (("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))
# libsndfile's scale from the least to the most compression. At 1 MP3 is 8 kbit/s, at which it is no speech any more.
COMPRESSION = (0.5, 0.95)


def band_limited(waveforms: Tensor, edges_hz: Tensor, sample_rate: int) -> Tensor:
    """Waveforms (B, T) without what is above their edges (B, 1), by a filter without delay; it goes around the ends."""
    samples = waveforms.shape[1]
    hz = torch.linspace(0, sample_rate / 2, samples // 2 + 1, device=waveforms.device)
    octaves = (hz.clamp_min(1.0) / edges_hz).log2()
    gains = (1 - octaves / EDGE_OCTAVES).clamp(0, 1)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms) * gains, n=samples)
    return filtered


def clipped(waveforms: Tensor, depths_db: Tensor) -> Tensor:
    """Waveforms (B, T) cut off at depths (B, 1), dB of their peaks."""
    most = waveforms.abs().amax(1, keepdim=True) * 10 ** (depths_db / 20)
    return waveforms.clamp(-most, most)


def coded(waveform: FloatArray, sample_rate: int, codec: int, compression: float) -> FloatArray:
    """A waveform (T,) through one of CODECS and back, at its place in time and at its level.

    Args:
        compression: 0 to 1, as libsndfile has it.
    """
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
    back, _ = soundfile.read(file, dtype="float32")
    # Encoders delay by some hundred samples, and decoders do not always take that back.
    lag = align(back, waveform, sample_rate).lag
    back = back[lag:] if lag > 0 else np.concatenate([np.zeros(-lag, np.float32), back])
    out = np.zeros(len(waveform), np.float32)
    out[: len(back)] = back[: len(out)]
    return out * np.float32(peak / 0.9)


def room_response(recorded: FloatArray) -> FloatArray:
    """An impulse response that neither delays nor amplifies: it begins with its peak, the direct sound, and has an
    energy of 1. Shape: (T,), shortened at the beginning."""
    direct = recorded[int(np.abs(recorded).argmax()) :]
    unit: FloatArray = direct / np.sqrt(np.square(direct).sum())
    return unit


OCTAVES = 8  # points: 0, half the sample rate and the octaves below it


@cache
def octaves(bins: int, device: torch.device) -> Tensor:
    """Weights of the points for the bins of a spectrum from 0 to half the sample rate: straight lines between them.

    Shape (OCTAVES, bins); each bin's weights add up to 1.
    """
    points = [0.0, *(2.0 ** -(OCTAVES - 2 - number) for number in range(OCTAVES - 1))]
    place = np.linspace(0, 1, bins)
    weights = [np.interp(place, points, np.eye(OCTAVES)[number]) for number in range(OCTAVES)]
    return torch.tensor(np.array(weights), dtype=torch.float32, device=device)


def coloured(waveforms: Tensor, gains_db: Tensor) -> Tensor:
    """Waveforms (B, T) through filters of such gains in dB at the points, (B, OCTAVES); they neither delay nor ring on:
    what would, goes around."""
    samples = waveforms.shape[1]
    gains = 10 ** (gains_db @ octaves(samples // 2 + 1, waveforms.device) / 20)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms) * gains, n=samples)
    return filtered
