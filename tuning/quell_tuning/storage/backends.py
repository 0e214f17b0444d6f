"""Optuna storages by URL. Every one of them waits for a database that is away (`quell_tuning.storage.retrying`)."""

from __future__ import annotations

import fcntl
import os
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
from quell_tuning.storage.urls import EXPECTED, LOCAL_POSTGRES, _parsed, check_scheme, shown

# Seconds that a process waits for another one's write to SQLite. Optuna's measured worst under 8 writers: 7 s.
BUSY_TIMEOUT_S = 60
# Of a process to Postgres: the trial and its lease write at once, and a server has 100 connections in all.
CONNECTIONS = 2
# A server that vanished with its machine answers nothing: connecting and sending end after so long.
SILENT_S = 20
# Two processes that make the tables at once must take turns; the number means nothing.
TABLES_LOCK = 0x51756C6C


def open_storage(
    url: str, local: Path | None = None, *, create: bool = False, connections: int = CONNECTIONS
) -> RetryingStorage:
    """The storage behind a URL, cached and patient. Call its `close` when done.

    Args:
        url: `sqlite:///FILE`, `postgresql+psycopg://...` (or `postgresql://...`), or `grpc://HOST:PORT` of
            `quell storage serve`, or `postgres` for a server that is started in `local`, and lives as long as a
            process that uses it.
        create: make a SQLite file when it is absent. Tables are always made where there are none.
        connections: to Postgres, kept open; twice as many at times.

    Raises:
        StorageError: another scheme, or the database cannot be opened now.
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


def _patient(storage: RDBStorage, reading: Callable[[], AbstractContextManager[None]] = nullcontext) -> RetryingStorage:
    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    # Optuna's cache: what has ended is read once.
    return RetryingStorage(optuna.storages.get_storage(storage), close, reading)


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
        with _one_at_a_time(file.parent):  # of two that make the same tables at once, Optuna lets one fail
            storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}})
        reading = _lock_whole_transactions(storage.engine)
        with storage.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", error))
        raise StorageError(
            f"{file}: {reason}, expected a SQLite database that can be written; check the path"
        ) from error
    return _patient(storage, reading)


def _postgres(url: str, connections: int) -> RetryingStorage:
    parsed = _parsed(url)
    if parsed is None:
        raise StorageError(f"--storage: {shown(url)}, {EXPECTED}; quote what is special in the password")
    parsed = parsed.set(drivername="postgresql+psycopg")
    limits = {
        "connect_timeout": SILENT_S,
        "tcp_user_timeout": SILENT_S * 1000,
        # A process that is frozen inside a transaction would keep everybody else out for as long.
        "options": f"-c idle_in_transaction_session_timeout={SILENT_S * 1000}",
        "application_name": "quell",
        "client_encoding": "utf8",  # or psycopg answers in bytes where the database was made without a locale
    }
    arguments = {name: value for name, value in limits.items() if name not in parsed.query}
    engine = {
        "pool_pre_ping": True,
        "pool_size": connections,
        "max_overflow": connections,
        "connect_args": arguments,
    }
    try:
        with _making_tables(parsed, arguments):
            storage = RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=engine)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines()[0]
        raise StorageError(
            f"{shown(url)}: {reason}, expected a Postgres server that lets us in; check address, name and password"
        ) from error
    return _patient(storage)


@contextmanager
def _making_tables(url: sqlalchemy.URL, arguments: Mapping[str, Any]) -> Iterator[None]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, connect_args=dict(arguments))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({TABLES_LOCK})"))  # ends with the connection
        yield


def quiet_grpc() -> None:
    """To be called before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # lines of its own on stderr, beside the errors that we tell
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # crashes what is forked while another thread is in a call


def _grpc(url: str) -> RetryingStorage:
    quiet_grpc()
    try:
        import grpc  # noqa: F401
    except ImportError:
        needed = "expected it beside quell; pip install 'quell-denoiser[grpc]'"
        raise StorageError(f"{shown(url)}: the package grpcio is not installed, {needed}") from None
    host, _, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise StorageError(f"--storage: {shown(url)}, expected grpc://HOST:PORT; take both from `quell storage serve`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=SILENT_S)
    except ConnectionError:
        proxy.close()
        expected = "expected `quell storage serve` there; start it, or check the address"
        raise StorageError(f"{shown(url)}: no answer in {SILENT_S} s, {expected}") from None
    return RetryingStorage(proxy, proxy.close)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits until no other process is inside for the same folder; a killed one leaves by being killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock_whole_transactions(engine: sqlalchemy.Engine) -> Callable[[], AbstractContextManager[None]]:
    """Makes a transaction on SQLite take the write lock when it begins, but for those inside of what is returned.

    Python's driver begins one at the first write only, and SQLite knows no SELECT ... FOR UPDATE. Optuna's change of a
    trial from WAITING to RUNNING therefore reads outside the transaction that writes: of 40 trials claimed by 4
    processes at once, some were given to 2 or 3 of them. What only reads waits for nobody, and nobody waits for it: 32
    workers that each read 5000 trials under the lock kept one of them out for longer than a minute.
    """
    here = threading.local()

    @contextmanager
    def reading() -> Iterator[None]:
        here.reads = True
        try:
            yield
        finally:
            here.reads = False

    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        connection.execute("PRAGMA journal_mode=WAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if getattr(here, "reads", False) else "BEGIN IMMEDIATE")

    engine.dispose()  # connections from before the listeners
    return reading
