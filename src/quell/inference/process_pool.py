"""Denoises several files at once in processes, and replaces those that crash or stall.

Each process is a pool of its own, so that it is known which file a stalled one denoises. `pebble.ProcessPool` 5.2.3 was
tried instead: half the lines (146 for 289) and the same start-up (40 files by two processes: 6.3 s of CPU time, here
7.0 s, means of 3), but a process killed while it handed over its result stopped the others for 120 s, and one killed
while idle broke the whole pool.
"""

import ctypes
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from quell.atomic import sweep
from quell.child_processes.child_pool import ChildPool
from quell.errors import AudioError, ExportError, ProcessError
from quell.inference import denoising_process, pretrained
from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult
from quell.inference.journal import Journal
from quell.progress import Progress, ignore

POLL_S = 0.2
ATTEMPTS = 2  # a process killed by chance, as for want of memory, is not killed by the same file again
LENGTHS_AT_ONCE = 50  # files
STOP_GRACE_S = 30.0  # for a process to notice the end of the run, which it does between two blocks
LOADING_S = 300.0  # for the model: torch takes 3 s, on a machine that swaps a minute
STALLED_S = 600.0  # without progress, which a process reports at least every 8 s of audio


class _Slot:
    """One process, started again when it died.

    Attributes:
        killed: by the system at least once, probably for want of memory.
    """

    def __init__(self, model: Path | None, options: DenoiseOptions, processes: int, stop: Any) -> None:
        self.state: Any = multiprocessing.get_context("spawn").RawValue(denoising_process.SharedState)
        self._model = model or pretrained.FOLDER
        setup = denoising_process.Setup(model, options, processes, stop, self.state)
        self._child = ChildPool(1, denoising_process.begin, setup, attempts=1)
        self.killed = False
        self._reset()

    def _reset(self) -> None:
        self.state.busy = self.state.loading = self.state.named = self._stalled = False
        self._steps, self._still_s, self._polled = 0, 0.0, time.monotonic()

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._child.submit(str(self._model), call, *arguments)

    def result(self, future: Future[Any]) -> tuple[Any, bool]:
        """The result of a call, None when the process died; and whether it was killed because it stalled."""
        try:
            return future.result(), False
        except ProcessError as error:
            stalled = self._stalled
            self.killed = self.killed or (error.of_memory and not stalled)
            self._reset()
            return None, stalled

    def load_model(self) -> None:
        """Loads the model in the process; raises ExportError when it cannot be loaded, or not within LOADING_S."""
        found = f"the process that loads it was killed {ATTEMPTS} times"
        for _ in range(ATTEMPTS):
            future = self.submit(denoising_process.load_model)
            while not wait([future], POLL_S).done:
                self.kill_if_stalled()
            loaded, stalled = self.result(future)
            if loaded is not None:
                return
            if stalled:
                found = f"not loaded in {LOADING_S:.0f} s"
                break
        needed = "expected a file made by `quell export`; look for free memory"
        raise ExportError(f"{self._model}: {found}, {needed}")

    def kill_if_stalled(self) -> None:
        """Kills the process after STALLED_S without progress, or LOADING_S of loading, measured between calls of this
        method.

        Longer gaps between calls do not count: then this process was stopped, too, by Ctrl-Z or a suspended machine.
        """
        now, steps = time.monotonic(), self.state.steps
        loading = self.state.loading
        progressed = steps != self._steps or not (self.state.busy or loading)
        self._still_s = 0.0 if progressed else self._still_s + min(now - self._polled, 2 * POLL_S)
        self._steps, self._polled = steps, now
        if self._still_s > (LOADING_S if loading else STALLED_S) and not self._stalled:
            self._stalled = True
            self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.state.pid, signal.SIGKILL)

    def _works(self) -> bool:
        return bool(self.state.busy or self.state.loading)

    def close(self, deadline: float) -> None:
        """Waits until `deadline` (time.monotonic()) for the process to end its file, then kills it."""
        try:
            while self._works() and time.monotonic() < deadline:
                time.sleep(POLL_S / 10)
        finally:
            if self._works():
                self._kill()
        self._child.close()


