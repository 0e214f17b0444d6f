"""Progress bars with time left: on a terminal, on stderr, gone when done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from quell.progress import Progress


@contextmanager
def bar(what: str, console: Console) -> Iterator[Progress]:
    """A bar that is moved by calling it with (done, of how many)."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)

        def move(done: float, total: float) -> None:
            shown.update(task, completed=done, total=total)

        yield move


@contextmanager
def download(what: str, console: Console) -> Iterator[Progress]:
    """A bar of bytes with their speed, moved by calling it with (done, of how many)."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)

        def move(done: float, total: float) -> None:
            shown.update(task, completed=done, total=total)

        yield move


@contextmanager
def stream(console: Console) -> Iterator[Progress]:
    """How much sound has come through a pipe, then how much of it is denoised, and how fast. It is moved by calling it
    with (seconds denoised, seconds that have come)."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Sound(Column(no_wrap=True)))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        reading = shown.add_task("reading", total=None)
        denoising = shown.add_task("denoising", total=None, visible=False)

        def move(done: float, came: float) -> None:
            if done == 0:
                shown.update(reading, completed=came)
            else:
                shown.update(reading, visible=False)
                shown.update(denoising, completed=done, total=came, visible=True)

        yield move


class _Sound(ProgressColumn):
    """Seconds of sound as a clock shows them."""

    def render(self, task: Task) -> Text:
        clock = str(timedelta(seconds=int(task.completed)))
        if task.total is not None:
            clock += f" of {timedelta(seconds=int(task.total))}"
        speed = task.finished_speed or task.speed
        return Text(clock if speed is None else f"{clock}, {speed:.1f} times real time")


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
        self._shown = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
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

    def scored(self, name: str, done: float, of: float) -> None:
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
