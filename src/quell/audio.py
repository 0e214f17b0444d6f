"""Sound files: find, read, write, resample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from quell.atomic import replacing
from quell.containers import missing_bytes
from quell.errors import AudioError

FloatArray = NDArray[np.float32]

# What libsndfile reads, by suffix. A file with another suffix is not taken for a recording (README, CSV, ...).
SUFFIXES = frozenset({f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".opus", ".oga"}) - {
    ".raw"
}

WRITE_BLOCK = READ_BLOCK = 65_536  # samples of each channel
# Nobody records outside of these; headers that were damaged say so.
RATES = (1_000, 1_000_000)  # Hz
MOST_CHANNELS = 256
MP3_SLACK = 4_608  # samples that the header of an MP3 file may be wrong by


@dataclass(frozen=True)
class Format:
    """How a sound file is stored: what is needed to write another one like it."""

    sample_rate: int  # Hz
    container: str  # libsndfile's word: "WAV", "FLAC", "OGG"
    subtype: str  # "PCM_16", "FLOAT", "VORBIS"
    endian: str = "FILE"
    tags: tuple[tuple[str, str], ...] = ()  # title, artist, ...

    @property
    def whole_numbers(self) -> bool:
        """Whether samples are stored as integers, which end at full scale."""
        return self.subtype.startswith(("PCM", "ALAC", "DPCM"))


def find(folder: Path) -> list[Path]:
    """Recordings under `folder` at any depth, sorted by path. Hidden files and folders are left out."""
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


@dataclass(frozen=True)
class Raw:
    """What samples without a header are: interleaved, little-endian."""

    sample_rate: int  # Hz
    channels: int
    subtype: str  # "PCM_16", "PCM_24", "PCM_32" or "FLOAT"


class Recording:
    """A sound file that is read piece by piece, as often as one likes; full scale is 1.

    Args:
        raw: of a file that is nothing but samples.

    Raises:
        AudioError: not a sound file, damaged, cut off, without samples, or nothing that anybody records.
    """

    def __init__(self, path: Path, raw: Raw | None = None) -> None:
        self.path = path
        self._as: dict[str, Any] = {}
        if raw is not None:
            self._as = {"samplerate": raw.sample_rate, "channels": raw.channels, "subtype": raw.subtype}
            self._as |= {"format": "RAW", "endian": "LITTLE"}
        with self._open() as file:
            tags = tuple((key, value) for key, value in file.copy_metadata().items() if value)
            self.stored = Format(file.samplerate, file.format, file.subtype, file.endian, tags)
            self.channels: int = file.channels
            self.frames: int = file.frames
        low, high = RATES
        if not low <= self.stored.sample_rate <= high or self.channels > MOST_CHANNELS:
            found = f"{self.channels} channels at {self.stored.sample_rate} Hz"
            needed = f"up to {MOST_CHANNELS} channels at {low} to {high} Hz"
            raise AudioError(f"{path}: {found}, expected {needed}; repair or remove it")
        if self.frames == 0:
            raise AudioError(f"{path}: 0 samples, expected at least 1; remove it")
        missing = missing_bytes(path)
        if missing:
            raise AudioError(f"{path}: cut off, {missing} bytes or more are missing, expected it whole; copy it again")

    def blocks(self, frames: int = READ_BLOCK) -> Iterator[FloatArray]:
        """The samples from the first on, (n, C) each.

        Raises:
            AudioError: damaged, or with samples that are not numbers.
        """
        read = 0
        with self._open() as file:
            while len(block := file.read(frames, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    bad = int((~np.isfinite(block)).sum())
                    raise AudioError(
                        f"{self.path}: {bad} samples are NaN or infinite, expected numbers; repair or remove it"
                    )
                read += len(block)
                yield block
        if read < self.frames - (MP3_SLACK if self.stored.container == "MP3" else 0):
            raise AudioError(
                f"{self.path}: {read} of {self.frames} samples can be read, expected all; copy or repair it"
            )

    @contextmanager
    def _open(self) -> Iterator[soundfile.SoundFile]:
        try:
            with soundfile.SoundFile(self.path, **self._as) as file:
                yield file
        except (soundfile.LibsndfileError, OSError) as error:
            reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
            raise AudioError(f"{self.path}: {reason}, expected a sound file; repair or remove it") from error


def read(path: Path) -> tuple[FloatArray, Format]:
    """All samples of a sound file, shape (T, C), full scale at 1, and how they were stored.

    Raises:
        AudioError: as `Recording` and its `blocks`.
    """
    recording = Recording(path)
    return np.concatenate(list(recording.blocks())), recording.stored


def read_mono(path: Path, sample_rate: int) -> FloatArray:
    """One waveform, shape (T,), at `sample_rate` Hz: the mean of the channels, resampled where the file has another
    rate.

    Raises:
        AudioError: as `read`.
    """
    samples, stored = read(path)
    return resample(samples.mean(axis=1), stored.sample_rate, sample_rate)


def resample(samples: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """The same sound at another rate in Hz, by soxr's highest quality (linear phase, no delay).

    Shape:
        samples: (T,) or (T, C). Returns (round(T * to_rate / from_rate), ...), at least one sample.
    """
    if from_rate == to_rate:
        return samples
    length = max(1, round(len(samples) * to_rate / from_rate))
    out = np.asarray(soxr.resample(samples, from_rate, to_rate, quality="VHQ"), dtype=np.float32)
    if len(out) < length:  # soxr may round the last sample away
        out = np.concatenate([out, np.zeros((length - len(out), *out.shape[1:]), np.float32)])
    return out[:length]


@contextmanager
def writing(path: Path, stored: Format, channels: int) -> Iterator[Callable[[FloatArray], None]]:
    """A function that appends (n, C) samples to a new file; the final name appears only when the block ends well.

    Integer formats are limited at full scale by libsndfile.

    Raises:
        AudioError: the format cannot hold this, or the disk refuses.
    """
    try:
        with (
            replacing(path) as partial,
            soundfile.SoundFile(
                partial,
                "w",
                stored.sample_rate,
                channels,
                stored.subtype,
                endian=stored.endian,
                format=stored.container,
            ) as file,
        ):
            for tag, text in stored.tags:
                with suppress(soundfile.LibsndfileError):  # not every container has every tag
                    setattr(file, tag, text)

            def append(samples: FloatArray) -> None:
                # libsndfile's Vorbis encoder keeps a call's samples on the stack: 50 s at 48 kHz end the process.
                for start in range(0, len(samples), WRITE_BLOCK):
                    file.write(samples[start : start + WRITE_BLOCK])

            yield append
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        kind = f"{stored.container}/{stored.subtype} at {stored.sample_rate} Hz"
        raise AudioError(f"{path}: {error}, expected to write {kind}; choose another output") from error


def write(path: Path, samples: FloatArray, stored: Format) -> None:
    """Writes (T,) or (T, C) as `stored` says.

    Raises:
        AudioError: as `writing`.
    """
    with writing(path, stored, 1 if samples.ndim == 1 else samples.shape[1]) as append:
        append(samples)
