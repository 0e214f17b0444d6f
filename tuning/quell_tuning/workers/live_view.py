"""What `quell tune` prints while it runs: a live table on a terminal; elsewhere a line for every trial that ends."""

import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from quell_tuning.results.trial_row import trained_hours
from quell_tuning.trials.budget import Slots
from quell_tuning.trials.ranking import feasible
from quell_tuning.trials.worker_id import shown


class LiveView:
    """A live view of the slots, while its attribute `live` is entered as a context.

    Args:
        audio_hours: of a whole training.
        score: name of the first score.
    """

    def __init__(self, console: Console, trials: int, audio_hours: float, score: str) -> None:
        self.console = console
        self.trials = trials
        self.audio_hours = audio_hours
        self.score = score
        self._printed: set[int] | None = None  # trials that have their line, or that ended before this process began
        self._first: dict[int, tuple[float, float]] = {}  # running trial -> time and audio hours at the first look
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[remaining]}"),
            console=console,
        )
        # Hours of audio instead of trials: the bar then moves during the first trials too.
        self._task = self._bar.add_task("starting", total=trials * audio_hours, remaining="")
        live = Live(self._bar, console=console, refresh_per_second=2, transient=True)
        self.live: Live | nullcontext[None] = live if console.is_terminal else nullcontext()
        self._started = time.monotonic()
        self._hours_before: float | None = None  # of audio, at the first look

    def show(self, slots: Slots, workers: Sequence[tuple[str, int | None]]) -> None:
        """Shows the slots as they are now.

        Args:
            workers: of this machine, as (name, process id); None while a worker's process does not run.
        """
        ended = slots.ended
        complete = [trial for trial in ended if trial.state == TrialState.COMPLETE and feasible(trial)]
        best = max((trial.values[0] for trial in complete), default=None)
        best_score = f", best {self.score} {best:.3f}" if best is not None else ""
        self._print_ended(ended, best_score)
        if not isinstance(self.live, Live):
            return
        hours = sum(self._trained_hours(trial) for trial in slots.filled.values())
        description = f"{len(ended)} of {self.trials} trials{best_score}"
        self._bar.update(self._task, completed=hours, description=description, remaining=self._remaining(hours))
        self.live.update(Group(self._table(slots, workers), self._bar))

    def _print_ended(self, ended: list[FrozenTrial], best: str) -> None:
        if self._printed is None:
            self._printed = {trial.number for trial in ended}
            if ended:
                self.console.print(f"{len(ended)} of {self.trials} trials ended before{best}", highlight=False)
        for trial in ended:
            if trial.number not in self._printed:
                self._printed.add(trial.number)
                preset = f" {trial.user_attrs['preset']}" if "preset" in trial.user_attrs else ""
                count = f"{len(self._printed)} of {self.trials}"
                self.console.print(
                    f"trial {trial.number}{preset} {self._ending(trial)} ({count}{best})", highlight=False
                )

    def _ending(self, trial: FrozenTrial) -> str:
        same = f", the same as trial {trial.user_attrs['same_as']}" if "same_as" in trial.user_attrs else ""
        if trial.state != TrialState.COMPLETE:
            key = "failure" if trial.state == TrialState.FAIL else "pruned"
            return f"{trial.state.name.lower()}: {trial.user_attrs.get(key, '')}{same}"
        score = f"{self.score} {trial.values[0]:.3f}"
        worse = " and ".join(name for name, value in trial.constraints.items() if value > 0)
        if worse:
            return f"infeasible: {score}, but {worse} below the noisy input's{same}"
        return f"complete: {score}{same}"

    def _table(self, slots: Slots, workers: Sequence[tuple[str, int | None]]) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("worker", "trial", "rung", self.score, "audio", "audio-h/h"):
            table.add_column(column, justify="left" if column == "worker" else "right", no_wrap=True)
        # Workers of this machine by process id, as in `workers`; others by host:process.
        here = f"{socket.gethostname()}:"
        running = {shown(trial.user_attrs.get("worker", "")).removeprefix(here): trial for trial in slots.running}
        for name, process in workers:
            trial = running.pop(str(process), None)
            table.add_row(name, *(self._row(trial) if trial else ("waits", "", "", "", "")))
        for name, trial in running.items():  # workers on other machines, or of another `quell tune`
            table.add_row(name, *self._row(trial))
        return table

    def _row(self, trial: FrozenTrial) -> tuple[str, ...]:
        hours, now = self._trained_hours(trial), time.monotonic()
        began, hours_then = self._first.setdefault(trial.number, (now, hours))
        speed = f"{(hours - hours_then) / (now - began) * 3600:.1f}" if now - began > 10 else ""
        rung = max(trial.intermediate_values, default=None)
        score = "" if rung is None else f"{trial.intermediate_values[rung]:.3f}"
        at = "" if rung is None else f"{rung / 3600:g} h"
        return str(trial.number), at, score, f"{hours:.2f} of {self.audio_hours:g} h", speed

    def _trained_hours(self, trial: FrozenTrial) -> float:
        """Hours of audio that a trial was trained on; all of them once it has ended, if only early."""
        if trial.state == TrialState.WAITING:
            return 0.0
        return self.audio_hours if trial.state.is_finished() else trained_hours(trial)

    def _remaining(self, hours: float) -> str:
        """Time to the end at the speed since this process began, which may have continued a study."""
        if self._hours_before is None:
            self._hours_before = hours
        trained = hours - self._hours_before
        if trained <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self.trials * self.audio_hours - hours) / trained
        return f"about {timedelta(seconds=round(seconds))} left"
