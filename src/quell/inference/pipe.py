"""Raw samples from one stream to another."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from quell import audio
from quell.audio import writer
from quell.errors import AudioError
from quell.export.exported_model import Model
from quell.inference.enhancement import transfer
from quell.inference.jobs import DenoiseOptions, Report
from quell.progress import Progress

# How files begin that somebody may pipe in, whose headers would be denoised as sound.
HEADERS = (b"RF64", b"fLaC", b"OggS", b"caff")
FORMS = {b"RIFF": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
PART = 2**16  # bytes that are read at once


def pipe(
    source: BinaryIO,
    target: BinaryIO,
    model: Model,
    raw: audio.Raw,
    options: DenoiseOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Denoises interleaved samples. They are kept on disk until the last has come: their level decides the first.

    Args:
        progress: called while samples come, and while they are denoised; what it raises comes through.

    Raises:
        AudioError: no samples, half a sample at the end, a file with a header, samples that are not numbers, or no room
            for them on disk.
        OSError: of `target`, BrokenPipeError among them.
    """
    move = progress or (lambda done, came: None)
    try:
        folder = tempfile.TemporaryDirectory(prefix="quell-")
    except OSError as error:
        raise _no_room(error) from error
    with folder as name:
        came, made = Path(name, "standard input"), Path(name, "made.raw")
        try:
            _take(source, came, raw, move)
            _check(came, raw)
            report = _denoise(audio.AudioFile(came, raw), made, model, options, move)
        except AudioError as error:
            found = str(error).replace(str(came), "standard input").replace(str(made), "standard input")
            raise AudioError(found) from error
        except OSError as error:
            raise _no_room(error) from error
        with made.open("rb") as file:
            shutil.copyfileobj(file, target)
        target.flush()
    return report


def _take(source: BinaryIO, came: Path, raw: audio.Raw, move: Progress) -> None:
    second = raw.sample_rate * raw.channels * BYTES[raw.subtype]
    with came.open("wb") as file:
        while part := source.read(PART):
            file.write(part)
            move(0.0, file.tell() / second)


def _denoise(
    recording: audio.AudioFile, made: Path, model: Model, options: DenoiseOptions | None, move: Progress
) -> Report:
    done, came = 0.0, recording.frames / recording.stored.sample_rate

    def moved(more: float) -> None:
        nonlocal done
        done += more
        move(done, came)

    with writer.writing(made, recording.stored, recording.channels) as append:
        return transfer(recording, model, append, options, moved)


def _no_room(error: OSError) -> AudioError:
    needed = "expected room for it twice in the folder TMPDIR; name another"
    return AudioError(f"standard input: {error.strerror}, {needed}")


def _check(came: Path, raw: audio.Raw) -> None:
    size, frame = came.stat().st_size, raw.channels * BYTES[raw.subtype]
    if size == 0 or size % frame:
        needed = f"expected a multiple of {frame} ({raw.channels} channels, {raw.subtype})"
        raise AudioError(f"standard input: {size} bytes, {needed}; check --channels and --encoding")
    with came.open("rb") as file:
        head = file.read(12)
    if head[:4] in HEADERS or (head[:4] in FORMS and head[8:] in FORMS[head[:4]]):
        found = f"a file that begins with {head[:4].decode()}"
        raise AudioError(
            f"standard input: {found}, expected samples without a header; give the file's path instead of -"
        )
