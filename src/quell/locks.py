"""Locks between the processes of a machine: files that the kernel unlocks when their process ends, in whatever way."""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from quell.errors import LockError

log = logging.getLogger("quell")

MODE = 0o600  # who can open a file can hold its lock, also another user
POLL_S = 0.05
TELL_S = 5.0  # a wait that takes longer is told


def open_lock(file: Path) -> int:
    """A handle on a lock's file, which only this user can open; it is made where there is none."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, MODE)
    if os.fstat(handle).st_uid == os.geteuid():
        os.fchmod(handle, MODE)  # earlier versions made it readable for all
    return handle


def take(handle: int, *, shared: bool = False) -> bool:
    """Takes a lock if that is possible at once, alone or with others that share it."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close(handle: int) -> None:
    """Closes a lock's file and releases the lock."""
    fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough if another thread forked meanwhile
    os.close(handle)


def wait(handle: int, file: Path, at_most_s: float, *, shared: bool = False) -> None:
    """Takes a lock; a wait of more than TELL_S is told, with the process that holds it.

    Raises:
        LockError: others held it for `at_most_s`.
    """
    began, told = time.monotonic(), False
    while not take(handle, shared=shared):
        waited_s = time.monotonic() - began
        if waited_s >= at_most_s:
            expected = f"expected it free within {at_most_s:.0f} s; end that process, and run the same again"
            raise LockError(f"{file}: locked by {_holder(handle)}, {expected}")
        if waited_s >= TELL_S and not told:
            log.warning("%s: locked by %s; waiting for up to %.0f s", file, _holder(handle), at_most_s)
            told = True
        time.sleep(POLL_S)


@contextmanager
def hold(file: Path, at_most_s: float) -> Iterator[None]:
    """Holds the lock of a file inside the block, and says in the file who does; waits, with the error of `wait`."""
    handle = open_lock(file)
    try:
        wait(handle, file, at_most_s)
        os.ftruncate(handle, 0)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
        yield
    finally:
        close(handle)


def _holder(handle: int) -> str:
    return os.pread(handle, 1000, 0).decode(errors="replace").strip() or "another process"
