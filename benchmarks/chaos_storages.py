"""The storages of `chaos.py`, each with its outages: what may happen to a database while a study runs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy
from quell_tuning.storage.postgres_server import PostgresServer

# Of the session that ends an outage, which must not be hit by it.
OWN = {"options": "-c statement_timeout=0 -c default_transaction_read_only=off"}


@dataclass(frozen=True)
class Backend:
    """A storage for one run, and its outages: each lasts for some seconds, and then the storage is as before."""

    url: str
    outages: Mapping[str, Callable[[float], None]]


@contextmanager
def sqlite(folder: Path) -> Iterator[Backend]:
    file = folder / "q.db"

    def lock(seconds: float) -> None:
        with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")

    yield Backend(f"sqlite:///{file}", {"locked for writers": lock})


@contextmanager
def postgres(folder: Path) -> Iterator[Backend]:
    folder.chmod(0o755)  # as root the server has a user of its own
    server = PostgresServer(folder / "postgres", password="chaos")
    server.init()
    server.start()

    def stopped(seconds: float) -> None:
        server.stop()
        time.sleep(seconds)
        server.start()

    outages = {
        "database stopped": stopped,
        "read-only": partial(_setting, server, "default_transaction_read_only", "on"),
        "statement timeouts": partial(_setting, server, "statement_timeout", "'1ms'"),
    }
    try:
        yield Backend(server.url, outages)
    finally:
        server.stop()


def _setting(server: PostgresServer, name: str, value: str, seconds: float) -> None:
    """Gives all sessions of a server another setting for some seconds."""
    pool = sqlalchemy.pool.NullPool
    engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=pool, connect_args=OWN)
    with engine.connect() as connection:
        for change in (f"SET {name} = {value}", f"RESET {name}"):
            connection.exec_driver_sql(f"ALTER SYSTEM {change}")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
            time.sleep(seconds if change.startswith("SET") else 0)


@contextmanager
def grpc(folder: Path) -> Iterator[Backend]:
    port = PostgresServer(folder, password="").port  # a free one

    def serve() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve", "--port", str(port)]
        with (folder / "proxy.log").open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, "QUELL_STORAGE": below.url}, stdout=log, stderr=log)

    with postgres(folder) as below:
        proxy = serve()

        def stopped(seconds: float) -> None:
            nonlocal proxy
            below.outages["database stopped"](seconds / 2)
            proxy.kill()
            proxy.wait()
            time.sleep(seconds / 2)
            proxy = serve()

        try:
            yield Backend(f"grpc://127.0.0.1:{port}", {**below.outages, "database stopped": stopped})
        finally:
            proxy.kill()
            proxy.wait()


STORAGES = {"sqlite": sqlite, "postgres": postgres, "grpc": grpc}
