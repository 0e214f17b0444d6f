"""Many recordings: what goes where, and each of them done, whatever the others are."""

from __future__ import annotations

import glob
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

from quell import audio
from quell.atomic import sweep
from quell.errors import AudioError
from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult, seconds
from quell.inference.journal import Journal
from quell.progress import Progress


class Plan(NamedTuple):
    """What is to be done."""

    jobs: list[DenoiseJob]
    done: list[DenoiseJob]  # by a run that was interrupted
    journal: Journal | None  # where they are noted; None for a single file


def plan(inputs: Sequence[Path], output: Path, *, overwrite: bool = False, journal: Journal | None = None) -> Plan:
    """What is to be done: one file to a file or into a folder, folders into a folder with their trees kept.

    Raises:
        AudioError: an input that is missing or holds no recording, an output that exists or is an input.
    """
    try:
        found = [path for given in inputs for path in _matches(given)]
        single = (
            len(found) == 1 and found[0].is_file() and not output.is_dir() and output.suffix.lower() in audio.SUFFIXES
        )
        if not single and output.exists() and not output.is_dir():
            raise AudioError(f"{output}: is a file, expected a folder; give another -o")
        if single:
            jobs, journal = [DenoiseJob(found[0], output)], None
        else:
            jobs = list(dict.fromkeys(job for given in found for job in _jobs(given, output, journal)))
        done = [job for job in jobs if journal is not None and journal.finished(job)]
        before = set(done)
        left = [job for job in jobs if job not in before]
        _check(jobs, left, overwrite)
    except OSError as error:  # no right to look, or a name that is too long
        where = error.filename or output
        raise AudioError(f"{where}: {error.strerror}, expected a path that can be read; check it") from error
    return Plan(left, done, journal)


def _jobs(given: Path, output: Path, journal: Journal | None) -> list[DenoiseJob]:
    if given.is_dir():
        # An output folder inside of the input is no input when an interrupted run goes on.
        found = [path for path in audio.find(given) if journal is None or not journal.made(path)]
        if not found:
            raise AudioError(f"{given}: no sound files, expected recordings (WAV, FLAC, Ogg, ...); name another folder")
        return [DenoiseJob(path, output / path.relative_to(given)) for path in found]
    if given.is_file():
        return [DenoiseJob(given, output / given.name)]
    found_there = "neither a file nor a folder" if given.exists() else "no such file or folder"
    raise AudioError(f"{given}: {found_there}, expected recordings; check the path")


def _matches(given: Path) -> list[Path]:
    """The paths of a pattern that no shell has expanded; a path that is there is itself, whatever it looks like."""
    if given.exists() or not glob.has_magic(str(given)):
        return [given]
    found = sorted(map(Path, glob.glob(str(given), recursive=True)))  # noqa: PTH207 - Path.glob knows no absolute ones
    if not found:
        raise AudioError(f"{given}: matches nothing, expected recordings; check the pattern")
    return found


def _check(jobs: Sequence[DenoiseJob], left: Sequence[DenoiseJob], overwrite: bool) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        if job.target.exists() and job.source.exists() and job.target.samefile(job.source):
            raise AudioError(f"{job.target}: is the input itself, expected another place; give another -o")
        if os.path.realpath(job.target) in sources:
            raise AudioError(f"{job.target}: is an input, too, expected another place; give another -o")
        if job.target in seen:
            raise AudioError(f"{job.target}: wanted by {seen[job.target]} and {job.source}, expected one input each")
        seen[job.target] = job.source
    for job in left:
        if job.target.exists() and not overwrite:
            raise AudioError(f"{job.target}: exists already, expected a new file; remove it, or give --overwrite")


def run(
    jobs: Sequence[DenoiseJob],
    model: Path | None,
    options: DenoiseOptions,
    processes: int = 0,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Generator[JobResult]:
    """Denoises the files, several at once, and yields each as it ends; one that fails keeps no other from being done.

    Close it when you leave before its end: files that are half written go.

    Args:
        model: an exported file; without one each recording gets the denoiser of `quell.inference.pretrained` that fits
            its rate.
        processes: how many files at once, each in a process of its own, which a damaged file may end; a single one has
            all threads. With 0 in this process.
        journal: told of the jobs when the first of them begins.

    Raises:
        ExportError: the model cannot be loaded.
    """
    sweep(job.target for job in jobs)
    if not jobs:
        return
    if processes:
        from quell.inference.process_pool import denoise

        yield from denoise(jobs, model, options, min(processes, len(jobs)), progress, journal)
        return
    from quell.export.exported_model import load
    from quell.inference.enhancement import denoise_job

    loaded, total, passed = None if model is None else load(model), sum(seconds(job.source) for job in jobs), 0.0
    if journal is not None:
        journal.begin(jobs)

    def move(more: float) -> None:
        nonlocal passed
        passed += more
        if progress is not None:
            progress(min(passed, total), total)

    for job in jobs:
        yield denoise_job(job, loaded, options, move)
