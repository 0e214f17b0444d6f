"""Denoising of recordings: at any rate, of any length, piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quell import audio
from quell.audio import FloatArray, writer
from quell.audio.resampling import Resampler
from quell.errors import AudioError, DenoiserError
from quell.export.exported_model import Model, Stream
from quell.inference import pretrained
from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult, Report

# A mean this much of the rms is an offset of the recorder, taken away before it counts as level; in recordings under
# OFFSET_S it may as well be sound.
OFFSET = 0.1
OFFSET_S = 0.1

# The pieces of a signal, (n, C) each, from its first sample on; called anew for every pass over it.
Pieces = Callable[[], Iterator[FloatArray]]


def denoise(
    waveform: FloatArray, sample_rate: int, model: Model | None = None, options: DenoiseOptions | None = None
) -> FloatArray:
    """A denoised recording at the rate it came in; every channel by itself.

    Nothing above half the model's rate comes back from a recording of a higher rate. Gain is kept: an answer may pass
    full scale where its input did.

    Args:
        waveform: float, full scale at 1.
        sample_rate: of the waveform, Hz.
        model: from `quell.load`; if omitted, the pretrained denoiser that fits the rate.
        options: how much of the input stays in the output.

    Shape:
        waveform: (T,) or (T, C), T >= 1. Returns the same, float32.

    Raises:
        ValueError: another shape, or samples that are not finite.
        ExportError: no model was given, and the pretrained one is missing.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim not in (1, 2) or len(samples) == 0:
        raise ValueError(f"waveform: shape {samples.shape}, expected (T,) or (T, C) with at least one sample")
    if not np.isfinite(samples).all():
        raise ValueError("waveform: NaN or infinite samples, expected numbers")
    channels = samples.reshape(len(samples), -1)

    used = model or pretrained.fitting(sample_rate)

    def pieces() -> Iterator[FloatArray]:
        for start in range(0, len(channels), audio.READ_BLOCK):
            yield channels[start : start + audio.READ_BLOCK]

    return np.concatenate(list(denoised(pieces, sample_rate, used, options))).reshape(samples.shape)


def enhance_file(
    source: Path,
    target: Path,
    model: Model,
    options: DenoiseOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Denoises one file; rate, channels, length, container, sub-format and tags are kept.

    Memory is bounded whatever its length: a block and its context (`quell.export.blocks`).

    Args:
        progress: called with the seconds that were done since it was called before, 0 at times; what it raises comes
            through.

    Raises:
        AudioError: the file cannot be read, or the result not written.
    """
    if target.suffix.lower() != source.suffix.lower():
        raise AudioError(f"{target}: another format than {source.name}, expected {source.suffix}; rename the output")
    recording = audio.AudioFile(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"{error.strerror}: {error.filename}"
        raise AudioError(f"{target}: {found}, expected a folder that can be made; give another -o") from error
    with writer.writing(target, recording.stored, recording.channels) as append:
        return transfer(recording, model, append, options, progress)


def transfer(
    recording: audio.AudioFile,
    model: Model,
    append: Callable[[FloatArray], None],
    options: DenoiseOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Denoises an open recording into `append`. Args and errors as `enhance_file`."""
    peak, limited, frames = 0.0, 0, 0
    rate, limit = recording.stored.sample_rate, recording.stored.limit

    def pieces() -> Iterator[FloatArray]:
        for piece in recording.blocks():
            if progress is not None:
                progress(0.0)  # whoever wants to stop can, also while the level of a long recording is found
            yield piece

    for piece in denoised(pieces, rate, model, options):
        if not np.isfinite(piece).all():
            found = "the answer to it is not finite"
            raise AudioError(f"{recording.path}: {found}, expected numbers; lower its level or leave it out")
        loud = np.abs(piece)
        peak = max(peak, float(loud.max(initial=0.0)))
        limited += int((loud > limit).sum())
        frames += len(piece)
        append(piece)
        if progress is not None:
            progress(len(piece) / rate)
    return Report(frames / rate, peak, limited)


def denoised(
    pieces: Pieces, sample_rate: int, model: Model, options: DenoiseOptions | None = None
) -> Iterator[FloatArray]:
    """The pieces of a denoised signal, (m, C) each, together as long as the signal; it is passed over up to three
    times, the first two to find its level."""
    share = (options or DenoiseOptions()).denoised
    signal = _measure(pieces, sample_rate, model.sample_rate)
    channels = len(signal.levels)
    way_in = Resampler(sample_rate, model.sample_rate, channels, signal.frames)
    stream = Stream(model, signal.levels.tolist())
    way_out = Resampler(model.sample_rate, sample_rate, channels, way_in.length, signal.frames)
    kept = _Kept()

    def mixed(clean: FloatArray) -> FloatArray:
        if share == 1:
            return clean
        return (share * clean + (1 - share) * kept.take(len(clean))).astype(np.float32)

    for piece in pieces():
        if share != 1:
            kept.put(piece)
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
    offsets: FloatArray  # (C,)
    levels: NDArray[np.float64]  # (C,), rms without the offset, at the model's rate


def _measure(pieces: Pieces, sample_rate: int, model_rate: int) -> _Signal:
    frames, total, squares = 0, np.zeros(1), np.zeros(1)
    for piece in pieces():
        frames += len(piece)
        total = total + piece.sum(axis=0, dtype=np.float64)
        squares = squares + np.square(piece, dtype=np.float64).sum(axis=0)
    means, rms = total / frames, np.sqrt(squares / frames)
    there = (np.abs(means) > OFFSET * rms) & (frames >= OFFSET_S * sample_rate)
    offsets = np.where(there, means, 0.0).astype(np.float32)
    if sample_rate == model_rate:
        power = squares / frames - offsets * (2 * means - offsets)
        return _Signal(frames, offsets, np.sqrt(np.maximum(power, 0.0)))
    resampler = Resampler(sample_rate, model_rate, len(means), frames)
    squares = np.zeros(len(means))
    for piece in pieces():
        squares += np.square(resampler.push(piece - offsets), dtype=np.float64).sum(axis=0)
    squares += np.square(resampler.finish(), dtype=np.float64).sum(axis=0)
    return _Signal(frames, offsets, np.sqrt(squares / resampler.length))


class _Kept:
    """Samples that wait to be mixed in."""

    def __init__(self) -> None:
        self._pieces: deque[FloatArray] = deque()

    def put(self, piece: FloatArray) -> None:
        self._pieces.append(piece)

    def take(self, frames: int) -> FloatArray:
        """The next (frames, C)."""
        taken: list[FloatArray] = []
        while frames > 0:
            piece = self._pieces.popleft()
            if len(piece) > frames:
                self._pieces.appendleft(piece[frames:])
            taken.append(piece[:frames])
            frames -= len(taken[-1])
        return np.concatenate(taken) if taken else np.zeros((0, 1), np.float32)


def denoise_job(
    job: DenoiseJob, model: Model | None, options: DenoiseOptions, move: Callable[[float], None]
) -> JobResult:
    """One file. What is wrong with it is in the answer; what is wrong with the model is raised."""
    try:
        fit = model or pretrained.fitting(audio.AudioFile(job.source).stored.sample_rate)
        return JobResult(job, enhance_file(job.source, job.target, fit, options, move), None)
    except AudioError as error:
        return JobResult(job, None, error)
    except DenoiserError:
        raise
    except Exception as error:  # out of memory, or what nobody has thought of: it ends this file, not the run
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return JobResult(job, None, AudioError(f"{job.source}: {found}, expected to be denoised; leave it out"))
