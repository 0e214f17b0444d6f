"""Limits of every connection to Postgres, directly or through a pooler such as PgBouncer in transaction mode.

A pooler hands each transaction to any of its connections. Nothing may outlive a transaction then: no settings of a
connection, no prepared statements, no locks. It also takes no options at the start of a connection.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from quell_tuning.errors import StorageError

log = logging.getLogger("quell")

# Connecting and sending are given up after so long, as when a server has vanished with its machine.
SILENT_S = 20
TABLES_S = 120.0  # for a process that makes the tables
TELL_S = 5.0  # a wait that takes longer is told
POLL_S = 0.2
# Key of the advisory lock under which tables are made, by one process at a time; any number will do.
TABLES_LOCK = 0x51756C6C
# A process that is frozen inside a transaction would block all others, and so would a lock that is held for ever.
SETTINGS = ("idle_in_transaction_session_timeout", "lock_timeout")
WHO = "concat('process ', pid, ' (', application_name, coalesce(' from ' || host(client_addr), ''), ')')"


@dataclass(frozen=True)
class Limits:
    """How connections are limited: by options at their start, or through a pooler in every transaction.

    Args:
        arguments: of psycopg.connect.
    """

    pooled: bool
    arguments: dict[str, Any] = field(repr=False)

    def apply(self, engine: sqlalchemy.Engine) -> None:
        """Limits the transactions of an engine whose connections are pooled."""
        if not self.pooled:
            return
        settings = ", ".join(f"set_config('{name}', '{SILENT_S * 1000}', true)" for name in SETTINGS)

        @sqlalchemy.event.listens_for(engine, "begin")
        def begin(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql(f"SELECT {settings}")


def choose(url: sqlalchemy.URL) -> Limits:
    """The limits for a database: those of a pooler where options are refused or have no effect."""
    options = " ".join(f"-c {name}={SILENT_S * 1000}" for name in SETTINGS)
    direct, pooled = Limits(False, _arguments(url, options=options)), Limits(True, _arguments(url, prepare=False))
    try:
        with connect(url, direct) as connection:
            query = sqlalchemy.text("SELECT setting FROM pg_settings WHERE name = :name")
            found = connection.execute(query, {"name": SETTINGS[0]}).scalar()
    except DBAPIError as error:
        if "startup parameter" not in str(error.orig):
            raise
        return pooled
    return direct if found == str(SILENT_S * 1000) else pooled


def _arguments(url: sqlalchemy.URL, options: str = "", prepare: bool = True) -> dict[str, Any]:
    """Arguments of psycopg.connect, except those that the URL has."""
    limits = {
        "connect_timeout": SILENT_S,
        "tcp_user_timeout": SILENT_S * 1000,
        "application_name": "quell",
        "client_encoding": "utf8",  # else psycopg returns bytes where the database was made without a locale
        **({"options": options} if options else {}),
        **({} if prepare else {"prepare_threshold": None}),
    }
    return {name: value for name, value in limits.items() if name not in url.query}


@contextmanager
def connect(url: sqlalchemy.URL, limits: Limits) -> Iterator[sqlalchemy.Connection]:
    """A connection of its own, in a transaction."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, connect_args=limits.arguments)
    limits.apply(engine)
    with engine.connect() as connection:
        yield connection


@contextmanager
def tables_lock(url: sqlalchemy.URL, limits: Limits, shown: str) -> Iterator[None]:
    """One process at a time is inside, by a lock that ends with its transaction; a long wait is told.

    Raises:
        StorageError: another process has the lock for TABLES_S.
    """
    query = sqlalchemy.text(f"SELECT pg_try_advisory_xact_lock({TABLES_LOCK})")
    began, told = time.monotonic(), False
    with connect(url, limits) as connection:
        while not connection.execute(query).scalar():
            waited_s = time.monotonic() - began
            if waited_s >= TABLES_S:
                found = f"{_owner(connection)} has made its tables for {waited_s:.0f} s"
                raise StorageError(f"{shown}: {found}, expected that to take seconds; end that process")
            if waited_s >= TELL_S and not told:
                log.warning("%s: %s makes its tables; waiting for up to %.0f s", shown, _owner(connection), TABLES_S)
                told = True
            time.sleep(POLL_S)
        yield


def _owner(connection: sqlalchemy.Connection) -> str:
    """Who has the lock of the tables."""
    query = (
        f"SELECT {WHO} FROM pg_locks JOIN pg_stat_activity USING (pid) "
        f"WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = {TABLES_LOCK}"
    )
    return connection.exec_driver_sql(query).scalar() or "another process"


def holder(engine: sqlalchemy.Engine) -> str:
    """Who has been inside a transaction for longest, and since when, as one who holds a lock has."""
    query = (
        f"SELECT {WHO} || ' since ' || to_char(xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS') || ' UTC' "
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND xact_start < now() - interval '5 s' ORDER BY xact_start LIMIT 1"
    )
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(query).scalar()
    except SQLAlchemyError:
        return ""
    return f", perhaps by {found}" if found else ""
