"""Measures one recording by reading it whole: level, pauses, clipping, bandwidth and audio fingerprint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quell.audio import AudioFile, FloatArray
from quell.audio.activity import FRAME_S, has_speech
from quell.audio.mono import channel_alone
from quell.audio.resampling import Resampler
from quell.audit import audio_fingerprint
from quell.audit.audio_fingerprint import Fingerprint, fingerprint

PAUSE_DB = 50.0  # below the loud frames
SPECTRUM = 2_048  # samples
CLIFF_DB = 35.0  # by which a spectrum falls at the Nyquist frequency of a lower rate
LOWER_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100)  # Hz, common in recordings
AT_PEAK = 0.9995  # of the largest sample
CLIPPED_RUN = 3  # samples in a row: a wave's own peak is one or two
LOWEST_PEAK = 0.05  # of full scale; below it, steps of 16 bits are as coarse as AT_PEAK


@dataclass(frozen=True)
class Inspection:
    """Measurements of one recording. Levels are of one waveform, as of `read_mono`, but for the offset."""

    sample_rate: int  # Hz
    seconds: float
    digest: str  # of its samples in 16 bits: the same for a copy in another container
    peak: float
    rms: float
    offset: float  # mean of the samples
    clipped: float  # share of samples in runs at the peak
    speech_s: float  # seconds of frames as loud as speech
    pauses: float  # share of frames of FRAME_S more than PAUSE_DB below the loud ones
    range_db: float  # loud over soft frames without digital silence; an upper bound of the SNR of speech
    upsampled_hz: int  # the lower rate at whose Nyquist frequency the spectrum ends; 0 where it does not
    fingerprint: Fingerprint


def inspect(path: Path) -> Inspection:
    """Reads and measures a recording, in blocks.

    Raises:
        AudioError: as `quell.audio.AudioFile` and its blocks.
    """
    recording, alone = AudioFile(path), channel_alone(path)
    rate = recording.stored.sample_rate
    meter = _Meter(rate, recording.frames)
    for block in recording.blocks():
        meter.add(block.mean(axis=1) if alone is None else block[:, alone])
    levels = np.concatenate(meter.levels)
    sounding = levels[levels > 0]
    loud, soft = np.quantile(sounding, [0.95, 0.05]) if len(sounding) else (0.0, 0.0)
    return Inspection(
        sample_rate=rate,
        seconds=recording.frames / rate,
        digest=meter.digest.hexdigest(),
        peak=meter.peak,
        rms=float(np.sqrt(meter.energy / recording.frames)),
        offset=meter.sum / recording.frames,
        clipped=meter.at_peak / recording.frames,
        speech_s=float(has_speech(levels).sum() * FRAME_S),
        pauses=float((levels <= loud * 10 ** (-PAUSE_DB / 10)).mean()) if len(levels) else 0.0,
        range_db=float(10 * np.log10(loud / soft)) if soft > 0 else 0.0,
        upsampled_hz=_upsampled(meter.power, rate),
        fingerprint=fingerprint(np.concatenate([*meter.narrow, meter.resampler.finish()])[:, 0]),
    )


class _Meter:
    """Sums over the blocks of one recording."""

    def __init__(self, sample_rate: int, frames: int) -> None:
        self.digest = hashlib.blake2b(sample_rate.to_bytes(4, "big"), digest_size=16)
        self.peak = self.energy = self.sum = 0.0
        self.at_peak = 0
        self.levels: list[NDArray[np.float64]] = []
        self.narrow: list[FloatArray] = []  # at the fingerprint's rate, shape (n, 1)
        self.power = np.zeros(SPECTRUM // 2 + 1)
        self._frame = round(FRAME_S * sample_rate)
        self._rest: FloatArray = np.zeros(0, np.float32)
        self.resampler = Resampler(sample_rate, audio_fingerprint.SAMPLE_RATE, 1, frames, quality="MQ")

    def add(self, block: FloatArray) -> None:
        self.digest.update(np.round(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
        self._count_clipped(block)
        self.energy += float(np.square(block, dtype=np.float64).sum())
        self.sum += float(block.sum(dtype=np.float64))
        self.narrow.append(self.resampler.push(block[:, np.newaxis]))
        block = np.concatenate([self._rest, block])
        whole = len(block) // self._frame * self._frame
        self._rest = block[whole:]
        self.levels.append(block[:whole].reshape(-1, self._frame).var(axis=1, dtype=np.float64))
        pieces = block[: len(block) // SPECTRUM * SPECTRUM].reshape(-1, SPECTRUM)
        if len(pieces):
            spectra = np.fft.rfft(pieces * np.hanning(SPECTRUM).astype(np.float32), axis=1)
            self.power += (spectra.real**2 + spectra.imag**2).sum(axis=0)

    def _count_clipped(self, block: FloatArray) -> None:
        """Counts samples at the peak in runs of at least CLIPPED_RUN; a block with a larger peak restarts the count."""
        peak = float(np.abs(block).max())
        if peak > self.peak / AT_PEAK:
            self.at_peak = 0
        self.peak = max(self.peak, peak)
        if self.peak < LOWEST_PEAK:
            return
        at = np.abs(block) >= AT_PEAK * self.peak
        edges = np.flatnonzero(np.diff(np.concatenate([[False], at, [False]])))
        runs = edges[1::2] - edges[::2]
        self.at_peak += int(runs[runs >= CLIPPED_RUN].sum())


def _upsampled(power: NDArray[np.float64], sample_rate: int) -> int:
    """The lowest rate at whose Nyquist frequency a power spectrum falls by CLIFF_DB; 0 if there is none."""
    hz = np.arange(len(power)) * sample_rate / SPECTRUM
    level = 10 * np.log10(power + 1e-30)
    for rate in LOWER_RATES:
        edge = rate / 2
        if edge > 0.9 * sample_rate / 2:
            break
        below = level[(hz > 0.8 * edge) & (hz < 0.94 * edge)]
        above = level[hz > 1.06 * edge]
        if len(below) and len(above) and np.median(below) - np.quantile(above, 0.95) > CLIFF_DB:
            return rate
    return 0
