"""Noisy recordings and their clean versions: alignment in time by cross-correlation, and the SNR of a pair."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quell.audio.mono import channel_alone, read_mono
from quell.audio.resampling import FloatArray

LONGEST_LAG_S = 0.5  # between the beginnings of a pair
CORRELATED = 1 << 18  # samples at once
MOST_DB = 100.0  # SNR of a recording without noise; 16 bits hold 98 dB
BIN_DB = 5.0  # rows of a table by measured SNR: this wide, around multiples of it

Waveform = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Aligned:
    """A pair of recordings cut to their common duration.

    Attributes:
        lag: samples by which the noisy recording is late.
        correlation: at the lag, -1 to 1; about 1 / sqrt(1 + 10 ** (-x / 10)) at an SNR of x dB with independent noise.
    """

    noisy: FloatArray
    clean: FloatArray
    lag: int
    correlation: float


def measured_snr_db(noisy: Waveform, clean: Waveform) -> float:
    """SNR of a pair in dB, -MOST_DB to MOST_DB: energy of the clean recording over that of the difference.

    Without speech it is -MOST_DB, else without noise MOST_DB.
    """
    speech, noise = _energy(clean), _energy(noisy - clean)
    if speech == 0:
        return -MOST_DB
    return float(np.clip(10 * np.log10(speech / noise), -MOST_DB, MOST_DB)) if noise > 0 else MOST_DB


def snr_row(snr_db: NDArray[np.float64]) -> NDArray[np.float64]:
    """The SNR of the table's row that each measured SNR counts in, dB: the nearest multiple of BIN_DB."""
    return BIN_DB * np.floor(snr_db / BIN_DB + 0.5)


def align(noisy: FloatArray, clean: FloatArray, sample_rate: int) -> Aligned:
    """Aligns two recordings, (T,) and (T',), at the lag of the largest cross-correlation within LONGEST_LAG_S."""
    longest = min(round(LONGEST_LAG_S * sample_rate), len(noisy) - 1, len(clean) - 1)
    correlation = _correlation(noisy, clean, longest)
    lag = int(correlation.argmax()) - longest
    begin = max(lag, 0), max(-lag, 0)
    shared = min(len(noisy) - begin[0], len(clean) - begin[1])
    noisy, clean = noisy[begin[0] : begin[0] + shared], clean[begin[1] : begin[1] + shared]
    levels = float(np.sqrt(_energy(noisy) * _energy(clean)))
    return Aligned(noisy, clean, lag, float(correlation.max() / levels) if levels > 0 else 0.0)


def _energy(samples: Waveform) -> float:
    return float(np.square(samples, dtype=np.float64).sum())


def _correlation(noisy: FloatArray, clean: FloatArray, longest: int) -> NDArray[np.float64]:
    """Cross-correlation at lags of -longest to longest, in blocks: an hour of samples would take gigabytes at once."""
    correlation = np.zeros(2 * longest + 1)
    for begin in range(0, len(clean), CORRELATED):
        part = clean[begin : begin + CORRELATED]
        before, end = begin - longest, begin + len(part) + longest
        around = np.pad(noisy[max(before, 0) : max(end, 0)], (max(-before, 0), 0))
        size = 1 << (len(part) + 2 * longest - 1).bit_length()
        spectrum = np.fft.rfft(around.astype(np.float64), size) * np.fft.rfft(part.astype(np.float64), size).conj()
        correlation += np.fft.irfft(spectrum, size)[: len(correlation)]
    return correlation


def read(noisy: Path, clean: Path, sample_rate: int) -> Aligned:
    """Reads two files as mono at a sample rate and aligns them. Where the channels of one cancel, both are read by the
    same channel, the louder one of the clean file if it is that one.

    Raises:
        AudioError: one of them cannot be read.
    """
    alone = next((found for path in (clean, noisy) if (found := channel_alone(path)) is not None), None)
    return align(read_mono(noisy, sample_rate, alone), read_mono(clean, sample_rate, alone), sample_rate)
