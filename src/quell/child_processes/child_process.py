"""One spawned process that answers calls; its death, at any moment, ends the wait for its answer."""

import multiprocessing
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from threading import Lock, Thread
from typing import Any

from quell.processes import follow_parent, undisturbed

END = b""  # the message after which a process ends
END_S = 10.0  # for it to end, which takes 0.15 s

_environment_lock = Lock()


class Died(Exception):
    """How a process ended that was to answer a call.

    Attributes:
        of_memory: whether memory may have been the reason, as of every process that the system kills.
    """

    def __init__(self, how: str, of_memory: bool) -> None:
        super().__init__(f"{how}, probably for want of memory" if of_memory else how)
        self.of_memory = of_memory


class ChildTraceback(Exception):
    """Where an exception was raised in a child process, as its cause: a traceback cannot be pickled."""


class ChildProcess:
    """A spawned process that ends with this one.

    Args:
        begin: called in it before its first call.
        variables: added to its environment.

    Raises:
        Died: it cannot be started, as where the number of processes or their memory is limited.
    """

    def __init__(self, begin: Callable[[], None] | None, variables: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            self._pipe, theirs = context.Pipe()
            with theirs:  # closed here, so that the death of the process ends what is read, also inside a message
                self._process = context.Process(target=_answer_calls, args=(theirs, begin), daemon=True)
                with _environment(variables), undisturbed():
                    self._process.start()
            end = socket.socket(fileno=os.dup(self._pipe.fileno()))
        except OSError as error:
            raise Died(f"not started ({error.strerror})", of_memory=True) from error
        self._watcher = Thread(target=_watch, args=(self._process, end), name="end of a child process", daemon=True)
        self._watcher.start()

    def alive(self) -> bool:
        return self._watcher.is_alive()

    def ask(self, message: memoryview) -> tuple[bool, Any]:
        """Whether a pickled call ended well, and its result or its exception.

        Raises:
            Died: the process died, or had no memory left.
        """
        try:
            self._pipe.send_bytes(message)
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self.close()
            raise self._death() from None
        except BaseException:  # the rest of the answer would be taken for the next one
            self.kill()
            self.close()
            raise
        value, lines = pickle.loads(answer)
        if not lines:
            return True, value
        if isinstance(value, MemoryError):
            self.close()
            raise Died("out of memory", of_memory=True)
        value.__cause__ = ChildTraceback(lines)
        return False, value

    def _death(self) -> Died:
        code = self._process.exitcode
        if code is None or code >= 0:
            return Died(f"ended (exit code {code})", of_memory=False)
        return Died(f"killed (signal {-code})", of_memory=code == -signal.SIGKILL)

    def close(self) -> None:
        """Ends the process, which has no call; kills it after END_S."""
        with suppress(OSError):
            self._pipe.send_bytes(END)
        self._watcher.join(END_S)
        if self._watcher.is_alive():
            self.kill()
            self._watcher.join(END_S)
        self._pipe.close()

    def kill(self) -> None:
        """Ends the process at once, also one that has a call, which then ends with Died; from any thread."""
        self._process.kill()


def dump(value: Any) -> memoryview:
    """A pickle for another process, as of a call for `ChildProcess.ask`: a function of no arguments."""
    return ForkingPickler.dumps(value)


def _watch(process: BaseProcess, pipe: socket.socket) -> None:
    """Ends the wait for an answer with the process: a process that it forked may hold the pipe open."""
    process.join()
    with pipe, suppress(OSError):
        pipe.shutdown(socket.SHUT_RDWR)  # what has been written is still read


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Adds variables to the environment of the processes that the block starts, one thread at a time."""
    with _environment_lock:
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _answer_calls(pipe: Connection, begin: Callable[[], None] | None) -> None:
    """What runs in the process, until it is told to end or its parent has ended."""
    follow_parent()
    if begin is not None:
        begin()
    with suppress(EOFError, OSError):
        while message := pipe.recv_bytes():
            pipe.send_bytes(_answer(message))


def _answer(message: bytes) -> memoryview:
    """A pickle of the call's result and no text, or of its exception and its traceback."""
    try:
        return dump((pickle.loads(message)(), ""))
    except BaseException as error:
        lines = "\n" + traceback.format_exc()
        try:
            return dump((error, lines))
        except Exception:
            return dump((RuntimeError(f"{type(error).__name__}: {error}"), lines))
