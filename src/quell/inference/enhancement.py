"""Denoises signals and files of any rate and length with an exported model, block by block."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quell import audio
from quell.audio import FloatArray, writer
from quell.audio.mono import recorder_offsets
from quell.audio.resampling import Resampler
from quell.containers import metadata
from quell.errors import AudioError, DenoiserError
from quell.export.exported_model import Model, Stream
from quell.inference import pretrained
from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult, Report
from quell.progress import ignore

# Iterates over the pieces of a signal, (n, C) each, from its first sample; called for every pass over it.
Pieces = Callable[[], Iterator[FloatArray]]


def enhance_file(
    source: Path,
    target: Path,
    model: Model,
    options: DenoiseOptions | None = None,
    progress: Callable[[float], None] = ignore,
    *,
    overwrite: bool = True,
) -> Report:
    """Denoises one file; rate, channels, length, container, sub-format and tags are kept, but for what another suffix
    of the target asks for.

    Memory does not grow with the length: a block and its context (`quell.export.blocks`).

    Args:
        progress: called with the seconds done since its last call, which may be 0; exceptions that it raises end the
            work and propagate.
        overwrite: replace a file of the target's name, also one that appears meanwhile.

    Raises:
        AudioError: the file cannot be read, or the result cannot be written.
    """
    recording = audio.AudioFile(source)
    stored = writer.format_for(target, source, recording.stored)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"{error.strerror}: {error.filename}"
        raise AudioError(f"{target}: {found}, expected a folder that can be made; give another -o") from error
    own = metadata.read(source)
    kept = own if stored.container == recording.stored.container else None
    with writer.writing(target, stored, recording.channels, kept, overwrite=overwrite) as append:
        report = transfer(recording, model, append, options, progress, limit=stored.limit)
    return report._replace(tags_lost=not (kept and kept.complete) and metadata.has_more(source, dict(stored.tags), own))


def transfer(
    recording: audio.AudioFile,
    model: Model,
    append: Callable[[FloatArray], None],
    options: DenoiseOptions | None = None,
    progress: Callable[[float], None] = ignore,
    *,
    limit: float,
) -> Report:
    """Denoises an open recording into `append`, which clips at `limit`. Other args and errors as `enhance_file`."""
    peak, limited = 0.0, 0
    rate = recording.stored.sample_rate

    def pieces() -> Iterator[FloatArray]:
        for piece in recording.blocks():
            progress(0.0)  # lets the caller stop while the level of a long recording is measured
            yield piece

    for piece in denoised(pieces, rate, model, options):
        if not np.isfinite(piece).all():
            raise AudioError(
                f"{recording.path}: denoised to NaN or infinity, expected numbers; lower its level or leave it out"
            )
        loud = np.abs(piece)
        peak = max(peak, float(loud.max(initial=0.0)))
        limited += int((loud > limit).sum())
        append(piece)
        progress(len(piece) / rate)
    return Report(peak, limited)


def denoised(
    pieces: Pieces, sample_rate: int, model: Model, options: DenoiseOptions | None = None
) -> Iterator[FloatArray]:
    """The denoised signal in pieces, (m, C) each, together as long as the input.

    Passes over the input up to three times, the first two to measure its level.
    """
    share = (options or DenoiseOptions()).denoised
    signal = _measure(pieces, sample_rate, model.sample_rate)
    channels = len(signal.levels)
    way_in = Resampler(sample_rate, model.sample_rate, channels, signal.frames)
    stream = Stream(model, signal.levels.tolist())
    way_out = Resampler(model.sample_rate, sample_rate, channels, way_in.length, signal.frames)
    inputs = np.zeros((0, channels), np.float32)  # those that wait to be mixed with the output

    def mixed(clean: FloatArray) -> FloatArray:
        nonlocal inputs
        if share == 1:
            return clean
        noisy, inputs = np.split(inputs, [len(clean)])
        return (share * clean + (1 - share) * noisy).astype(np.float32)

    for piece in pieces():
        if share != 1:
            inputs = np.concatenate([inputs, piece])
        for block in stream.push(_tensor(way_in.push(piece - signal.offsets))):
            yield mixed(way_out.push(block.numpy().T))
    for rest in (stream.push(_tensor(way_in.finish())), stream.finish()):
        for block in rest:
            yield mixed(way_out.push(block.numpy().T))
    yield mixed(way_out.finish())


def _tensor(samples: FloatArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples.T))


class _Signal(NamedTuple):
    frames: int
    offsets: FloatArray  # (C,), DC
    levels: NDArray[np.float64]  # (C,), rms without the offset, at the model's rate


def _measure(pieces: Pieces, sample_rate: int, model_rate: int) -> _Signal:
    frames, total, squares = 0, np.zeros(1), np.zeros(1)
    for piece in pieces():
        frames += len(piece)
        total = total + piece.sum(axis=0, dtype=np.float64)
        squares = squares + np.square(piece, dtype=np.float64).sum(axis=0)
    means, rms = total / frames, np.sqrt(squares / frames)
    offsets = recorder_offsets(means, rms, frames, sample_rate)
    if sample_rate == model_rate:
        power = squares / frames - offsets * (2 * means - offsets)
        return _Signal(frames, offsets, np.sqrt(np.maximum(power, 0.0)))
    resampler = Resampler(sample_rate, model_rate, len(means), frames)
    squares = np.zeros(len(means))
    for piece in pieces():
        squares += np.square(resampler.push(piece - offsets), dtype=np.float64).sum(axis=0)
    squares += np.square(resampler.finish(), dtype=np.float64).sum(axis=0)
    return _Signal(frames, offsets, np.sqrt(squares / resampler.length))


def denoise_job(
    job: DenoiseJob, model: Model | None, options: DenoiseOptions, progress: Callable[[float], None]
) -> JobResult:
    """Denoises one file. Errors of the file are in the result; those of the model are raised."""
    try:
        model = model or pretrained.fitting(audio.AudioFile(job.source).stored.sample_rate)
        report = enhance_file(job.source, job.target, model, options, progress, overwrite=job.overwrite)
        return JobResult(job, report, None)
    except AudioError as error:
        return JobResult(job, None, error)
    except DenoiserError:
        raise
    except Exception as error:  # out of memory, or a bug: it ends this file, not the run
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return JobResult(job, None, AudioError(f"{job.source}: {found}, expected to be denoised; leave it out"))
