"""What `quell tune` shows while it runs: a table on a terminal; elsewhere a line for every trial that ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from datetime import timedelta

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from quell_tuning.trials.budget import Slots
from quell_tuning.trials.ranking import feasible


class LiveView:
    """A live view of the slots. Use it as a context.

    Args:
        audio_hours: of a full trial.
        score: name of the first score.
    """

    def __init__(self, console: Console, trials: int, audio_hours: float, score: str) -> None:
        self.console = console
        self.trials = trials
        self.audio_hours = audio_hours
        self.score = score
        self._told: set[int] | None = None  # trials that a line was printed for, or that ended before this began
        self._seen: dict[int, tuple[float, float]] = {}  # running trial -> time and audio hours when first seen
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        # Training audio, not trials: a bar that moves while the first trials are still training.
        self._task = self._bar.add_task("starting", total=trials * audio_hours, left="")
        self._live = (
            Live(self._bar, console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        )
        self._started = time.monotonic()
        self._before: float | None = None

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, slots: Slots, workers: Sequence[tuple[str, int | None]]) -> None:
        """`workers`: those of this machine, as (name, process), without a process while it is not running."""
        ended = slots.ended
        complete = [trial for trial in ended if trial.state == TrialState.COMPLETE and feasible(trial)]
        best = max((trial.values[0] for trial in complete), default=None)
        shown = f", best {self.score} {best:.3f}" if best is not None else ""
        self._tell(ended, shown)
        if self._live is None:
            return
        hours = sum(self._heard(trial) for trial in slots.filled.values())
        description = f"{len(ended)} of {self.trials} trials{shown}"
        self._bar.update(self._task, completed=hours, description=description, left=self._left(hours))
        self._live.update(Group(self._table(slots, workers), self._bar))

    def _tell(self, ended: list[FrozenTrial], best: str) -> None:
        if self._told is None:
            self._told = {trial.number for trial in ended}
            if ended:
                self.console.print(f"{len(ended)} of {self.trials} trials ended before{best}", highlight=False)
        for trial in ended:
            if trial.number not in self._told:
                self._told.add(trial.number)
                known = f" {trial.user_attrs['preset']}" if "preset" in trial.user_attrs else ""
                line = f"trial {trial.number}{known} {self._ending(trial)} ({len(self._told)} of {self.trials}{best})"
                self.console.print(line, highlight=False)

    def _ending(self, trial: FrozenTrial) -> str:
        same = f", the same as trial {trial.user_attrs['same_as']}" if "same_as" in trial.user_attrs else ""
        if trial.state != TrialState.COMPLETE:
            key = "failure" if trial.state == TrialState.FAIL else "pruned"
            return f"{trial.state.name.lower()}: {trial.user_attrs.get(key, '')}{same}"
        lost = [name for name, value in trial.constraints.items() if value > 0]
        state, but = ("infeasible", f", but {' and '.join(lost)} below the noisy input's") if lost else ("complete", "")
        return f"{state}: {self.score} {trial.values[0]:.3f}{but}{same}"

    def _table(self, slots: Slots, workers: Sequence[tuple[str, int | None]]) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("worker", "trial", "rung", self.score, "audio", "audio-h/h"):
            table.add_column(column, justify="left" if column == "worker" else "right", no_wrap=True)
        running = {_worker(trial): trial for trial in slots.running}
        for name, process in workers:
            trial = running.pop(str(process), None)
            table.add_row(name, *(self._row(trial) if trial else ("waits", "", "", "", "")))
        for name, trial in running.items():  # on other machines, or of another `quell tune`
            table.add_row(name, *self._row(trial))
        return table

    def _row(self, trial: FrozenTrial) -> tuple[str, ...]:
        hours, now = self._heard(trial), time.monotonic()
        since, before = self._seen.setdefault(trial.number, (now, hours))
        speed = f"{(hours - before) / (now - since) * 3600:.1f}" if now - since > 10 else ""
        rung = max(trial.intermediate_values, default=None)
        score = "" if rung is None else f"{trial.intermediate_values[rung]:.3f}"
        at = "" if rung is None else f"{rung / 3600:g} h"
        return str(trial.number), at, score, f"{hours:.2f} of {self.audio_hours:g} h", speed

    def _heard(self, trial: FrozenTrial) -> float:
        """Audio hours of a trial; one that ended early leaves nothing to be done."""
        if trial.state.is_finished():
            return self.audio_hours
        if trial.state == TrialState.WAITING:
            return 0.0
        lease = trial.user_attrs.get("lease", (0, 0.0))
        return float(max(lease[1], max(trial.intermediate_values, default=0) / 3600))

    def _left(self, hours: float) -> str:
        """Time left at the speed since this process began, which may not be the study's first."""
        if self._before is None:
            self._before = hours
        heard = hours - self._before
        if heard <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self.trials * self.audio_hours - hours) / heard
        return f"about {timedelta(seconds=round(seconds))} left"


def _worker(trial: FrozenTrial) -> str:
    """Process of a trial on this machine, host:process of one elsewhere."""
    host, _, rest = str(trial.user_attrs.get("worker", "::")).partition(":")
    process = rest.partition(":")[0]
    return process if host == socket.gethostname() else f"{host}:{process}"
