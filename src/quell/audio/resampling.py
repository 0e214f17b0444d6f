"""Resampling, whole or block by block, by soxr (linear phase, no delay)."""

import numpy as np
import soxr
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def resample(samples: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """Samples at another rate in Hz.

    Shape:
        samples: (T,) or (T, C), float32. Returns (round(T * to_rate / from_rate), ...), at least one sample.
    """
    if from_rate == to_rate:
        return samples
    channels = np.asarray(samples, np.float32).reshape(len(samples), -1)
    resampler = Resampler(from_rate, to_rate, channels.shape[1], len(channels))
    return np.concatenate([resampler.push(channels), resampler.finish()]).reshape(-1, *samples.shape[1:])


class Resampler:
    """Resamples a signal block by block, to the same numbers as in one block.

    Args:
        frames: samples of the whole signal.
        length: samples of the whole output; if omitted, those of the same duration, at least one.
        quality: soxr's name; "VHQ" is the highest.
    """

    def __init__(
        self, from_rate: int, to_rate: int, channels: int, frames: int, length: int | None = None, quality: str = "VHQ"
    ) -> None:
        self.length = max(1, round(frames * to_rate / from_rate)) if length is None else length
        self._remaining = self.length
        self._channels = channels
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality=quality)

    def push(self, samples: FloatArray) -> FloatArray:
        """Takes (n, C) samples; returns the (m, C) that they complete, m >= 0."""
        return self._resample(samples, last=False)

    def finish(self) -> FloatArray:
        """The remaining samples, up to the length."""
        rest = self._resample(np.zeros((0, self._channels), np.float32), last=True)
        missing = np.zeros((self._remaining, self._channels), np.float32)  # soxr may round the last sample away
        return np.concatenate([rest, missing])

    def _resample(self, samples: FloatArray, *, last: bool) -> FloatArray:
        if self._stream is not None:
            samples = self._stream.resample_chunk(np.ascontiguousarray(samples), last=last)
            samples = samples.reshape(-1, self._channels)
        samples = samples[: self._remaining]
        self._remaining -= len(samples)
        return samples
