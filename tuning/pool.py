"""Local workers: launch, watch, launch again, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tuning.budget import Budget, Slots
from tuning.errors import StorageError, TrialsFailed, WorkerError
from tuning.shown import Shown
from tuning.worker import POOL

POLL_S = 0.5
# A worker checks for a notice at every step and then hands its trial back; after this it is ended the hard way.
GRACE_S = 10.0
# Deaths of one worker in a row, with no trial of anybody ended between them.
DEATHS = 3
# Before a worker that died is started again; doubled with every death in a row.
BACK_OFF_S = 0.5
LAST_WORD_S = 2.0  # a database that is away at the end is waited for so long
LEFT = (130, 143)  # exit codes of a worker that was asked to leave


@dataclass
class _Worker:
    """One of the places of the pool, and the process that it has now."""

    number: int
    device: str
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    not_before: float = 0.0  # time.monotonic()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def shown(self) -> tuple[str, int | None]:
        return f"{self.number} on {self.device}", self.process.pid if self.process else None


@dataclass
class Pool:
    """Worker processes on this machine, one for each of `devices`, until the budget is used up.

    Args:
        command: of a worker, without its device.
        environment: added to this process's own; holds the storage URL, which may carry a password.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    devices: Sequence[str]
    logs: Path
    budget: Budget
    shown: Shown
    _workers: list[_Worker] = field(default_factory=list)
    _signal: int | None = None

    def run(self) -> int:
        """Runs the study to its end; returns 0, or 130 or 143 when this process was asked to stop.

        Raises:
            WorkerError: a worker dies again and again and no trial ends.
            TrialsFailed: the last trials failed alike.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        self._workers = [_Worker(number, device) for number, device in enumerate(self.devices)]
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.shown:
                self._watch()
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + self._signal if self._signal else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            for worker in self._workers:
                if worker.process is not None:
                    worker.process.kill()
            os._exit(130)
        self._signal = number

    def _asked(self) -> None:
        if self._signal is not None:
            raise _Asked

    def _watch(self) -> None:
        ended = -1
        with suppress(_Asked), self.budget.storage.waiting(unless=self._asked):
            while True:
                self._asked()
                slots = self.budget.keep()
                self.shown.show(slots, [worker.shown() for worker in self._workers])
                if slots.left == 0:
                    return
                if len(slots.ended) > ended:
                    ended = len(slots.ended)
                    self._progress(slots)
                for worker in self._workers[: slots.left]:
                    self._tend(worker, bool(slots.waiting or slots.empty))
                time.sleep(POLL_S)

    def _progress(self, slots: Slots) -> None:
        for worker in self._workers:
            worker.deaths = 0
        reason = self.budget.fault(slots)
        if reason:
            raise TrialsFailed(
                f"study {self.budget.study.study_name!r}: the last trials all failed: {reason}, expected trials that "
                "train; change the study file, or run the same again to go on regardless"
            )

    def _tend(self, worker: _Worker, work: bool) -> None:
        """Notes a death, and starts the worker again when it is time and there is work."""
        if worker.alive():
            return
        if worker.process is not None:
            code, worker.process = worker.process.returncode, None
            if code != 0 and code not in LEFT:
                worker.deaths += 1
                worker.not_before = time.monotonic() + BACK_OFF_S * 2 ** (worker.deaths - 1)
                if worker.deaths >= DEATHS:
                    raise WorkerError(self._last_words(worker.number, code, worker.deaths))
        if work and time.monotonic() >= worker.not_before:
            worker.process = self._launch(worker)

    def _launch(self, worker: _Worker) -> subprocess.Popen[bytes]:
        threads = max(1, len(os.sched_getaffinity(0)) // len(self._workers))
        environment = {
            **os.environ,
            **self.environment,
            "OMP_NUM_THREADS": str(threads),
            POOL: str(os.getpid()),
        }
        with self._log(worker.number).open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then asks the workers to leave.
            return subprocess.Popen(
                [*self.command, "--device", worker.device],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _stop(self) -> None:
        alive = [worker.process for worker in self._workers if worker.process is not None and worker.alive()]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with suppress(StorageError), self.budget.storage.waiting(at_most_s=LAST_WORD_S, unless=lambda: None):
            self.budget.keep()  # the workers are gone: what they left is replaced, what is superfluous ended

    def _log(self, place: int) -> Path:
        return self.logs / f"worker-{place}.log"

    def _last_words(self, place: int, code: int, deaths: int) -> str:
        lines = self._log(place).read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "nothing"
        return (
            f"worker {place}: exit code {code}, {deaths} deaths with no trial ended; it last said: {said}; "
            f"see {self._log(place)}"
        )


class _Asked(BaseException):
    """This process was asked to stop."""
