"""Several recordings at once: processes that denoise, and what happens when one of them dies or stands still.

They share no lock: one that died while it held it would stop them all.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from quell.atomic import sweep
from quell.errors import AudioError, ExportError
from quell.inference import denoising_process, pretrained
from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult
from quell.inference.journal import Journal
from quell.processes import pool
from quell.progress import Progress

POLL_S = 0.2
ATTEMPTS = 2  # a process that was killed by chance, for want of memory say, is not killed by the same file again
PROBED = 50  # recordings whose length is asked for at once
STOP_GRACE_S = 30.0  # for a process to notice that the run was interrupted, which it does between two steps
STALLED_S = 600.0  # without a sign of life; 8 s of sound and the passes over them are one


def denoise(
    jobs: Sequence[DenoiseJob],
    model: Path | None,
    options: DenoiseOptions,
    processes: int,
    progress: Progress | None,
    journal: Journal | None,
) -> Iterator[JobResult]:
    """As `batch.run`, beside this process. A job whose process dies is done again, then reported."""
    stop = multiprocessing.get_context("spawn").RawValue(ctypes.c_bool, False)
    slots = [_Slot(model, options, processes, stop) for _ in range(processes)]
    try:
        slots[0].load()
        seconds = _lengths(slots, [job.source for job in jobs])
        total = sum(seconds.values())
        if journal is not None:
            journal.begin(jobs)

        def look() -> None:
            if progress is not None:
                progress(min(sum(slot.signs.seconds for slot in slots), total), total)

        # The longest first: none of them is left alone at the end.
        waiting = deque(sorted(jobs, key=lambda job: seconds[job.source], reverse=True))
        attempts: Counter[DenoiseJob] = Counter()
        for job, done, stalled in _spread(slots, denoising_process.denoise, waiting, look):
            if done is not None:
                yield done
                continue
            sweep([job.target])
            attempts[job] += 1
            if stalled or attempts[job] == ATTEMPTS:
                yield JobResult(job, None, _lost(job, stalled))
            else:
                waiting.append(job)
    finally:
        stop.value = True
        deadline = time.monotonic() + STOP_GRACE_S
        for slot in slots:
            slot.close(deadline)
        sweep(job.target for job in jobs)


def _lost(job: DenoiseJob, stalled: bool) -> AudioError:
    found = f"the process that denoised it was killed {ATTEMPTS} times"
    if stalled:
        found = f"nothing came of it for {STALLED_S:.0f} s"
    return AudioError(f"{job.source}: {found}, expected it to be denoised; try --jobs 1, or leave it out")


def _lengths(slots: Sequence[_Slot], paths: Sequence[Path]) -> dict[Path, float]:
    """Seconds of sound in each, 0 where they are not known; for the progress bar."""
    seconds = dict.fromkeys(paths, 0.0)
    parts = deque(paths[start : start + PROBED] for start in range(0, len(paths), PROBED))
    for part, found, _ in _spread(slots, denoising_process.lengths, parts):
        seconds |= zip(part, found or [], strict=False)
    return seconds


def _spread(
    slots: Sequence[_Slot], call: Callable[[Any], Any], waiting: deque[Any], look: Callable[[], None] = lambda: None
) -> Iterator[tuple[Any, Any, bool]]:
    """Calls for all that waits, also what is appended meanwhile; yields each with what was made of it, or None when
    its process died, and whether it had stood still. Looks at times."""
    running: dict[Future[Any], tuple[_Slot, Any]] = {}
    idle = list(slots)
    while waiting or running:
        while waiting and idle:
            slot, given = idle.pop(), waiting.popleft()
            running[slot.submit(call, given)] = slot, given
        ended = wait(running, POLL_S, FIRST_COMPLETED).done
        look()
        for future in ended:
            slot, given = running.pop(future)
            idle.append(slot)
            yield given, *slot.result(future)
        for slot, _ in running.values():
            slot.kill_if_stalled()


class _Slot:
    """One process, and another when it died: in a pool of several nobody knows which job killed it."""

    def __init__(self, model: Path | None, options: DenoiseOptions, processes: int, stop: Any) -> None:
        self.signs: Any = multiprocessing.get_context("spawn").RawValue(denoising_process.SharedState)
        self._begun = denoising_process.Setup(model, options, processes, stop, self.signs)
        self._fresh()
        self._pool = self._new()

    def _fresh(self) -> None:
        self.signs.busy, self._stalled = False, False
        self._steps, self._still_s, self._looked = 0, 0.0, time.monotonic()

    def _new(self) -> ProcessPoolExecutor:
        return pool(1, denoising_process.begin, self._begun)

    def submit(self, call: Callable[..., Any], *given: Any) -> Future[Any]:
        try:
            return self._pool.submit(call, *given)
        except BrokenProcessPool:
            self._renew()
            return self._pool.submit(call, *given)

    def result(self, future: Future[Any]) -> tuple[Any, bool]:
        """What was made, or None when the process died; and whether it was killed because it stood still."""
        try:
            return future.result(), False
        except BrokenProcessPool:
            stalled = self._stalled
            self._renew()
            return None, stalled

    def load(self) -> None:
        """Raises what is wrong with the model."""
        if self.result(self.submit(denoising_process.load_model))[0] is None:
            found = "the process that loads it is killed"
            needed = "expected a file made by `quell export`; look for free memory"
            raise ExportError(f"{self._begun.model or pretrained.FOLDER}: {found}, {needed}")

    def kill_if_stalled(self) -> None:
        """To be called every now and then. Time in which nobody called does not count: this process was stopped, too,
        by Ctrl-Z or with the whole machine."""
        now, steps = time.monotonic(), self.signs.steps
        moved = steps != self._steps or not self.signs.busy
        self._still_s = 0.0 if moved else self._still_s + min(now - self._looked, 2 * POLL_S)
        self._steps, self._looked = steps, now
        if self._still_s > STALLED_S and not self._stalled:
            self._stalled = True
            self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.signs.pid, signal.SIGKILL)

    def _renew(self) -> None:
        self._pool.shutdown()
        self._fresh()
        self._pool = self._new()

    def close(self, deadline: float) -> None:
        """Waits for the process until `deadline` (time.monotonic()), then ends it."""
        try:
            while self.signs.busy and time.monotonic() < deadline:
                time.sleep(POLL_S / 10)
        finally:
            if self.signs.busy:
                self._kill()
        self._pool.shutdown()
