"""Denoises raw samples from one stream to another: `quell denoise -`."""

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
from quell.progress import Progress, ignore

# First bytes of files that a user may pipe in; their headers would be denoised as sound.
HEADERS = (b"RF64", b"BW64", b"riff", b"fLaC", b"OggS", b"caff", b".snd", b"NIST", b"ID3\2", b"ID3\3", b"ID3\4")
VERSIONS = "\2\3\4"  # of ID3
FORMS = {b"RIFF": (b"WAVE",), b"RIFX": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC", b"8SVX")}
BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
CHUNK = 2**16  # bytes


def pipe(
    source: BinaryIO,
    target: BinaryIO,
    model: Model,
    raw: audio.Raw,
    options: DenoiseOptions | None = None,
    progress: Progress = ignore,
) -> Report:
    """Denoises interleaved samples.

    Spools all input to disk first: the first output sample depends on the level of the whole signal.

    Args:
        progress: called with (0, seconds received) while reading, then with (seconds denoised, seconds received);
            exceptions that it raises end the work and propagate.

    Raises:
        AudioError: no samples, half a sample at the end, a file with a header, samples that are not numbers, or no
            space for them on disk.
        OSError: writing to `target` failed, BrokenPipeError included.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="quell-")
    except OSError as error:
        raise _no_space(error) from error
    with folder as name:
        received, denoised = Path(name, "standard input"), Path(name, "denoised.raw")
        try:
            _receive(source, received, raw, progress)
            _check(received, raw)
            report = _denoise(audio.AudioFile(received, raw), denoised, model, options, progress)
        except AudioError as error:
            text = str(error).replace(str(received), "standard input").replace(str(denoised), "standard input")
            raise AudioError(text) from error
        except OSError as error:
            raise _no_space(error) from error
        with denoised.open("rb") as file:
            shutil.copyfileobj(file, target)
        target.flush()
    return report


def _receive(source: BinaryIO, received: Path, raw: audio.Raw, progress: Progress) -> None:
    bytes_per_s = raw.sample_rate * raw.channels * BYTES[raw.subtype]
    with received.open("wb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
            progress(0.0, file.tell() / bytes_per_s)


def _denoise(
    recording: audio.AudioFile, target: Path, model: Model, options: DenoiseOptions | None, progress: Progress
) -> Report:
    done_s, total_s = 0.0, recording.frames / recording.stored.sample_rate

    def report(more_s: float) -> None:
        nonlocal done_s
        done_s += more_s
        progress(done_s, total_s)

    with writer.writing(target, recording.stored, recording.channels) as append:
        return transfer(recording, model, append, options, report, limit=recording.stored.limit)


def _no_space(error: OSError) -> AudioError:
    needed = "expected space for it twice in the folder TMPDIR; name another"
    return AudioError(f"standard input: {error.strerror}, {needed}")


def _check(received: Path, raw: audio.Raw) -> None:
    size, frame = received.stat().st_size, raw.channels * BYTES[raw.subtype]
    if size == 0 or size % frame:
        needed = f"expected a multiple of {frame} ({raw.channels} channels, {raw.subtype})"
        raise AudioError(f"standard input: {size} bytes, {needed}; check --channels and --encoding")
    with received.open("rb") as file:
        head = file.read(12)
    if head[:4] in HEADERS or (head[:4] in FORMS and head[8:] in FORMS[head[:4]]):
        found = f"a file that begins with {head[:4].decode().rstrip(VERSIONS)}"
        raise AudioError(
            f"standard input: {found}, expected samples without a header; give the file's path instead of -"
        )
