"""Writes sound files in the format of another one, or of their suffix, atomically."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from quell.atomic import WRITTEN_MEANWHILE, replacing
from quell.audio.formats import DEEP, FLOATS, Format
from quell.audio.libsndfile import SequentialFile, reason
from quell.audio.resampling import FloatArray
from quell.containers.metadata import Metadata, attach
from quell.errors import AudioError

# Containers by the suffixes that are not their names.
CONTAINERS = {".aif": "AIFF", ".aifc": "AIFF", ".bwf": "WAV", ".oga": "OGG", ".opus": "OGG", ".snd": "AU"}
WRITE_BLOCK = 65_536  # samples of each channel
MARGIN = 4_096  # bytes


def format_for(target: Path, source: Path, stored: Format) -> Format:
    """How to write a recording, which was read from `source`: as it is stored, or as the suffix of `target` says.

    In another container it keeps its sub-format where that is plain samples and the container has it, else its depth.

    Raises:
        AudioError: a suffix that is none of a sound file that can be written.
    """
    suffix = target.suffix.lower()
    if suffix == source.suffix.lower():
        return stored
    container = CONTAINERS.get(suffix, suffix[1:].upper())
    if container not in soundfile.available_formats() or container == "RAW":
        raise AudioError(f"{target}: ends in {suffix!r}, expected .wav, .flac, .ogg or {source.suffix}; rename it")
    deep = stored.subtype in FLOATS or stored.subtype.endswith(DEEP)
    plain = stored.subtype.startswith("PCM") or stored.subtype in FLOATS
    wanted = ("OPUS",) if suffix == ".opus" else (stored.subtype if plain else "", "PCM_24" if deep else "", "PCM_16")
    found = [subtype for subtype in wanted if subtype in soundfile.available_subtypes(container)]
    subtype = found[0] if found else soundfile.default_subtype(container)
    return replace(stored, container=container, subtype=subtype, endian="FILE")


@contextmanager
def writing(
    path: Path, stored: Format, channels: int, metadata: Metadata | None = None, *, overwrite: bool = True
) -> Iterator[Callable[[FloatArray], None]]:
    """Yields a function that appends (n, C) samples to a new file, which appears only when the block ends well.

    Args:
        metadata: of another file of this kind, in place of the tags of `stored`.
        overwrite: replace a file of that name; without, one that appears before the block ends is an error.

    Samples beyond the range of the format (`Format.limit`) are clipped.

    Raises:
        AudioError: the format cannot hold this, or the disk refuses.
    """
    count = 0

    def append(samples: FloatArray) -> None:
        nonlocal count
        # libsndfile clips plain PCM only: µ-law and A-law read past the end of a table, ADPCM wraps.
        clipped = np.clip(samples, -stored.limit, stored.highest)
        # Its Vorbis encoder keeps all samples of a call on the stack: 50 s at 48 kHz end the process.
        for start in range(0, len(clipped), WRITE_BLOCK):
            try:
                file.write(clipped[start : start + WRITE_BLOCK])
            except AssertionError as error:  # soundfile's, when libsndfile takes fewer samples
                raise OSError("less was written than there is; the disk may be full") from error
        count += len(clipped)

    try:
        with replacing(path, overwrite=overwrite) as partial:
            partial.touch()  # libsndfile hides the system's reason
            try:
                with _new(partial, stored if metadata is None else replace(stored, tags=()), channels) as file:
                    yield append
                if metadata is not None:
                    attach(partial, metadata)
            except soundfile.SoundFileError:
                _check_disk_grows(partial)
                raise
            _check_disk_grows(partial)  # libsndfile may also ignore a full disk
            intended = (stored.sample_rate, channels, count, stored.container, stored.subtype)
            actual = intended if stored.container == "RAW" else _stored_as(partial)
            if actual != intended:
                raise OSError(f"comes back as {actual}, written as {intended}")
    except FileExistsError as error:
        raise AudioError(f"{path}: {WRITTEN_MEANWHILE}") from error
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: {reason(error)}, expected to write {stored}; {_advice(stored)}") from error


def _advice(stored: Format) -> str:
    return f"choose another output, or a name that ends in {'.wav' if stored.container == 'FLAC' else '.flac'}"


def _new(path: Path, stored: Format, channels: int) -> SequentialFile:
    kind = {"subtype": stored.subtype, "endian": stored.endian, "format": stored.container}
    try:
        file = SequentialFile(os.fsencode(path), "w", stored.sample_rate, channels, **kind)
    except (TypeError, ValueError) as error:  # soundfile's, for formats that it does not know
        raise OSError(str(error)) from error
    for tag, text in stored.tags:
        with suppress(soundfile.SoundFileError):  # not every container has every tag
            setattr(file, tag, text)
    return file


def _check_disk_grows(path: Path) -> None:
    """Raises OSError where a file cannot grow."""
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(MARGIN))
    os.truncate(path, size)


def _stored_as(path: Path) -> tuple[int, int, int, str, str]:
    with SequentialFile(os.fsencode(path)) as file:
        return file.samplerate, file.channels, file.frames, file.format, file.subtype


def write(path: Path, samples: FloatArray, stored: Format, *, overwrite: bool = True) -> None:
    """Writes samples of shape (T,) or (T, C) in the format `stored`. Other args and errors as `writing`."""
    with writing(path, stored, 1 if samples.ndim == 1 else samples.shape[1], overwrite=overwrite) as append:
        append(samples)
