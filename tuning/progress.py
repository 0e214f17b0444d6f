"""Progress bars with time left: on a terminal, on stderr, gone when done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextmanager
def bar(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that is moved by calling it with (done, of how many)."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)

        def move(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield move


class Trainings:
    """A bar for each training: audio-hours, loss, latest score, time left. Use it as a context."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.2f} of {task.total:g} h of audio"),
            TextColumn("{task.fields[loss]}{task.fields[score]} left"),
            TimeRemainingColumn(),
        )
        self._shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Trainings:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def step(self, name: str, audio_hours: float, of: float, loss: float) -> None:
        """A training has got so far; a new name opens a bar."""
        if name not in self._tasks:
            self._tasks[name] = self._shown.add_task(name, total=of, loss="", score="")
        self._shown.update(self._tasks[name], completed=audio_hours, loss=f"loss {loss:.4f}")

    def scored(self, name: str, done: int, of: int) -> None:
        """So many clips of a training are scored."""
        if name in self._tasks:
            self._shown.update(self._tasks[name], score=f", {done} of {of} clips scored,")

    def rung(self, name: str, metric: str, score: float) -> None:
        """A training was scored."""
        if name in self._tasks:
            self._shown.update(self._tasks[name], score=f", {metric} {score:.3f},")

    def end(self, name: str) -> None:
        """Takes a training's bar away."""
        if name in self._tasks:
            self._shown.remove_task(self._tasks.pop(name))
