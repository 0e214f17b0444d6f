"""Progress bars with the time left; on terminals only, and removed at the end."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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


def bar(name: str, console: Console) -> AbstractContextManager[Progress]:
    """A progress bar; yields `update(done, total)`."""
    return _bar(console, TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())


def download(name: str, console: Console) -> AbstractContextManager[Progress]:
    """A progress bar of bytes, with the speed; yields `update(done, total)`."""
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return _bar(console, TextColumn(name), BarColumn(), *columns)


@contextmanager
def _bar(console: Console, *columns: ProgressColumn) -> Iterator[Progress]:
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=round(done), total=round(total))


@contextmanager
def stream(console: Console) -> Iterator[Progress]:
    """A progress bar of a pipe: seconds received, then seconds denoised; yields `update(denoised, received)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Sound(Column(no_wrap=True)))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        reading = bars.add_task("reading", total=None)
        denoising = bars.add_task("denoising", total=None, visible=False)

        def update(denoised: float, received: float) -> None:
            if denoised == 0:
                bars.update(reading, completed=received)
            else:
                bars.update(reading, visible=False)
                bars.update(denoising, completed=denoised, total=received, visible=True)

        yield update


class _Sound(ProgressColumn):
    """Seconds of sound as hours, minutes and seconds, and the speed."""

    def render(self, task: Task) -> Text:
        clock = str(timedelta(seconds=int(task.completed)))
        if task.total is not None:
            clock += f" of {timedelta(seconds=int(task.total))}"
        speed = task.finished_speed or task.speed
        return Text(clock if speed is None else f"{clock}, {speed:.1f} times real time")


class Trainings(Bars):
    """A bar for each running trial: audio-hours, loss, last score, time left. A context manager."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.2f} of {task.total:g} h of audio"),
            TextColumn("{task.fields[loss]}{task.fields[score]} left"),
            TimeRemainingColumn(),
        )
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._trials: dict[str, TaskID] = {}

    def step(self, name: str, audio_hours: float, of: float, loss: float) -> None:
        """Updates the bar of a trial; a new name opens one."""
        if name not in self._trials:
            self._trials[name] = self.add_task(name, total=of, loss="", score="")
        self.update(self._trials[name], completed=audio_hours, loss=f"loss {loss:.4f}")

    def scored(self, name: str, done: float, of: float) -> None:
        """Shows how many clips are scored."""
        if name in self._trials:
            self.update(self._trials[name], score=f", {done} of {of} clips scored,")

    def rung(self, name: str, metric: str, score: float) -> None:
        """Shows the score of a rung."""
        if name in self._trials:
            self.update(self._trials[name], score=f", {metric} {score:.3f},")

    def end(self, name: str) -> None:
        """Removes a bar."""
        if name in self._trials:
            self.remove_task(self._trials.pop(name))