def denoise(
    jobs: Sequence[DenoiseJob],
    model: Path | None,
    options: DenoiseOptions,
    processes: int,
    progress: Progress = ignore,
    journal: Journal | None = None,
) -> Generator[JobResult]:
    """Denoises the files and yields each result as it ends; a failure does not stop the others.

    A job whose process dies runs once more, then is reported as failed. Close the generator to stop early; partial
    outputs are then removed.

    Args:
        model: an exported file; without one each recording gets the denoiser of `quell.inference.pretrained` that fits
            its rate.
        processes: how many files at once, each in a process of its own, which a damaged file may crash; a single
            process uses all threads.
        progress: called with (seconds of audio denoised, seconds in all).
        journal: records the jobs before the first of them begins.

    Raises:
        ExportError: the model cannot be loaded.
    """
    sweep(job.target for job in jobs)
    if not jobs:
        return
    processes = min(processes, len(jobs))
    stop = multiprocessing.get_context("spawn").RawValue(ctypes.c_bool, False)
    slots = [_Slot(model, options, processes, stop) for _ in range(processes)]
    try:
        slots[0].load_model()
        lengths_s = _lengths_s(slots, [job.source for job in jobs])
        total_s = sum(lengths_s.values())
        if journal is not None:
            journal.begin(jobs)

        def report() -> None:
            progress(min(sum(slot.state.seconds for slot in slots), total_s), total_s)

        # The longest first, so that none of them runs at the end while the other processes are idle.
        queue = deque(sorted(jobs, key=lambda job: lengths_s[job.source], reverse=True))
        attempts: Counter[DenoiseJob] = Counter()
        for job, result, stalled in _spread(slots, denoising_process.denoise, queue, report):
            if result is not None:
                yield result
                continue
            sweep([job.target])
            attempts[job] += 1
            if stalled or attempts[job] == ATTEMPTS:
                reason = f"the process that denoised it was killed {ATTEMPTS} times"
                if stalled:
                    reason = f"no progress in {STALLED_S:.0f} s"
                needed = "expected it to be denoised; try --jobs 1, or leave it out"
                yield JobResult(job, None, AudioError(f"{job.source}: {reason}, {needed}"))
            else:
                queue.append(job)
    finally:
        stop.value = True
        deadline = time.monotonic() + STOP_GRACE_S
        for slot in slots:
            slot.close(deadline)
        sweep(job.target for job in jobs)


def _lengths_s(slots: Sequence[_Slot], paths: Sequence[Path]) -> dict[Path, float]:
    """Seconds of audio in each file, for the progress bar; 0 where it cannot be read."""
    lengths_s = dict.fromkeys(paths, 0.0)
    queue = deque(paths[start : start + LENGTHS_AT_ONCE] for start in range(0, len(paths), LENGTHS_AT_ONCE))
    for chunk, result, _ in _spread(slots, denoising_process.lengths_s, queue):
        lengths_s |= zip(chunk, result or [], strict=False)
    return lengths_s


def _spread(
    slots: Sequence[_Slot], call: Callable[[Any], Any], queue: deque[Any], report: Callable[[], None] = ignore
) -> Iterator[tuple[Any, Any, bool]]:
    """Calls `call` in the slots' processes with each argument of the queue, which may grow meanwhile.

    Yields (argument, result, stalled) as calls end; the result is None where the process died. `report` is called
    every POLL_S. A slot whose process the system killed is left out while there are others.
    """
    running: dict[Future[Any], tuple[_Slot, Any]] = {}
    idle = [slot for slot in slots if not slot.killed] or [slots[0]]
    while queue or running:
        while queue and idle:
            slot, argument = idle.pop(), queue.popleft()
            running[slot.submit(call, argument)] = slot, argument
        ended = wait(running, POLL_S, FIRST_COMPLETED).done
        report()
        for future in ended:
            slot, argument = running.pop(future)
            has_named = slot.state.named  # of a process that died: its report is lost, and the file is made again
            result, stalled = slot.result(future)
            if result is None and has_named:
                argument.target.unlink(missing_ok=True)
            if not (slot.killed and (idle or running)):
                idle.append(slot)
            yield argument, result, stalled
        for slot, _ in running.values():
            slot.kill_if_stalled()
