"""Several recordings at once: processes that denoise, and what happens when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from quell import batch
from quell.atomic import sweep
from quell.batch import Done, Job
from quell.errors import AudioError, ExportError
from quell.processes import pool
from quell.settings import Mix

POLL_S = 0.2
ATTEMPTS = 2  # a process that was killed by chance, for want of memory say, is not killed by the same file again
PROBED = 50  # recordings whose length is asked for at once


def denoise(
    jobs: Sequence[Job], model: Path, mix: Mix, processes: int, progress: batch.Progress | None
) -> Iterator[Done]:
    """As `batch.run`, beside this process. A job whose process dies is done again, then reported."""
    context = multiprocessing.get_context("spawn")
    passed, stop = context.Value("d", 0.0), context.Event()
    slots = [_Slot(_Begun(model, mix, processes, passed, stop)) for _ in range(processes)]
    try:
        slots[0].load(model)
        seconds = _lengths(slots, [job.source for job in jobs])
        total = sum(seconds.values())
        # The longest first: none of them is left alone at the end.
        waiting = deque(sorted(jobs, key=lambda job: seconds[job.source], reverse=True))
        attempts: Counter[Job] = Counter()
        running: dict[Future[Any], tuple[_Slot, Job]] = {}
        idle = list(slots)
        while waiting or running:
            while waiting and idle:
                slot, job = idle.pop(), waiting.popleft()
                running[slot.submit(_task, job)] = slot, job
            ended, _ = wait(running, POLL_S, FIRST_COMPLETED)
            if progress is not None:
                progress(min(passed.value, total), total)
            for future in ended:
                slot, job = running.pop(future)
                idle.append(slot)
                done = slot.result(future)
                if done is None:
                    sweep([job.target])
                    attempts[job] += 1
                    if attempts[job] < ATTEMPTS:
                        waiting.append(job)
                        continue
                    done = Done(job, None, _killed(job))
                yield done
    finally:
        stop.set()
        for slot in slots:
            slot.close()


def _killed(job: Job) -> AudioError:
    found = f"the process that denoised it was killed {ATTEMPTS} times"
    return AudioError(f"{job.source}: {found}, expected it to end by itself; try --jobs 1, or leave it out")


def _lengths(slots: Sequence[_Slot], paths: Sequence[Path]) -> dict[Path, float]:
    """Seconds of sound in each, 0 where they are not known; for the progress bar."""
    seconds = dict.fromkeys(paths, 0.0)
    parts = deque(paths[start : start + PROBED] for start in range(0, len(paths), PROBED))
    running: dict[Future[Any], tuple[_Slot, Sequence[Path]]] = {}
    idle = list(slots)
    while parts or running:
        while parts and idle:
            slot, part = idle.pop(), parts.popleft()
            running[slot.submit(_probe, part)] = slot, part
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            slot, part = running.pop(future)
            idle.append(slot)
            seconds |= zip(part, slot.result(future) or [], strict=False)
    return seconds


class _Begun(NamedTuple):
    """What a process is given when it starts."""

    model: Path
    mix: Mix
    processes: int
    passed: Any  # multiprocessing.Value: seconds done by all
    stop: Any  # multiprocessing.Event


class _Slot:
    """One process, and another when it died: in a pool of several nobody knows which job killed it."""

    def __init__(self, begun: _Begun) -> None:
        self._begun = begun
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        return pool(1, _begin, self._begun)

    def submit(self, call: Callable[..., Any], *given: Any) -> Future[Any]:
        # The process starts here. Until it has Python running, and says so itself, a Ctrl-C would end it with a
        # traceback: it inherits that it waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(call, *given)
        except BrokenProcessPool:
            self._renew()
            return self._pool.submit(call, *given)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def result(self, future: Future[Any]) -> Any:
        """What was made; None when the process died."""
        try:
            return future.result()
        except BrokenProcessPool:
            self._renew()
            return None

    def load(self, model: Path) -> None:
        """Raises what is wrong with the model."""
        if self.result(self.submit(_ready)) is None:
            found = "the process that loads it is killed"
            raise ExportError(f"{model}: {found}, expected a file made by `quell export`; look for free memory")

    def _renew(self) -> None:
        self.close()
        self._pool = self._new()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


# --- what such a process has, and does ---


class _Stopped(BaseException):
    """The run was interrupted, or this process is asked to leave."""


_own: list[_Begun] = []
_model: list[Any] = []
_busy: list[Job] = []


def _begin(begun: _Begun) -> None:
    _own.append(begun)
    signal.signal(signal.SIGTERM, _leave)
    # Decoders print what they find strange, some of them to the standard output; Python's standard error goes on.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.close(silence)


def _leave(*_: object) -> None:
    if not _busy:
        os._exit(143)
    raise _Stopped


def _ready() -> bool:
    """Loads the model, once."""
    if not _model:
        import torch

        from quell.model import load

        (own,) = _own
        if own.processes > 1:
            torch.set_num_threads(1)
        _model.append(load(own.model))
    return True


def _probe(paths: Sequence[Path]) -> list[float]:
    return [0.0 if own.stop.is_set() else batch.seconds(path) for own in _own for path in paths]


def _task(job: Job) -> Done | None:
    (own,) = _own

    def move(seconds: float) -> None:
        if seconds:
            with own.passed.get_lock():
                own.passed.value += seconds
        if own.stop.is_set():
            raise _Stopped

    _busy.append(job)
    try:
        _ready()
        return batch.do(job, _model[0], own.mix, move)
    except _Stopped:  # its half-written file is gone
        return None
    finally:
        _busy.clear()
