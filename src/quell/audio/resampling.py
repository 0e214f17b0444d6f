"""The same sound at another rate, whole or piece by piece, by soxr's highest quality (linear phase, no delay)."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
QUALITY = "VHQ"


def resample(samples: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """The same sound at another rate in Hz.

    Shape:
        samples: (T,) or (T, C). Returns (round(T * to_rate / from_rate), ...), at least one sample.
    """
    if from_rate == to_rate:
        return samples
    length = resampled(len(samples), from_rate, to_rate)
    out = np.asarray(soxr.resample(samples, from_rate, to_rate, quality=QUALITY), dtype=np.float32)
    if len(out) < length:  # soxr may round the last sample away
        out = np.concatenate([out, np.zeros((length - len(out), *out.shape[1:]), np.float32)])
    return out[:length]


def resampled(frames: int, from_rate: int, to_rate: int) -> int:
    """How many samples so many are at another rate, at least one."""
    return max(1, round(frames * to_rate / from_rate))


class Resampler:
    """As `resample`, to the last digit, piece by piece.

    Args:
        frames: of the whole signal.
        length: of what comes out in all; by the rates when it is not given.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int, frames: int, length: int | None = None) -> None:
        self.length = resampled(frames, from_rate, to_rate) if length is None else length
        self._left = self.length
        self._channels = channels
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality=QUALITY)

    def push(self, samples: FloatArray) -> FloatArray:
        """What (n, C) samples bring."""
        return self._made(samples, last=False)

    def finish(self) -> FloatArray:
        """The rest, so that the length is right."""
        rest = self._made(np.zeros((0, self._channels), np.float32), last=True)
        missing = np.zeros((self._left, self._channels), np.float32)  # soxr may round the last sample away
        return np.concatenate([rest, missing])

    def _made(self, samples: FloatArray, *, last: bool) -> FloatArray:
        if self._stream is not None:
            samples = self._stream.resample_chunk(np.ascontiguousarray(samples), last=last)
            samples = samples.reshape(-1, self._channels)
        samples = samples[: self._left]
        self._left -= len(samples)
        return samples
