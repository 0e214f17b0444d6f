"""Progress bars with time left: on a terminal, on stderr, gone when done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that is moved by calling it with (done, of how many)."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)

        def move(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield move
