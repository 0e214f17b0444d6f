"""Decodes a recording, or a noisy/clean pair, to 16-bit mono samples at the rate of a corpus."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quell import audio
from quell.audio.alignment import read
from quell.corpus.recordings import Kind

SILENT = 1e-4  # peak, -80 dB of full scale: nothing was recorded
FRAME_S, MARGIN_S = 0.02, 0.1  # of trimming: unit of measurement, and what is kept around speech

Samples = NDArray[np.int16]
Decoded = dict[Kind, Samples]


def decode(path: Path, sample_rate: int, kind: Kind, trim_db: float = 0.0) -> Decoded:
    """int16 samples with the peak at full scale, so that quiet recordings keep their precision; empty if silent.

    Cuts digital silence at the ends of noise: published clips are padded with it, and a crop of it has no SNR.

    Args:
        trim_db: cuts ends that are this far below the loudest frame, except for MARGIN_S; 0 keeps them.

    Raises:
        AudioError: the recording cannot be read.
    """
    waveform = audio.read_mono(path, sample_rate)
    peak = _peak(waveform)
    if peak < SILENT:
        return {}
    if trim_db:
        waveform = _without_pauses_at_ends(waveform, sample_rate, trim_db)
    samples = _in_16_bits(waveform, peak)
    return {kind: _trimmed(samples) if kind == "noise" else samples}


def decode_pair(noisy: Path, clean: Path, sample_rate: int, remix: bool) -> Decoded:
    """Both sides of a pair, aligned and of one length, with the louder peak at full scale; with `remix` also the noise.

    Empty if the clean side is silent.

    Raises:
        AudioError: one of them cannot be read.
    """
    pair = read(noisy, clean, sample_rate)
    if _peak(pair.clean) < SILENT:
        return {}
    peak = max(_peak(pair.noisy), _peak(pair.clean))
    decoded: Decoded = {"clean": _in_16_bits(pair.clean, peak), "noisy": _in_16_bits(pair.noisy, peak)}
    noise = pair.noisy - pair.clean
    if remix and (loudest := _peak(noise)) >= SILENT:
        decoded["noise"] = _trimmed(_in_16_bits(noise, loudest))
    return decoded


def _peak(waveform: audio.FloatArray) -> float:
    return max(float(waveform.max()), -float(waveform.min()))


def _in_16_bits(waveform: audio.FloatArray, peak: float) -> Samples:
    samples = np.empty(len(waveform), np.int16)
    for begin in range(0, len(waveform), audio.READ_BLOCK):  # so that an hour is not in memory twice
        block = slice(begin, begin + audio.READ_BLOCK)
        samples[block] = np.round(waveform[block] * (32767 / peak))
    return samples


def _without_pauses_at_ends(waveform: audio.FloatArray, sample_rate: int, trim_db: float) -> audio.FloatArray:
    frame = round(FRAME_S * sample_rate)
    padded = np.pad(waveform, (0, -len(waveform) % frame))
    levels = np.square(padded.reshape(-1, frame), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-trim_db / 10))
    margin = round(MARGIN_S * sample_rate)
    return waveform[max(0, loud[0] * frame - margin) : (loud[-1] + 1) * frame + margin]


def _trimmed(samples: Samples) -> Samples:
    sounding = np.abs(samples) > 1
    return samples[sounding.argmax() : len(samples) - sounding[::-1].argmax()]
