"""Raw samples from one stream to another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from quell import audio
from quell.enhance import transfer
from quell.errors import AudioError
from quell.model import Model
from quell.settings import Mix, Report

# How files begin that somebody may pipe in, whose headers would be denoised as sound.
HEADERS = (b"RF64", b"fLaC", b"OggS", b"caff")
FORMS = {b"RIFF": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


def pipe(
    source: BinaryIO,
    target: BinaryIO,
    model: Model,
    raw: audio.Raw,
    mix: Mix | None = None,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Denoises interleaved samples. They are kept on disk until the last has come: their level decides the first.

    Raises:
        AudioError: no samples, half a sample at the end, a file with a header, samples that are not numbers, or no room
            for them on disk.
        OSError: of `target`, BrokenPipeError among them.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="quell-")
    except OSError as error:
        raise _no_room(error) from error
    with folder as name:
        came, made = Path(name, "standard input"), Path(name, "made.raw")
        try:
            with came.open("wb") as file:
                shutil.copyfileobj(source, file)
            _check(came, raw)
            recording = audio.Recording(came, raw)
            with audio.writing(made, recording.stored, recording.channels) as append:
                report = transfer(recording, model, append, mix, progress)
        except AudioError as error:
            found = str(error).replace(str(came), "standard input").replace(str(made), "standard input")
            raise AudioError(found) from error
        except OSError as error:
            raise _no_room(error) from error
        with made.open("rb") as file:
            shutil.copyfileobj(file, target)
        target.flush()
    return report


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
