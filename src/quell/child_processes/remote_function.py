"""A function in a process of its own, which a time limit and the end of this process end, whatever it does."""

import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from threading import Timer
from typing import Any

from quell.child_processes.child_process import ChildProcess, Died, dump

# Until the process has imported what it needs and made its function: torch takes 3 s, a minute on a machine that swaps.
BEGIN_S = 300.0

Make = Callable[..., tuple[Any, Callable[..., Any]]]

_function: list[Callable[..., Any]] = []  # of the process


class RemoteError(Exception):
    """The process does not answer; the message says why."""


class RemoteFunction:
    """Calls a function in another process, one call at a time. Close it when done.

    The process can print nothing, write to no file, and leaves Ctrl-C to this one.

    Args:
        make: makes the function there; returns it with what is to be known of it here. Errors of it are raised here.
        arguments: of `make`.

    Attributes:
        facts: what `make` told.
        cpu_s: CPU time of all calls, of the thread that runs them.

    Raises:
        RemoteError: from the beginning and from calls: the process was killed, or took longer than its limit.
    """

    def __init__(self, make: Make, *arguments: Any) -> None:
        self._end = ""  # why there is no process any more
        self.cpu_s = 0.0
        try:
            self._child = ChildProcess(_confine, {})
        except Died as error:
            raise RemoteError(f"its process was {error}") from error
        try:
            self.facts = self._ask(partial(_make, make, arguments), BEGIN_S)
        except Exception:
            self.close()
            raise

    def __call__(self, *arguments: Any, limit_s: float) -> Any:
        answer, cpu_s = self._ask(partial(_call, arguments), limit_s)
        self.cpu_s += cpu_s
        return answer

    def close(self) -> None:
        """Ends the process, also in the middle of a call."""
        self._end = self._end or "its process was ended"
        self._child.kill()
        self._child.close()

    def _ask(self, call: Callable[[], Any], limit_s: float) -> Any:
        if self._end:
            raise RemoteError(self._end)
        late = Timer(limit_s, self._give_up, [limit_s])
        late.daemon = True
        late.start()
        try:
            well, answer = self._child.ask(dump(call))
        except Died as error:
            self._end = self._end or f"its process was {error}"
            raise RemoteError(self._end) from error
        except BaseException:  # Ctrl-C, by which the process was killed
            self.close()
            raise
        finally:
            late.cancel()
        if not well:
            raise answer
        return answer

    def _give_up(self, limit_s: float) -> None:
        self._end = f"no answer in {limit_s:.0f} s"
        self._child.kill()


def _confine() -> None:
    """Takes standard streams and the writing of files from the process."""
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(devnull, number)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process runs
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))


def _make(make: Make, arguments: tuple[Any, ...]) -> Any:
    facts, function = make(*arguments)
    _function.append(function)
    return facts


def _call(arguments: tuple[Any, ...]) -> tuple[Any, float]:
    begin = time.thread_time()
    answer = _function[0](*arguments)
    return answer, time.thread_time() - begin
