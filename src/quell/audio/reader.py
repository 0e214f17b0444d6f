"""Sound files: find, read, write, resample."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from quell.audio import integrity
from quell.audio.formats import Format, Raw
from quell.audio.integrity import flaw
from quell.audio.resampling import FloatArray, Resampler
from quell.errors import AudioError

# What libsndfile reads, by suffix. A file with another suffix is not taken for a recording (README, CSV, ...).
OTHER_SUFFIXES = {".aif", ".aifc", ".bwf", ".iff", ".mp2", ".oga", ".opus", ".snd", ".sph"}
SUFFIXES = frozenset({f".{name.lower()}" for name in soundfile.available_formats()} | OTHER_SUFFIXES) - {".raw"}

READ_BLOCK = 65_536  # samples of each channel that are read at once
LEAST_BLOCK = 8_192  # the same, of a recording with many channels
# Nobody records outside of these; headers that were damaged say so.
RATES = (1_000, 1_000_000)  # Hz
MOST_CHANNELS = 256
LARGEST = 1e10  # times full scale: 32-bit integers stored as floats, and some headroom
UNKNOWN_LENGTH = 2**62  # and above: libsndfile's word for a file that does not say


def find(folder: Path) -> list[Path]:
    """Recordings under `folder` at any depth, sorted by path; links to folders are followed, hidden files and folders
    left out.

    Raises:
        AudioError: a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise AudioError(f"{error.filename}: {error.strerror}, expected a folder that can be read; check its rights")

    found: list[Path] = []
    above: dict[str, frozenset[str]] = {}  # where a folder's folders really are
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        place, real, higher = Path(where), os.path.realpath(where), above.pop(where, frozenset())
        circle = real in higher  # a link to a folder above
        folders[:] = [name for name in folders if not name.startswith(".") and not circle]
        if circle:
            continue
        above |= {os.path.join(where, name): higher | {real} for name in folders}  # noqa: PTH118 - as os.walk says it
        paths = (place / name for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink())]
    return sorted(found)


class _OpenFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from its first sample to its last."""

    def seekable(self) -> bool:
        """soundfile seeks after every read of a file that it holds for seekable, if only to where it is: from there on
        MP3 is noise for a quarter of a second, and other decoders fail."""
        return False


class AudioFile:
    """A sound file that is read piece by piece, as often as one likes; full scale is 1.

    Args:
        raw: of a file that is nothing but samples.

    Attributes:
        frames: samples of each channel.

    Raises:
        AudioError: not a sound file, damaged, cut off, without samples, or nothing that anybody records.
    """

    def __init__(self, path: Path, raw: Raw | None = None) -> None:
        self.path = path
        self._as: dict[str, Any] = {}
        if raw is not None:
            self._as = {"samplerate": raw.sample_rate, "channels": raw.channels, "subtype": raw.subtype}
            self._as |= {"format": "RAW", "endian": "LITTLE"}
        elif path.suffix.lower() == ".raw":
            raise AudioError(f"{path}: samples without a header, expected a sound file; pipe them in, as -")
        with self._open() as file:
            tags = tuple((key, value) for key, value in file.copy_metadata().items() if value)
            self.stored = Format(file.samplerate, file.format, file.subtype, file.endian, tags)
            self.channels: int = file.channels
            self._header: int = file.frames
            low, high = RATES
            if not low <= self.stored.sample_rate <= high or not 1 <= self.channels <= MOST_CHANNELS:
                found = f"{self.channels} channels at {self.stored.sample_rate} Hz"
                needed = f"1 to {MOST_CHANNELS} channels at {low} to {high} Hz"
                raise AudioError(f"{path}: {found}, expected {needed}; repair it or leave it out")
            self.frames: int = self._header
            if raw is None:
                self._check(file)

    def _check(self, file: _OpenFile) -> None:
        found = flaw(self.path)
        if found:
            raise AudioError(f"{self.path}: {found}, expected one whole recording; copy or convert it again")
        if self.stored.container == "MP3" and (counted := integrity.samples(self.path)) is not None:
            if self._header < counted:
                found = f"no count in its header, by which {self._header} of {counted} samples can be read"
                raise AudioError(f"{self.path}: {found}, expected all; convert it to WAV")
            self.frames = counted
        if self._header >= UNKNOWN_LENGTH:
            self.frames = 0
            while read := len(file.read(LEAST_BLOCK, dtype="int16")):
                self.frames += read
        if self.frames == 0:
            raise AudioError(f"{self.path}: 0 samples, expected at least 1; repair its header or leave it out")

    def blocks(self, frames: int | None = None) -> Iterator[FloatArray]:
        """The samples from the first on, (n, C) each.

        Args:
            frames: n, of all but the last.

        Raises:
            AudioError: damaged, with samples that are not numbers, or changed since it was opened.
        """
        read, frames = 0, frames or max(LEAST_BLOCK, READ_BLOCK // self.channels)
        with self._open() as file:
            now, before = (file.samplerate, file.channels, file.frames), self.stored.sample_rate
            if now != (before, self.channels, self._header):
                raise AudioError(f"{self.path}: changes while it is read, expected it finished; wait, then try again")
            while len(block := file.read(frames, dtype="float32", always_2d=True)):
                if not np.abs(block).max() <= LARGEST:  # written so that NaN fails too
                    raise AudioError(f"{self.path}: {_bad_samples(block)}, expected numbers; repair it or leave it out")
                read += len(block)
                yield block
        if read != self.frames:
            found = f"{read} of {self.frames} samples can be read"
            raise AudioError(f"{self.path}: {found}, expected all; copy or repair it")

    @contextmanager
    def _open(self) -> Iterator[_OpenFile]:
        try:
            if not self.path.is_file():  # a pipe would be waited for
                raise OSError(f"{'not a file' if self.path.exists() else 'no such file'}")
            with self.path.open("rb"):  # libsndfile does not say what the system objected to
                pass
            with _OpenFile(os.fsencode(self.path), **self._as) as file:
                yield file
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError(
                f"{self.path}: {_reason(error)}, expected a sound file; repair it or leave it out"
            ) from error


def _bad_samples(block: FloatArray) -> str:
    bad = int((~np.isfinite(block)).sum())
    return (
        f"{bad} samples are NaN or infinite" if bad else f"samples of up to {np.abs(block).max():.0e} times full scale"
    )


def _reason(error: Exception) -> str:
    found = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
    return " ".join(str(found).split()).rstrip(".").removeprefix("Error : ")


def read(path: Path) -> tuple[FloatArray, Format]:
    """All samples of a sound file, shape (T, C), full scale at 1, and how they were stored.

    Raises:
        AudioError: as `AudioFile` and its `blocks`.
    """
    recording = AudioFile(path)
    return np.concatenate(list(recording.blocks())), recording.stored


def read_mono(path: Path, sample_rate: int) -> FloatArray:
    """One waveform, shape (T,), at `sample_rate` Hz: the mean of the channels, resampled where the file has another
    rate. Nothing but this waveform is in memory whole.

    Raises:
        AudioError: as `read`.
    """
    recording = AudioFile(path)
    resampler = Resampler(recording.stored.sample_rate, sample_rate, 1, recording.frames)
    waveform = np.empty((resampler.length, 1), np.float32)
    filled = 0
    for block in recording.blocks():
        piece = resampler.push(block.mean(axis=1, keepdims=True))
        waveform[filled : filled + len(piece)] = piece
        filled += len(piece)
    waveform[filled:] = resampler.finish()
    return waveform[:, 0]
