"""Raw samples from one stream to another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from quell import audio
from quell.enhance import Mix, Report, transfer
from quell.errors import AudioError
from quell.model import Model

ENCODINGS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
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
        AudioError: no samples, half a sample at the end, or samples that are not numbers.
    """
    with tempfile.TemporaryDirectory(prefix="quell-") as folder:
        came, made = Path(folder, "standard input"), Path(folder, "made.raw")
        with came.open("wb") as file:
            shutil.copyfileobj(source, file)
        size, frame = came.stat().st_size, raw.channels * BYTES[raw.subtype]
        if size == 0 or size % frame:
            needed = f"expected a multiple of {frame} ({raw.channels} channels, {raw.subtype})"
            raise AudioError(f"standard input: {size} bytes, {needed}; check --channels and --encoding")
        try:
            recording = audio.Recording(came, raw)
            with audio.writing(made, recording.stored, recording.channels) as append:
                report = transfer(recording, model, append, mix, progress)
        except AudioError as error:
            raise AudioError(str(error).replace(str(came), "standard input")) from error
        with made.open("rb") as file:
            shutil.copyfileobj(file, target)
        target.flush()
    return report
