"""Opens Optuna storages by URL: SQLite, Postgres or the gRPC proxy, each as a `RetryingStorage`."""

import atexit
import os
import re
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from quell import locks
from quell_tuning.errors import StorageError
from quell_tuning.outages import first_line
from quell_tuning.sqlite_file import OpenFile, writer
from quell_tuning.storage import postgres_limits
from quell_tuning.storage.postgres_limits import SILENT_S
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.storage.tables import OptunaTables, open_tables, upgrade
from quell_tuning.storage.urls import EXPECTED, LOCAL_POSTGRES, check_scheme, parse_url, proxy_token, shown

# Seconds that a process waits for another one's write to SQLite. Optuna's measured worst under 8 writers: 7 s.
BUSY_TIMEOUT_S = 60
TABLES_S = 120.0  # for a process that makes the tables of a SQLite file
# Of a process to Postgres: the trial and its lease write at the same time, and a server has 100 connections in all.
CONNECTIONS = 2


def open_storage(
    url: str, local: Path | None = None, *, create: bool = False, connections: int = CONNECTIONS
) -> RetryingStorage:
    """The storage behind a URL, which waits for its database. Call its `close` when done.

    Args:
        url: `sqlite:///FILE`, `postgresql+psycopg://...` (or `postgresql://...`), or `grpc://HOST:PORT` of
            `quell storage serve`, or `postgres` for a server that is started in `local` and runs while any process
            uses it.
        create: make a SQLite file, or the data of a server in `local`, when it is absent. Missing tables are always
            made.
        connections: to Postgres, kept open; twice as many at times.

    Raises:
        StorageError: another scheme, the database cannot be opened now, or its tables are of another Optuna.
    """
    if url == LOCAL_POSTGRES and local is not None:
        return _local_postgres(local, create, connections)
    check_scheme(url)
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return _sqlite(url, create)
    return _grpc(url) if scheme == "grpc" else _postgres(url, connections)


def upgrade_storage(url: str, local: Path) -> tuple[str, str, Path | None]:
    """Upgrades the tables behind a URL to those of this Optuna; answers and errors as `tables.upgrade`."""
    if url == LOCAL_POSTGRES:
        url = _local_url(local, create=False)
    check_scheme(url)
    if url.startswith("grpc:"):
        raise StorageError(f"{shown(url)}: a proxy, expected the database behind it; name that with --storage")
    return upgrade(re.sub(r"^postgresql:", "postgresql+psycopg:", url))


def _local_postgres(folder: Path, create: bool, connections: int) -> RetryingStorage:
    return _postgres(_local_url(folder, create), connections)


