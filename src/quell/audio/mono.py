"""One waveform out of a recording of any channels, without the offset of the recorder."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quell.audio.reader import AudioFile
from quell.audio.resampling import FloatArray, Resampler

# A mean of more than this share of the rms is a DC offset of the recorder, subtracted before any level is measured; in
# recordings shorter than OFFSET_S it may as well be sound.
OFFSET = 0.1
OFFSET_S = 0.1
# Power of the mean of C channels over their mean power: 1 for equal channels, 1 / C for unrelated ones. Below this
# share of that, channels cancel: a cable with one of two wires swapped turns a voice in the middle into its room.
CANCELLED = 0.2


def read_mono(path: Path, sample_rate: int, channel: int | None = None) -> FloatArray:
    """The mean of the channels, shape (T,), without its offset, resampled to `sample_rate` Hz.

    Where the channels cancel, the loudest one. Memory holds this waveform and one block.

    Args:
        channel: this one instead, if there is one.

    Raises:
        AudioError: as `quell.audio.read`.
    """
    recording = AudioFile(path)
    channel = channel if channel is not None and channel < recording.channels else None
    waveform, levels = _resampled(recording, sample_rate, channel)
    if channel is None and (alone := levels.loudest_of_cancelled()) is not None:
        waveform, _ = _resampled(recording, sample_rate, alone)
    return without_offset(waveform, sample_rate)


def channel_alone(path: Path) -> int | None:
    """The loudest channel of a recording whose channels cancel, else None.

    Raises:
        AudioError: as `quell.audio.read`.
    """
    recording = AudioFile(path)
    levels = _Levels(recording.channels)
    if recording.channels > 1:
        for block in recording.blocks():
            levels.add(block)
    return levels.loudest_of_cancelled()


def mono(*signals: FloatArray, sample_rate: int) -> list[FloatArray]:
    """As `read_mono`, of samples (T, C) at their own rate, (T,) each; where one cancels, the same channel of all."""
    alone = None
    for samples in signals:
        levels = _Levels(samples.shape[1])
        levels.add(samples)
        alone = levels.loudest_of_cancelled() if alone is None else alone
    waveforms = [one.mean(axis=1) if alone is None or alone >= one.shape[1] else one[:, alone] for one in signals]
    return [without_offset(waveform, sample_rate) for waveform in waveforms]


def without_offset(waveform: FloatArray, sample_rate: int) -> FloatArray:
    """A waveform (T,) without its mean, where that is an offset of the recorder."""
    mean = waveform.mean(dtype=np.float64)
    rms = np.sqrt(np.square(waveform, dtype=np.float64).mean())
    offset = recorder_offsets(mean, rms, len(waveform), sample_rate)
    return waveform - np.float32(offset) if offset else waveform


def recorder_offsets(means: NDArray[np.float64], rms: NDArray[np.float64], frames: int, sample_rate: int) -> FloatArray:
    """What to subtract from channels of these means and rms, full scale at 1; 0 where the mean is no offset."""
    is_offset = (np.abs(means) > OFFSET * rms) & (frames >= OFFSET_S * sample_rate)
    return np.where(is_offset, means, 0.0).astype(np.float32)


class _Levels:
    """Power of each channel, and of their mean, without offsets, over blocks (n, C)."""

    def __init__(self, channels: int) -> None:
        self._frames = 0
        self._sums, self._squares = np.zeros(channels + 1), np.zeros(channels + 1)  # the mean of the channels is last

    def add(self, block: FloatArray) -> None:
        mean = block.mean(axis=1, keepdims=True)
        self._frames += len(block)
        self._sums += np.append(block.sum(axis=0, dtype=np.float64), mean.sum(dtype=np.float64))
        squares = np.square(block, dtype=np.float64).sum(axis=0)
        self._squares += np.append(squares, np.square(mean, dtype=np.float64).sum())

    def loudest_of_cancelled(self) -> int | None:
        """The channel with the most power, where the mean has next to none; else None."""
        if len(self._sums) < 3 or not self._frames:
            return None
        powers = self._squares / self._frames - np.square(self._sums / self._frames)
        channels = powers[:-1]
        return int(channels.argmax()) if powers[-1] < CANCELLED * channels.mean() / len(channels) else None


def _resampled(recording: AudioFile, sample_rate: int, channel: int | None) -> tuple[FloatArray, _Levels]:
    resampler = Resampler(recording.stored.sample_rate, sample_rate, 1, recording.frames)
    waveform = np.empty((resampler.length, 1), np.float32)
    levels, filled = _Levels(recording.channels), 0
    for block in recording.blocks():
        levels.add(block)
        piece = resampler.push(block.mean(axis=1, keepdims=True) if channel is None else block[:, [channel]])
        waveform[filled : filled + len(piece)] = piece
        filled += len(piece)
    waveform[filled:] = resampler.finish()
    return waveform[:, 0], levels
