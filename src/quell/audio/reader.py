"""Reads sound files, whole or block by block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from quell.audio.formats import Format, Raw
from quell.audio.libsndfile import SequentialFile, reason
from quell.audio.limits import bad_samples, beyond_limits
from quell.audio.resampling import FloatArray
from quell.containers.integrity import streams
from quell.containers.stream import Contradiction, Stream, StreamFile
from quell.errors import AudioError

READ_BLOCK = 65_536  # samples of each channel that are read at once
LEAST_BLOCK = 8_192  # the same, of a recording with many channels
UNKNOWN_LENGTH = 2**62  # and above: libsndfile's length of a file whose header has none


class AudioFile:
    """A sound file, checked and read block by block, any number of times; full scale is 1.

    Args:
        raw: how the samples of a file without a header are stored.

    Attributes:
        stored: how the file is stored.
        frames: samples of each channel.

    Raises:
        AudioError: not a sound file, damaged, cut off, without samples, or with a rate or channels out of range.
    """

    def __init__(self, path: Path, raw: Raw | None = None) -> None:
        self.path = path
        self._raw: dict[str, Any] = {}  # what soundfile needs for samples without a header
        if raw is not None:
            self._raw = {"samplerate": raw.sample_rate, "channels": raw.channels, "subtype": raw.subtype}
            self._raw |= {"format": "RAW", "endian": "LITTLE"}
        elif path.suffix.lower() == ".raw":
            raise AudioError(f"{path}: samples without a header, expected a sound file; pipe them in, as -")
        self.frames: int = 0
        self._streams: list[tuple[Stream, int]] = []  # and the samples of each by its header
        for stream in [Stream()] if raw else self._find_streams():
            with self._open(stream) as file:
                self._add(file, stream)
        if self.frames == 0:
            raise AudioError(f"{path}: 0 samples, expected at least 1; repair its header or leave it out")

    def _find_streams(self) -> list[Stream]:
        try:
            self._check_is_file()
            return streams(self.path)
        except Contradiction as error:
            raise AudioError(f"{self.path}: {error}, expected one whole recording; copy or convert it again") from error
        except OSError as error:
            raise AudioError(
                f"{self.path}: {reason(error)}, expected a sound file; repair it or leave it out"
            ) from error

    def _add(self, file: SequentialFile, stream: Stream) -> None:
        stored = Format(file.samplerate, file.format, file.subtype, file.endian, _tags(file))
        if not self._streams:
            self.stored, self.channels = stored, int(file.channels)
            if problem := beyond_limits(stored.sample_rate, self.channels):
                raise AudioError(f"{self.path}: {problem}; repair it or leave it out")
        elif (stored.sample_rate, file.channels) != (self.stored.sample_rate, self.channels):
            first = f"{self.channels} channels at {self.stored.sample_rate} Hz"
            found = f"{first}, then {file.channels} at {file.samplerate} Hz"
            raise AudioError(f"{self.path}: {found}, expected one kind of sound; cut it into two files")
        self._streams.append((stream, int(file.frames)))
        self.frames += self._count(file, stream)

    def _count(self, file: SequentialFile, stream: Stream) -> int:
        """Samples of each channel of a stream."""
        frames = int(file.frames)
        if stream.samples is not None:
            if frames < stream.samples:
                problem = f"no count in its header, hence {frames} of {stream.samples} samples can be read"
                raise AudioError(f"{self.path}: {problem}, expected all; convert it to WAV")
            return stream.samples
        if frames < UNKNOWN_LENGTH:
            return frames
        frames = 0
        while read := len(file.read(LEAST_BLOCK, dtype="int16")):
            frames += read
        return frames

    def blocks(self, frames: int | None = None) -> Iterator[FloatArray]:
        """Yields all samples in blocks of shape (n, C).

        Args:
            frames: n, of all blocks but the last of each stream.

        Raises:
            AudioError: damaged, samples that are not finite, or changed since it was opened.
        """
        read, frames = 0, frames or max(LEAST_BLOCK, READ_BLOCK // self.channels)
        for stream, length in self._streams:
            for block in self._blocks_of(stream, length, frames):
                if problem := bad_samples(block):
                    raise AudioError(f"{self.path}: {problem}, expected numbers; repair it or leave it out")
                read += len(block)
                yield block
        if read != self.frames:
            raise AudioError(
                f"{self.path}: {read} of {self.frames} samples can be read, expected all; copy or repair it"
            )

    def _blocks_of(self, stream: Stream, length: int, frames: int) -> Iterator[FloatArray]:
        with self._open(stream) as file:
            if (file.samplerate, file.channels, file.frames) != (self.stored.sample_rate, self.channels, length):
                raise AudioError(f"{self.path}: changes while it is read, expected it finished; wait, then try again")
            # After the last frame of FLAC its decoder takes other programs' bytes for a damaged frame.
            rest = length if file.format == "FLAC" and length < UNKNOWN_LENGTH else UNKNOWN_LENGTH
            while len(block := file.read(min(frames, rest), dtype="float32", always_2d=True)):
                rest -= len(block)
                yield block

    def _check_is_file(self) -> None:
        if not self.path.is_file():  # opening a pipe would block
            raise OSError(f"{'not a file' if self.path.exists() else 'no such file'}")

    @contextmanager
    def _open(self, stream: Stream) -> Iterator[SequentialFile]:
        try:
            self._check_is_file()
            with self.path.open("rb"):  # libsndfile hides the system's reason
                pass
            opened = nullcontext(os.fsencode(self.path)) if stream.is_file else StreamFile(self.path, stream)
            with opened as source, SequentialFile(source, **self._raw) as file:
                yield file
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError(
                f"{self.path}: {reason(error)}, expected a sound file; repair it or leave it out"
            ) from error


def _tags(file: SequentialFile) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in file.copy_metadata().items() if value)


def seconds(path: Path) -> float:
    """Length of a recording by its header; 0 where it cannot be read, which reading it reports."""
    try:
        file = AudioFile(path)
    except Exception:
        return 0.0
    return file.frames / file.stored.sample_rate


def read(path: Path) -> tuple[FloatArray, Format]:
    """All samples of a sound file, shape (T, C), full scale at 1, and how they were stored.

    Raises:
        AudioError: as `AudioFile` and its `blocks`.
    """
    recording = AudioFile(path)
    return np.concatenate(list(recording.blocks())), recording.stored
