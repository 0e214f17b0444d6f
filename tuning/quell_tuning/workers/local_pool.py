"""Local workers: launch, watch, launch again, stop."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quell.processes import cores
from quell_tuning import environment
from quell_tuning.errors import WorkerError
from quell_tuning.trials.budget import Slots
from quell_tuning.workers.supervisor import BACK_OFF_S, DEATHS, LEFT, STOP_GRACE_S, Supervisor, last_line


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


@dataclass(kw_only=True)
class Pool(Supervisor):
    """Worker processes on this machine, one for each of `devices`, until the budget is used up.

    Args:
        command: of a worker, without its device.
        environment: added to this process's own; holds the storage URL, which may carry a password.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    devices: Sequence[str]
    logs: Path
    _workers: list[_Worker] = field(default_factory=list, init=False)

    def begin(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._workers = [_Worker(number, device) for number, device in enumerate(self.devices)]

    def workers(self) -> Sequence[tuple[str, int | None]]:
        return [worker.shown() for worker in self._workers]

    def progressed(self) -> None:
        for worker in self._workers:
            worker.deaths = 0

    def tend(self, slots: Slots) -> None:
        for worker in self._workers[: slots.left]:
            self._tend(worker, bool(slots.waiting or slots.empty))

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
        threads = max(1, cores() // len(self._workers))
        variables = {
            **os.environ,
            **self.environment,
            "OMP_NUM_THREADS": str(threads),
            environment.POOL.name: str(os.getpid()),
        }
        with self._log(worker.number).open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then asks the workers to leave.
            return subprocess.Popen(
                [*self.command, "--device", worker.device],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def dismiss(self) -> None:
        alive = [worker.process for worker in self._workers if worker.process is not None and worker.alive()]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()

    def _log(self, place: int) -> Path:
        return self.logs / f"worker-{place}.log"

    def _last_words(self, place: int, code: int, deaths: int) -> str:
        said = last_line(self._log(place).read_text(errors="replace"))
        return (
            f"worker {place}: exit code {code}, {deaths} deaths with no trial ended; it last said: {said}; "
            f"see {self._log(place)}"
        )
