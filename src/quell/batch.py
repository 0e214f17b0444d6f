"""Many recordings: what goes where, several at once, and going on where an interrupted run stopped."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quell import audio
from quell.errors import AudioError, DenoiserError
from quell.processes import pool

if TYPE_CHECKING:
    from quell.enhance import Mix, Report
    from quell.model import Model

JOURNAL = ".quell-denoise.jsonl"
POLL_S = 0.2

Progress = Callable[[float, float], None]  # seconds of sound done, seconds in all


@dataclass(frozen=True)
class Job:
    """One file to denoise and where the result goes."""

    source: Path
    target: Path


class Done(NamedTuple):
    """A job that ended: with a report, or with what is wrong with its file."""

    job: Job
    report: Report | None
    error: AudioError | None


class Journal:
    """What an interrupted run finished, in a hidden file of the output folder, so that it is not done again.

    A finished file counts while its source, the model and the settings are the same.

    Args:
        how: the model and the settings, in words.
    """

    def __init__(self, output: Path, how: str) -> None:
        folder = output if output.suffix.lower() not in audio.SUFFIXES or output.is_dir() else output.parent
        self.path = folder / JOURNAL
        self.how = how
        self._known: set[str] = set()
        with suppress(OSError, UnicodeDecodeError):
            self._known = set(self.path.read_text().splitlines())

    def finished(self, job: Job) -> bool:
        return job.target.exists() and self._line(job) in self._known

    def note(self, job: Job) -> None:
        line = self._line(job)
        if line is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line + "\n")

    def close(self) -> None:
        """All is done: a run that comes later is another one."""
        self.path.unlink(missing_ok=True)

    def _line(self, job: Job) -> str | None:
        try:
            found = job.source.stat()
        except OSError:
            return None
        where = [str(job.source.resolve()), str(job.target.resolve())]
        return json.dumps([*where, found.st_size, found.st_mtime_ns, self.how])


def how(model: Path, mix: Mix) -> str:
    """What decides, besides the recording, what comes out."""
    return json.dumps([hashlib.sha256(model.read_bytes()).hexdigest()[:16], asdict(mix)])


def plan(
    inputs: Sequence[Path], output: Path, *, overwrite: bool = False, journal: Journal | None = None
) -> tuple[list[Job], int]:
    """What is to be done: one file to a file or into a folder, folders into a folder with their trees kept. And how
    many files an interrupted run has done before.

    Raises:
        AudioError: an input that is missing or holds no recording, an output that exists or is an input.
    """
    inputs = [path for given in inputs for path in _matches(given)]
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
    left = [job for job in jobs if journal is None or not journal.finished(job)]
    _check(jobs, left, overwrite)
    return left, len(jobs) - len(left)


def _matches(given: Path) -> list[Path]:
    """The paths of a pattern that no shell has expanded; a path that is there is itself, whatever it looks like."""
    if given.exists() or not glob.has_magic(str(given)):
        return [given]
    found = sorted(map(Path, glob.glob(str(given), recursive=True)))  # noqa: PTH207 - Path.glob knows no absolute ones
    if not found:
        raise AudioError(f"{given}: matches nothing, expected recordings; check the pattern")
    return found


def _check(jobs: Sequence[Job], left: Sequence[Job], overwrite: bool) -> None:
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        if job.target.exists() and job.target.samefile(job.source):
            raise AudioError(f"{job.target}: is the input itself, expected another place; give another -o")
        if job.target.resolve() in sources:
            raise AudioError(f"{job.target}: is an input, too, expected another place; give another -o")
        if job.target in seen:
            raise AudioError(f"{job.target}: wanted by {seen[job.target]} and {job.source}, expected one input each")
        seen[job.target] = job.source
    for job in left:
        if job.target.exists() and not overwrite:
            raise AudioError(f"{job.target}: exists already, expected a new file; remove it, or give --overwrite")


def run(
    jobs: Sequence[Job], model: Path, mix: Mix, processes: int = 1, progress: Progress | None = None
) -> Iterator[Done]:
    """Denoises the files, several at once, and yields each as it ends; one that fails keeps no other from being done.

    Args:
        model: an exported file.
        processes: how many files at once; with 1 in this process, with all of its threads.

    Raises:
        ExportError: the model cannot be loaded.
    """
    from quell.model import load

    total = sum(map(_seconds, jobs))
    processes = min(processes, len(jobs))
    if processes > 1:
        yield from _beside(jobs, model, mix, processes, total, progress)
        return
    loaded, passed = load(model), 0.0

    def move(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        if progress is not None:
            progress(min(passed, total), total)

    for job in jobs:
        yield _do(job, loaded, mix, move)


def _do(job: Job, model: Model, mix: Mix, move: Callable[[float], None]) -> Done:
    from quell.enhance import enhance_file

    try:
        return Done(job, enhance_file(job.source, job.target, model, mix, move), None)
    except AudioError as error:
        return Done(job, None, error)


def _seconds(job: Job) -> float:
    """For the progress bar; what is wrong with a file is said when it is its turn."""
    try:
        recording = audio.Recording(job.source)
    except DenoiserError:
        return 0.0
    return recording.frames / recording.stored.sample_rate


# --- several at once: what a process of the pool has, and does ---


class _Stopped(BaseException):
    """The run was interrupted."""


class _Beside(NamedTuple):
    model: Model
    mix: Mix
    passed: Any  # multiprocessing.Value: seconds done by all
    stop: Any  # multiprocessing.Event


_own: list[_Beside] = []


def _begin(model: Path, mix: Mix, passed: Any, stop: Any) -> None:
    import torch

    from quell.model import load

    torch.set_num_threads(1)
    _own.append(_Beside(load(model), mix, passed, stop))


def _task(job: Job) -> Done | None:
    (own,) = _own

    def move(seconds: float) -> None:
        with own.passed.get_lock():
            own.passed.value += seconds
        if own.stop.is_set():
            raise _Stopped

    try:
        return _do(job, own.model, own.mix, move)
    except _Stopped:  # its half-written file is gone
        return None


def _beside(
    jobs: Sequence[Job], model: Path, mix: Mix, processes: int, total: float, progress: Progress | None
) -> Iterator[Done]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    passed, stop = context.Value("d", 0.0), context.Event()
    workers = pool(processes, _begin, model, mix, passed, stop)
    try:
        # The longest first: none of them is left alone at the end.
        pending: set[Future[Done | None]] = {
            workers.submit(_task, job) for job in sorted(jobs, key=_seconds, reverse=True)
        }
        while pending:
            ended, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            if progress is not None:
                progress(min(passed.value, total), total)
            for future in ended:
                done = future.result()
                if done is not None:
                    yield done
    finally:
        stop.set()
        workers.shutdown(cancel_futures=True)


def cores() -> int:
    """Files at once unless somebody says otherwise."""
    return len(os.sched_getaffinity(0))
