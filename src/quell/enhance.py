"""Denoising of files and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quell import audio
from quell.errors import AudioError
from quell.export import Exported


@dataclass(frozen=True)
class Job:
    """One file to denoise and where the result goes."""

    source: Path
    target: Path


def plan(inputs: Sequence[Path], output: Path, *, overwrite: bool = False) -> list[Job]:
    """What is to be done: one file to a file or into a folder, folders into a folder with their trees kept.

    Raises:
        AudioError: an input that is missing or holds no recording, an output that exists or is an input.
    """
    single = (
        len(inputs) == 1 and inputs[0].is_file() and not output.is_dir() and output.suffix.lower() in audio.SUFFIXES
    )
    jobs: list[Job] = []
    for given in inputs:
        if given.is_dir():
            found = audio.find(given)
            if not found:
                raise AudioError(
                    f"{given}: no sound files, expected recordings (WAV, FLAC, Ogg, ...); name another folder"
                )
            jobs += [Job(path, output / path.relative_to(given)) for path in found]
        elif given.is_file():
            jobs.append(Job(given, output if single else output / given.name))
        else:
            raise AudioError(f"{given}: no such file or folder, expected recordings; check the path")
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        if job.target.exists() and job.target.samefile(job.source):
            raise AudioError(f"{job.target}: is the input itself, expected another place; give another -o")
        if job.target.resolve() in sources:
            raise AudioError(f"{job.target}: is an input, too, expected another place; give another -o")
        if job.target.exists() and not overwrite:
            raise AudioError(f"{job.target}: exists already, expected a new file; remove it, or give --overwrite")
        if job.target in seen:
            raise AudioError(f"{job.target}: wanted by {seen[job.target]} and {job.source}, expected one input each")
        seen[job.target] = job.source
    return jobs


def run(
    jobs: Sequence[Job], model: Exported, progress: Callable[[int, int], None] | None = None
) -> Iterator[AudioError]:
    """Denoises the files one after the other; a file that fails is yielded as its error, and the others are done."""
    for done, job in enumerate(jobs):
        try:
            enhance_file(job.source, job.target, model)
        except AudioError as error:
            yield error
        if progress is not None:
            progress(done + 1, len(jobs))


def enhance_file(source: Path, target: Path, model: Exported) -> None:
    """Denoises one file; rate, channels, length, container and sub-format are kept.

    Raises:
        AudioError: the file cannot be read, or the result not written.
    """
    samples, stored = audio.read(source)
    if target.suffix.lower() != source.suffix.lower():
        raise AudioError(f"{target}: another format than {source.name}, expected {source.suffix}; rename the output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(f"{target}: {error}, expected a folder that can be made; give another -o") from error
    audio.write(target, enhance(samples, stored.sample_rate, model), stored)


def enhance(samples: audio.FloatArray, sample_rate: int, model: Exported) -> audio.FloatArray:
    """Denoised samples at the rate they came in; every channel by itself.

    Nothing above half the model's rate comes back from a file of a higher rate.

    Shape:
        samples: (T, C), T >= 1. Returns (T, C).
    """
    at_model_rate = audio.resample(samples, sample_rate, model.sample_rate)
    clean = model(torch.from_numpy(np.ascontiguousarray(at_model_rate.T))).numpy().T
    back = audio.resample(np.ascontiguousarray(clean), model.sample_rate, sample_rate)
    if len(back) < len(samples):  # rounded to whole samples on the way
        back = np.concatenate([back, np.zeros((len(samples) - len(back), back.shape[1]), np.float32)])
    return back[: len(samples)]
