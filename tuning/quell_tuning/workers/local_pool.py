"""Workers on this machine, one process for each of the devices that are given."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from quell.processes import cores
from quell_tuning import environment
from quell_tuning.errors import WorkerError
from quell_tuning.trials.budget import Slots
from quell_tuning.workers.supervisor import Supervisor
from quell_tuning.workers.worker_process import DEATHS, WorkerProcess, stop


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
    _workers: list[WorkerProcess] = field(default_factory=list, init=False)
    _progress: tuple[int, float] = field(default=(0, 0.0), init=False)  # at the last look

    def begin(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        variables = {
            **os.environ,
            **self.environment,
            "OMP_NUM_THREADS": str(max(1, cores() // len(self.devices))),
            environment.POOL.name: str(os.getpid()),
        }
        self._workers = [
            WorkerProcess(
                [*self.command, "--device", device],
                variables,
                self.logs / f"worker-{number}.log",
                tell=partial(self._tell, number),
            )
            for number, device in enumerate(self.devices)
        ]

    def _tell(self, number: int, text: str) -> None:
        self.view.console.print(f"worker {number}: {text}", highlight=False, markup=False, soft_wrap=True)

    def workers(self) -> Sequence[tuple[str, int | None]]:
        pairs = zip(self._workers, self.devices, strict=True)
        return [
            (f"{number} on {device}", worker.process.pid if worker.process else None)
            for number, (worker, device) in enumerate(pairs)
        ]

    def tend(self, slots: Slots) -> None:
        if slots.progress > self._progress:
            self._progress = slots.progress
            for worker in self._workers:
                worker.deaths = 0
        for number, worker in enumerate(self._workers[: slots.left]):
            if not worker.alive() and worker.deaths >= DEATHS:
                raise WorkerError(f"worker {number}: {worker.death('with no trial ended')}")
            if slots.waiting or slots.empty:
                worker.start_when_due()

    def dismiss(self) -> None:
        stop(self._workers)

    def kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
