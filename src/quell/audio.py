"""Sound files: find, read, write, resample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from quell.atomic import replacing
from quell.errors import AudioError

FloatArray = NDArray[np.float32]

# What libsndfile reads, by suffix. A file with another suffix is not taken for a recording (README, CSV, ...).
SUFFIXES = frozenset({f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".opus", ".oga"}) - {
    ".raw"
}

WRITE_BLOCK = 65_536  # samples of each channel


@dataclass(frozen=True)
class Format:
    """How a sound file is stored: what is needed to write another one like it."""

    sample_rate: int  # Hz
    container: str  # libsndfile's word: "WAV", "FLAC", "OGG"
    subtype: str  # "PCM_16", "FLOAT", "VORBIS"


def find(folder: Path) -> list[Path]:
    """Recordings under `folder` at any depth, sorted by path. Hidden files and folders are left out."""
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


def read(path: Path) -> tuple[FloatArray, Format]:
    """Samples of a sound file, shape (T, C), full scale at 1, and how they were stored.

    Raises:
        AudioError: not a sound file, damaged, without samples, or with samples that are not numbers.
    """
    try:
        with soundfile.SoundFile(path) as file:
            stored = Format(file.samplerate, file.format, file.subtype)
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise AudioError(f"{path}: {reason}, expected a sound file; repair or remove it") from error
    if len(samples) == 0:
        raise AudioError(f"{path}: 0 samples, expected at least 1; remove it")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise AudioError(f"{path}: {bad} samples are NaN or infinite, expected numbers; repair or remove it")
    return samples, stored


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


def write(path: Path, samples: FloatArray, stored: Format) -> None:
    """Writes (T,) or (T, C) as `stored` says; the final name appears only when the file is whole.

    Integer formats are limited at full scale by libsndfile.

    Raises:
        AudioError: the format cannot hold this rate, or the disk refuses.
    """
    try:
        with replacing(path) as partial:
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            with soundfile.SoundFile(
                partial, "w", stored.sample_rate, channels, stored.subtype, format=stored.container
            ) as file:
                # libsndfile's Vorbis encoder keeps a call's samples on the stack: 50 s at 48 kHz end the process.
                for start in range(0, len(samples), WRITE_BLOCK):
                    file.write(samples[start : start + WRITE_BLOCK])
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        kind = f"{stored.container}/{stored.subtype} at {stored.sample_rate} Hz"
        raise AudioError(f"{path}: {error}, expected to write {kind}; choose another output") from error
