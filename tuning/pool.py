"""Local workers: launch, watch, launch again, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tuning.budget import Budget
from tuning.errors import WorkerError

POLL_S = 0.5
# A worker checks for a notice at every step and then hands its trial back; after this it is ended the hard way.
GRACE_S = 10.0
# Deaths in a row, of all workers together, with no trial ended between them.
DEATHS = 3


@dataclass
class Pool:
    """N worker processes on this machine, until the budget is used up.

    Args:
        command: of a worker, without its device.
        environment: added to this process's own; holds the storage URL, which may carry a password.
        devices: given to the workers in turn; a CPU's cores are divided between them.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    devices: Sequence[str]
    workers: int
    logs: Path
    budget: Budget
    score: str
    audio_hours: float  # of a full trial
    console: Console
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _signal: int | None = None

    def run(self) -> int:
        """Runs the study to its end; returns 0, or 130 or 143 when this process was asked to stop.

        Raises:
            WorkerError: workers die without any trial ending.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with _Shown(self.console, self.budget.trials, self.audio_hours, self.score) as show:
                self._watch(show)
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + self._signal if self._signal else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            for process in self._processes.values():
                process.kill()
            os._exit(130)
        self._signal = number

    def _watch(self, show: Callable[[Sequence[FrozenTrial]], None]) -> None:
        deaths = ended = 0
        while self._signal is None:
            self.budget.reap()
            self.budget.fill()
            slots = list(self.budget.slots().values())
            show(slots)
            left = self.budget.left()
            if left == 0:
                return
            if self.budget.trials - left > ended:
                ended, deaths = self.budget.trials - left, 0
            for place in range(min(self.workers, left)):
                process = self._processes.get(place)
                if process is not None and process.poll() is None:
                    continue
                self._processes.pop(place, None)
                if process is not None and process.returncode != 0:
                    deaths += 1
                    if deaths >= DEATHS:
                        raise WorkerError(self._last_words(place, process.returncode, deaths))
                if any(trial.state == TrialState.WAITING for trial in slots):
                    self._processes[place] = self._launch(place)
            time.sleep(POLL_S)

    def _launch(self, place: int) -> subprocess.Popen[bytes]:
        threads = max(1, len(os.sched_getaffinity(0)) // self.workers)
        environment = {
            **os.environ,
            **self.environment,
            "OMP_NUM_THREADS": str(threads),
            "QUELL_POOL": str(os.getpid()),
        }
        device = self.devices[place % len(self.devices)]
        with self._log(place).open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then asks the workers to leave.
            return subprocess.Popen(
                [*self.command, "--device", device],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _stop(self) -> None:
        alive = [process for process in self._processes.values() if process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.budget.reap()
        self.budget.fill()

    def _log(self, place: int) -> Path:
        return self.logs / f"worker-{place}.log"

    def _last_words(self, place: int, code: int, deaths: int) -> str:
        lines = self._log(place).read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "nothing"
        return (
            f"worker {place}: exit code {code}, {deaths} deaths with no trial ended; it last said: {said}; "
            f"see {self._log(place)}"
        )


class _Shown:
    """Progress on a terminal; elsewhere a line for every trial that ends."""

    def __init__(self, console: Console, trials: int, audio_hours: float, score: str) -> None:
        self.trials = trials
        self.audio_hours = audio_hours
        self.score = score
        self.console = console
        self.told: set[int] = set()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Callable[[Sequence[FrozenTrial]], None]:
        self.bar.start()
        # Training audio, not trials: a bar that moves while the first trials are still training.
        self.task = self.bar.add_task("starting", total=self.trials * self.audio_hours, left="")
        self.started = time.monotonic()
        self.before: float | None = None
        return self.show

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, slots: Sequence[FrozenTrial]) -> None:
        ended = [trial for trial in slots if trial.state.is_finished()]
        hours = sum(self._heard(trial) for trial in slots)
        best = max((trial.value for trial in ended if trial.value is not None), default=None)
        shown = f", best {self.score} {best:.3f}" if best is not None else ""
        description = f"{len(ended)} of {self.trials} trials{shown}"
        self.bar.update(self.task, completed=hours, description=description, left=self._left(hours))
        for trial in ended:
            if trial.number not in self.told:
                self.told.add(trial.number)
                reason = trial.user_attrs.get("pruned") or trial.user_attrs.get("failure", "")
                found = reason if trial.value is None else f"{self.score} {trial.value:.3f}"
                line = f"trial {trial.number} {trial.state.name.lower()}: {found}"
                self.console.print(f"{line} ({len(self.told)} of {self.trials}{shown})", highlight=False)

    def _heard(self, trial: FrozenTrial) -> float:
        """Audio hours of a trial; one that ended early leaves nothing to be done."""
        if trial.state.is_finished():
            return self.audio_hours
        if trial.state == TrialState.WAITING:
            return 0.0
        return float(max(trial.user_attrs.get("audio_hours", 0.0), max(trial.intermediate_values, default=0) / 3600))

    def _left(self, hours: float) -> str:
        """Time left at the speed since this process began, which may not be the study's first."""
        if self.before is None:
            self.before = hours
        heard = hours - self.before
        if heard <= 0:
            return ""
        seconds = (time.monotonic() - self.started) * (self.trials * self.audio_hours - hours) / heard
        return f"about {timedelta(seconds=round(seconds))} left"