def _local_url(folder: Path, create: bool) -> str:
    from quell_tuning.storage import local_postgres

    if not create and not folder.exists():
        raise StorageError(
            f"{folder}: no such database, expected one made by `quell tune --storage postgres`; run that"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    return local_postgres.join(folder)


def _sqlite(url: str, create: bool) -> RetryingStorage:
    """In write-ahead mode, so that readers never wait for a writer."""
    _, _, location = url.partition(":///")
    if not location:
        raise StorageError(f"--storage: {shown(url)}, expected sqlite:///FILE; leave it out for the database in --runs")
    file = Path(location)
    if not create and not file.exists():
        raise StorageError(
            f"{file}: no such database, expected one made by `quell tune`; run that, or name another --runs"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # When two processes make the same tables at once, one fails in Optuna.
        with locks.hold(file.with_name(f".{file.name}.lock"), TABLES_S):
            storage = open_tables(url, {"connect_args": {"timeout": BUSY_TIMEOUT_S}})
        reading = _lock_whole_transactions(storage.engine)
        with storage.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        watch = OpenFile(file)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = str(getattr(error, "orig", error))
        raise StorageError(
            f"{file}: {reason}, expected a SQLite database that can be written; check the path"
        ) from error
    return _watched(storage, reading, watch)


def _watched(
    storage: OptunaTables, reading: Callable[[], AbstractContextManager[None]], watch: OpenFile
) -> RetryingStorage:
    @sqlalchemy.event.listens_for(storage.engine, "do_connect")
    def connect(*_: object) -> None:
        watch.check()  # else SQLite would make a new file, or open another one

    def close() -> None:
        atexit.unregister(close)
        watch.close()  # first: the last to close brings the write-ahead file into the database, and may not only read
        storage.remove_session()
        storage.engine.dispose()

    def holder() -> str:
        found = writer(watch.file)
        return f", by {found}" if found else ""

    atexit.register(close)
    return RetryingStorage(optuna.storages.get_storage(storage), close, reading, watch.check, holder)


def _postgres(url: str, connections: int) -> RetryingStorage:
    parsed = parse_url(url)
    if parsed is None:
        raise StorageError(f"--storage: {shown(url)}, {EXPECTED}; quote what is special in the password")
    parsed = parsed.set(drivername="postgresql+psycopg")
    pool = {"pool_pre_ping": True, "pool_size": connections, "max_overflow": connections}
    try:
        limits = postgres_limits.choose(parsed)
        with postgres_limits.tables_lock(parsed, limits, shown(url)):
            address = parsed.render_as_string(hide_password=False)
            storage = open_tables(address, pool | {"connect_args": limits.arguments})
        limits.apply(storage.engine)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = first_line(getattr(error, "orig", None) or error.__cause__ or error)
        raise StorageError(
            f"{shown(url)}: {reason}, expected a Postgres server that accepts us; check address, name and password"
        ) from error

    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    # get_storage adds Optuna's cache: finished trials are read once.
    holder = partial(postgres_limits.holder, storage.engine)
    return RetryingStorage(optuna.storages.get_storage(storage), close, holder=holder)


def import_grpc(purpose: str) -> None:
    """Imports grpc, with settings that it reads then; raises StorageError, which names the purpose, without it."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # no lines on stderr besides our errors
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # it crashes a child forked while another thread calls
    try:
        import grpc  # noqa: F401
    except ImportError:
        needed = "expected it beside quell; pip install 'quell-denoiser[grpc]'"
        raise StorageError(f"{purpose}: the package grpcio is not installed, {needed}") from None


def _grpc(url: str) -> RetryingStorage:
    import_grpc(shown(url))
    host, _, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise StorageError(f"--storage: {shown(url)}, expected grpc://HOST:PORT; take both from `quell storage serve`")
    from quell_tuning.storage.grpc_client import StorageClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = StorageClient(host=host, port=int(port), token=proxy_token())
    try:
        proxy.wait_server_ready(timeout=SILENT_S)
    except ConnectionError:
        proxy.close()
        expected = "expected `quell storage serve` there; start it, or check the address"
        raise StorageError(f"{shown(url)}: no answer in {SILENT_S} s, {expected}") from None
    try:
        proxy.check_token(shown(url))
    except StorageError:
        proxy.close()
        raise
    return RetryingStorage(proxy, proxy.close)


def _lock_whole_transactions(engine: sqlalchemy.Engine) -> Callable[[], AbstractContextManager[None]]:
    """Makes SQLite transactions take the write lock when they begin, except inside the context that is returned.

    Python's driver begins a transaction at the first write, and SQLite has no SELECT ... FOR UPDATE. Optuna's change of
    a trial from WAITING to RUNNING therefore reads outside the transaction that writes: of 40 trials claimed by 4
    processes at once, some were given to 2 or 3 of them. Calls that only read take no lock: 32 workers that each read
    5000 trials under the lock kept one of them waiting for longer than a minute.
    """
    this_thread = threading.local()

    @contextmanager
    def reading() -> Iterator[None]:
        this_thread.reads = True
        try:
            yield
        finally:
            this_thread.reads = False

    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        connection.execute("PRAGMA journal_mode=WAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if getattr(this_thread, "reads", False) else "BEGIN IMMEDIATE")

    engine.dispose()  # connections from before the listeners
    return reading
