"""Child processes that are killed inside their write of an answer, and calls that end their process."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PLANTED = Path(__file__).parents[2] / "benchmarks" / "killed_in_a_write.py"


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that kills so many children that start afterwards, each inside the write of its next answer."""
    site, kills = folder / "site", folder / "kills"
    site.mkdir()
    kills.mkdir()
    shutil.copy(PLANTED, site / "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("KILLED_IN_A_WRITE", str(kills))

    def kill(count: int) -> None:
        for number in range(count):
            (kills / str(number)).touch()

    return kill


def die(deaths: Path, times: int, number: int = signal.SIGKILL) -> tuple[float, float]:
    """Ends its process by a signal the first `times` times, which it counts in a file; then as `span`, without id."""
    so_far = len(deaths.read_text()) if deaths.exists() else 0
    if so_far < times:
        deaths.write_text("x" * (so_far + 1))
        os.kill(os.getpid(), number)
        time.sleep(60)
    return span(0.2)[1:]


def die_beside_a_grandchild(seconds: float) -> None:
    """Forks a process that holds all open files for some seconds, and dies."""
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def span(seconds: float) -> tuple[int, float, float]:
    """Process id, begin and end of a call of some seconds, on the clock that all processes share."""
    begin = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), begin, time.monotonic()


def out_of_memory(deaths: Path, times: int) -> int:
    so_far = len(deaths.read_text()) if deaths.exists() else 0
    if so_far < times:
        deaths.write_text("x" * (so_far + 1))
        raise MemoryError
    return so_far


class Stubborn(Exception):
    """An exception that can be pickled and not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def stubborn() -> None:
    raise Stubborn(1, 2)


def unpicklable() -> object:
    return lambda: None


def zero() -> float:
    return 1 / 0
