"""Opens Optuna storages by URL: SQLite, Postgres or the gRPC proxy, each as a `RetryingStorage`."""

import fcntl
import os
import re
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from quell_tuning.errors import StorageError
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.storage.urls import EXPECTED, LOCAL_POSTGRES, check_scheme, parse_url, proxy_token, shown

# Seconds that a process waits for another one's write to SQLite. Optuna's measured worst under 8 writers: 7 s.
BUSY_TIMEOUT_S = 60
# Of a process to Postgres: the trial and its lease write at the same time, and a server has 100 connections in all.
CONNECTIONS = 2
# Connecting and sending are given up after so long, as when a server has vanished with its machine.
SILENT_S = 20
# Key of the Postgres advisory lock under which tables are made, by one process at a time; any number will do.
TABLES_LOCK = 0x51756C6C


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


def _local_postgres(folder: Path, create: bool, connections: int) -> RetryingStorage:
    from quell_tuning.storage import local_postgres

    if not create and not folder.exists():
        raise StorageError(
            f"{folder}: no such database, expected one made by `quell tune --storage postgres`; run that"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    return _postgres(local_postgres.join(folder), connections)


def _retrying(
    storage: RDBStorage, reading: Callable[[], AbstractContextManager[None]] = nullcontext
) -> RetryingStorage:
    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    # get_storage adds Optuna's cache: finished trials are read once.
    return RetryingStorage(optuna.storages.get_storage(storage), close, reading)


def _tables(url: str, engine: Mapping[str, Any]) -> RDBStorage:
    """Optuna's tables, made where there are none; raises StorageError if another version of Optuna made them."""
    try:
        return RDBStorage(url, engine_kwargs=dict(engine))
    except RuntimeError as error:  # with this text, in Optuna 5.0.0
        made_by = re.search(r"set up by optuna ([^)]+)\)", str(error))
        if made_by is None:
            raise
        older = "storage upgrade" in str(error)
        remedy = f"run `optuna storage upgrade --storage {shown(url)}`" if older else "update optuna"
        found = f"its tables were made by optuna {made_by[1]}, expected those of optuna {optuna.__version__}"
        raise StorageError(f"{shown(url)}: {found}; {remedy}") from None


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
        with _one_at_a_time(file.parent):  # when two processes make the same tables at once, one fails in Optuna
            storage = _tables(url, {"connect_args": {"timeout": BUSY_TIMEOUT_S}})
        reading = _lock_whole_transactions(storage.engine)
        with storage.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", error))
        raise StorageError(
            f"{file}: {reason}, expected a SQLite database that can be written; check the path"
        ) from error
    return _retrying(storage, reading)


def _postgres(url: str, connections: int) -> RetryingStorage:
    parsed = parse_url(url)
    if parsed is None:
        raise StorageError(f"--storage: {shown(url)}, {EXPECTED}; quote what is special in the password")
    parsed = parsed.set(drivername="postgresql+psycopg")
    limits: dict[str, Any] = {
        "connect_timeout": SILENT_S,
        "tcp_user_timeout": SILENT_S * 1000,
        # A process that is frozen inside a transaction would block all others.
        "options": f"-c idle_in_transaction_session_timeout={SILENT_S * 1000}",
        "application_name": "quell",
        "client_encoding": "utf8",  # else psycopg returns bytes where the database was made without a locale
    }
    arguments = {name: value for name, value in limits.items() if name not in parsed.query}
    pool = {"pool_pre_ping": True, "pool_size": connections, "max_overflow": connections}
    try:
        locking = sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.pool.NullPool, connect_args=arguments)
        with locking.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({TABLES_LOCK})"))  # ends with the connection
            storage = _tables(parsed.render_as_string(hide_password=False), pool | {"connect_args": arguments})
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines()[0]
        raise StorageError(
            f"{shown(url)}: {reason}, expected a Postgres server that accepts us; check address, name and password"
        ) from error
    return _retrying(storage)


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
    from quell_tuning.storage.grpc_token import TokenProxy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = TokenProxy(host=host, port=int(port), token=proxy_token())
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


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits until no other process is inside for the same folder; the kernel releases the lock of a killed one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
