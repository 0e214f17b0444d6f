"""Plans which files a run denoises, and where each result goes."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quell import audio
from quell.atomic import EXISTS
from quell.errors import AudioError
from quell.inference.jobs import DenoiseJob
from quell.inference.journal import Journal


class Plan(NamedTuple):
    """The jobs of a run."""

    jobs: list[DenoiseJob]  # to run
    already_done: list[DenoiseJob]  # finished by an earlier run that was interrupted
    journal: Journal | None  # that records finished jobs; None for a single file
    unread: Counter[str]  # files of sound in the folders that are not read, by their suffix


def plan(inputs: Sequence[Path], output: Path, *, overwrite: bool = False, journal: Journal | None = None) -> Plan:
    """Plans a run: one file to a file or into a folder, folders into a folder with the same tree.

    Raises:
        AudioError: an input is missing or holds no recording, an output exists or is an input, or two inputs have the
            same output.
    """
    try:
        paths = [path for pattern in inputs for path in _matches(pattern)]
        single = (
            len(paths) == 1 and paths[0].is_file() and not output.is_dir() and output.suffix.lower() in audio.SUFFIXES
        )
        if not single and output.exists() and not output.is_dir():
            raise AudioError(f"{output}: is a file, expected a folder; give another -o")
        if not single and not output.exists() and output.suffix.lower() in audio.SUFFIXES:
            found = f"a sound file's name for {'a folder' if len(paths) == 1 else f'{len(paths)} inputs'}"
            raise AudioError(f"{output}: {found}, expected a folder; give another -o")
        if not output.is_dir() and output.suffix.lower() in audio.UNREAD:
            raise AudioError(f"{output}: ends in {output.suffix}, expected .wav, .flac, .ogg or a folder; rename it")
        if single:
            jobs, journal = [DenoiseJob(paths[0], output, overwrite)], None
        else:
            each = dict.fromkeys(job for path in paths for job in _jobs(path, output, journal))
            jobs = [job._replace(overwrite=overwrite) for job in each]
        unread = audio.unread(path for path in paths if path.is_dir())
        already_done = {job: None for job in jobs if journal is not None and journal.is_finished(job)}
        to_run = [job for job in jobs if job not in already_done]
        _check(jobs, to_run, overwrite)
    except OSError as error:  # no permission, or a name that is too long
        path = error.filename or output
        raise AudioError(f"{path}: {error.strerror}, expected a path that can be read; check it") from error
    return Plan(to_run, list(already_done), journal, unread)


def _jobs(path: Path, output: Path, journal: Journal | None) -> list[DenoiseJob]:
    if path.is_dir():
        # When resuming, files that an earlier run wrote below the input folder are not inputs.
        files = [file for file in audio.find(path) if journal is None or not journal.is_output(file)]
        if not files and (unread := audio.unread([path])):
            raise AudioError(f"{path}: {audio.left_out(unread)}")
        if not files:
            raise AudioError(f"{path}: no sound files, expected recordings (WAV, FLAC, Ogg, ...); name another folder")
        return [DenoiseJob(file, output / file.relative_to(path)) for file in files]
    if path.is_file():
        return [DenoiseJob(path, output / path.name)]
    found = "neither a file nor a folder" if path.exists() else "no such file or folder"
    raise AudioError(f"{path}: {found}, expected recordings; check the path")


def _matches(pattern: Path) -> list[Path]:
    """The paths that match a pattern that no shell has expanded; an existing path is itself, whatever its name."""
    if pattern.exists() or not glob.has_magic(str(pattern)):
        return [pattern]
    paths = sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute ones
    if not paths:
        raise AudioError(f"{pattern}: matches nothing, expected recordings; check the pattern")
    return paths


def _check(jobs: Sequence[DenoiseJob], to_run: Sequence[DenoiseJob], overwrite: bool) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    source_of: dict[Path, Path] = {}
    for job in jobs:
        if job.target.exists() and job.source.exists() and job.target.samefile(job.source):
            raise AudioError(f"{job.target}: is the input itself, expected another place; give another -o")
        if os.path.realpath(job.target) in sources:
            raise AudioError(f"{job.target}: is an input, too, expected another place; give another -o")
        if job.target in source_of:
            found = f"output of {source_of[job.target]} and {job.source}"
            raise AudioError(f"{job.target}: {found}, expected one input each; rename one of them")
        source_of[job.target] = job.source
    for job in to_run:
        if job.target.exists() and not overwrite:
            raise AudioError(f"{job.target}: {EXISTS}")
