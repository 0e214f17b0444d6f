"""A function in a process of its own, which a time limit and the end of this process end, whatever it does."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from quell.processes import follow_parent, undisturbed

# Until the process has imported what it needs and made its function: torch takes 3 s, a minute on a machine that swaps.
BEGIN_S = 300.0
DEATH_S = 5.0  # between the end of a connection and that of its process


class RemoteError(Exception):
    """The process does not answer; the message says why, without an end."""


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

    def __init__(self, make: Callable[..., tuple[Any, Callable[..., Any]]], *arguments: Any) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._end = ""  # why there is no process any more
        self.cpu_s = 0.0
        with undisturbed():
            self._process.start()
        theirs.close()  # the process alone has it, so that its end is seen here
        try:
            self.facts = self._answer(BEGIN_S)
        except Exception:
            self.close()
            raise

    def __call__(self, *arguments: Any, limit_s: float) -> Any:
        if self._end:
            raise RemoteError(self._end)
        try:
            self._connection.send(arguments)
        except OSError as error:
            raise self._death() from error
        return self._answer(limit_s)

    def close(self) -> None:
        """Ends the process, also in the middle of a call."""
        self._end = self._end or "its process was ended"
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _answer(self, limit_s: float) -> Any:
        try:
            if not self._connection.poll(limit_s):
                self._end = f"no answer in {limit_s:.0f} s"
                raise RemoteError(self._end)
            answer, cpu_s = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._death() from error
        except BaseException:  # Ctrl-C, too: a later call would get the answer to this one
            self.close()
            raise
        self.cpu_s += cpu_s
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _death(self) -> RemoteError:
        self._process.join(DEATH_S)
        code = self._process.exitcode
        killed = code == -signal.SIGKILL
        self._end = f"its process {'was killed, probably for want of memory' if killed else f'ended with {code}'}"
        self.close()
        return RemoteError(self._end)


def _serve(connection: Connection, make: Callable[..., tuple[Any, Callable[..., Any]]], arguments: Any) -> None:
    follow_parent()
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(devnull, number)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process runs
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))
    try:
        facts, function = make(*arguments)
    except Exception as error:
        connection.send((_sendable(error), 0.0))
        return
    connection.send((facts, 0.0))
    with suppress(EOFError):
        while True:
            given = connection.recv()
            begin = time.thread_time()
            try:
                answer = function(*given)
            except Exception as error:
                answer = _sendable(error)
            connection.send((answer, time.thread_time() - begin))


def _sendable(error: Exception) -> Exception:
    """The error as one that any process can make again: those of other packages may not be."""
    return error if type(error).__module__.startswith("quell") else RuntimeError(" ".join(str(error).split()))
