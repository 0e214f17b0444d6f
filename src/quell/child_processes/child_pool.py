"""Calls in several child processes, each with a pipe of its own: the death of one delays its call, and stops no other.

`concurrent.futures.ProcessPoolExecutor` and loky send the results of all processes through one pipe, whose writing end
this process holds open as well. When one is killed inside its write, the reading thread waits for the rest for ever.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Any, ParamSpec, Self, TypeVar

from quell.child_processes.child_process import ChildProcess, Died, dump
from quell.errors import ProcessError

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 2  # of a call whose process dies
# OpenBLAS, BLIS, MKL and Accelerate each prefer a variable of their own to that of OpenMP.
LIBRARIES = ("OMP_NUM", "OPENBLAS_NUM", "GOTO_NUM", "BLIS_NUM", "MKL_NUM", "VECLIB_MAXIMUM")
ONE_THREAD = {f"{library}_THREADS": "1" for library in LIBRARIES}

log = logging.getLogger("quell")


class ChildPool:
    """Runs calls in spawned processes. Use it as a context; at its end it waits for the calls that run.

    A process starts when a call waits and none is idle. All end with this process, even when it is killed. A call whose
    process died runs again with no other call beside it; where memory may have been the reason, half as many processes
    go on.

    Args:
        processes: at most so many at once, at least 1.
        begin: called in each of them, with `args`, before its first call.
        one_thread: their numerical libraries use one thread each, whatever the environment says.
        attempts: after so many deaths of its process a call fails.
    """

    def __init__(
        self,
        processes: int,
        begin: Callable[..., None] | None = None,
        *args: Any,
        one_thread: bool = False,
        attempts: int = ATTEMPTS,
    ) -> None:
        begin = None if begin is None else partial(begin, *args)
        self._start = partial(ChildProcess, begin, ONE_THREAD if one_thread else {})
        self._attempts = attempts
        self._changed = Condition()  # guards all that follows
        self._waiting: deque[_Call] = deque()
        self._again: deque[_Call] = deque()  # their processes died
        self._running = 0  # calls
        self._alone = False  # the running call was taken from `_again`
        self._limit = processes
        self._threads: list[Thread] = []
        self._serving = 0  # threads that have not ended, each with at most one process
        self._idle = 0  # of these, threads that wait for a call
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `function` in a process, to which it and its arguments are pickled.

        Args:
            what: is done, and to which recordings, for the error's message.

        Returns:
            The future of the result. It raises what the function raises, and ProcessError when its process died.
        """
        call = _Call(what, partial(function, *args, **kwargs), Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._waiting.append(call)
            if self._serving < self._limit and len(self._waiting) > self._idle:
                thread = Thread(target=self._serve, name="child process", daemon=True)
                thread.start()
                self._threads.append(thread)
                self._serving += 1
            self._changed.notify_all()
        return call.future

    def close(self) -> None:
        """Cancels the calls that have not begun, waits for those that run, and ends the processes."""
        with self._changed:
            self._closed = True
            for call in self._waiting:
                if call.future.cancel():
                    call.future.set_running_or_notify_cancel()
            for call in self._again:
                call.fail()
            self._waiting.clear()
            self._again.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        """Runs calls one after the other, in one process."""
        child: ChildProcess | None = None
        while (call := self._next_call()) is not None:
            child = self._run(call, child)
            with self._changed:
                self._running -= 1
                self._alone = False
                self._changed.notify_all()
        if child is not None:
            child.close()

    def _next_call(self) -> "_Call | None":
        """Waits for a call that may run now; None when this thread is to end."""
        with self._changed:
            while not self._closed and self._serving <= self._limit:
                if (call := self._take()) is not None:
                    self._running += 1
                    return call
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            self._serving -= 1
            return None

    def _take(self) -> "_Call | None":
        if self._again:
            if self._running:
                return None
            self._alone = True
            return self._again.popleft()
        while self._waiting and not self._alone:
            call = self._waiting.popleft()
            if call.future.set_running_or_notify_cancel():
                return call
        return None

    def _run(self, call: "_Call", child: ChildProcess | None) -> ChildProcess | None:
        """Runs a call in the child, in a new one if that is dead; returns it, None if it died meanwhile."""
        if child is not None and not child.alive():
            child.close()
            child = None
        try:
            message = dump(call.function)
            child = child or self._start()
            succeeded, value = child.ask(message)
        except Died as death:
            self._handle_death(call, death)
            return None
        except BaseException as error:  # else nobody would learn of it
            succeeded, value = False, error
        if succeeded:
            call.future.set_result(value)
        else:
            call.future.set_exception(value)
        return child

    def _handle_death(self, call: "_Call", death: Died) -> None:
        call.deaths.append(death)
        with self._changed:
            if death.of_memory:
                self._limit = max(1, self._limit // 2)
            if len(call.deaths) < self._attempts and not self._closed:
                self._again.append(call)
                text = "%s: %s; trying again with no other beside it, then %d at once"
                log.warning(text, call.what, death, self._limit)
                return
        call.fail()


def described(work: str, names: Sequence[str]) -> str:
    """What a call does to the recordings of these names, at least one."""
    return f"{work} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@dataclass
class _Call:
    what: str
    function: Callable[[], Any]
    future: Future[Any]
    deaths: list[Died] = field(default_factory=list)

    def fail(self) -> None:
        """Ends the future with a ProcessError."""
        last, times = self.deaths[-1], len(self.deaths)
        found = str(last) if times == 1 else f"{last}, {times} times, the last time with no other beside it"
        needed = "expected a result; leave it out, or report it"
        if last.of_memory:
            needed = "expected memory for one process; free some, or use shorter recordings"
        self.future.set_exception(ProcessError(f"{self.what}: {found}, {needed}", last.of_memory))
