"""Postgres that is read-only, slow, locked or behind PgBouncer: waited for, limited, told."""

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from quell_tuning.errors import StorageError
from quell_tuning.storage import postgres_limits, retrying
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def pooler(
    postgres: PostgresServer, password: str, free_port: Callable[[], int], tmp_path: Path, wait_for: Callable[..., Any]
) -> Iterator[Callable[..., str]]:
    """Starts PgBouncer in front of the server; the URL of the database through it."""
    if PGBOUNCER is None:
        pytest.skip("needs pgbouncer")
    started: list[subprocess.Popen[bytes]] = []
    folder = Path(f"/tmp/pgbouncer-{os.getpid()}")  # which another user may enter, unlike tmp_path
    folder.mkdir()

    def start(mode: str, extra: str = "") -> str:
        port = free_port()
        quoted = password.replace("'", "''")
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={postgres.port} user=postgres password='{quoted}'\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = 3\n{extra}\n"
        )
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        log = (folder / "log").open("ab")
        started.append(subprocess.Popen([PGBOUNCER, *user, folder / "pgbouncer.ini"], stdout=log, stderr=log))
        log.close()
        wait_for(lambda: f"listening on 127.0.0.1:{port}" in (folder / "log").read_text())
        return f"postgresql+psycopg://me@127.0.0.1:{port}/postgres"

    yield start
    for process in started:
        process.kill()
        process.wait()
    shutil.rmtree(folder)


@pytest.mark.parametrize("extra", ["", "ignore_startup_parameters = options"], ids=["refuses options", "ignores them"])
def test_a_pooler_in_transaction_mode_serves_several_threads_over_few_connections(
    extra: str, pooler: Callable[..., str], study_name: str
) -> None:
    storage = open_storage(pooler("transaction", extra), connections=8)
    study = optuna.create_study(study_name=study_name, storage=storage)

    def report() -> None:
        trial = study.ask()
        for step in range(8):  # statements that come often enough would be prepared on a connection
            trial.report(step / 2, step)
        study.tell(trial, 1.0)

    threads = [threading.Thread(target=report) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(trial.intermediate_values) for trial in study.trials] == [8] * 6
    assert [trial.value for trial in study.trials] == [1.0] * 6
    with storage.backend._backend.engine.connect() as connection:
        for name in postgres_limits.SETTINGS:
            assert connection.exec_driver_sql(f"SHOW {name}").scalar() == f"{postgres_limits.SILENT_S}s"
    storage.close()


def test_a_pooler_that_allows_no_transactions_is_refused_in_one_line(pooler: Callable[..., str]) -> None:
    with pytest.raises(StorageError, match=r"transaction.*statement pooling.*, expected a Postgres server") as raised:
        open_storage(pooler("statement"))
    assert "\n" not in str(raised.value)


def alter(postgres: PostgresServer, *statements: str) -> None:
    own = {"options": "-c statement_timeout=0 -c default_transaction_read_only=off"}
    engine = sqlalchemy.create_engine(
        postgres.url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool, connect_args=own
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize("setting", ["default_transaction_read_only = on", "statement_timeout = '300ms'"])
def test_a_server_that_is_read_only_or_ends_slow_statements_is_waited_for(
    setting: str, postgres: PostgresServer, study_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(postgres.url)
    study = optuna.create_study(study_name=study_name, storage=storage)
    waiting = threading.Thread(target=study.enqueue_trial, args=({"x": 0.5},))
    engine = sqlalchemy.create_engine(postgres.url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection, caplog.at_level(logging.WARNING, "quell"):
        connection.exec_driver_sql("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE")  # makes the statement slow
        alter(postgres, f"ALTER SYSTEM SET {setting}", "SELECT pg_reload_conf()")
        try:
            waiting.start()
            waiting.join(2)
            assert waiting.is_alive()
        finally:
            alter(postgres, f"ALTER SYSTEM RESET {setting.split()[0]}", "SELECT pg_reload_conf()")
    waiting.join(30)
    assert len(study.trials) == 1
    assert ("read-only transaction" if "read_only" in setting else "statement timeout") in caplog.text
    storage.close()


def test_a_missing_table_is_one_line_at_once(fresh_database: Callable[[], str]) -> None:
    storage = open_storage(fresh_database())
    study = optuna.create_study(storage=storage)
    with storage.backend._backend.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trials CASCADE")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r'^storage: relation "trials" does not exist, expected tables of quell .*'):
        study.enqueue_trial({})
    assert time.monotonic() - began < 1
    storage.close()


def test_who_holds_a_lock_for_long_is_told(
    postgres: PostgresServer, study_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres_limits, "SILENT_S", 6)
    storage = open_storage(postgres.url)
    study = optuna.create_study(study_name=study_name, storage=storage)
    name = "migration%20of%20mine"
    engine = sqlalchemy.create_engine(f"{postgres.url}?application_name={name}", poolclass=sqlalchemy.NullPool)
    with caplog.at_level(logging.WARNING, "quell"):
        waiting = threading.Thread(target=study.enqueue_trial, args=({},))
        with engine.connect() as connection:
            connection.exec_driver_sql("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE")
            waiting.start()
            waiting.join(8)
            assert waiting.is_alive()
    waiting.join(30)
    assert len(study.trials) == 1
    assert "canceling statement due to lock timeout, perhaps by process " in caplog.text
    assert "(migration of mine from 127.0.0.1) since " in caplog.text
    storage.close()


def test_tables_that_another_process_makes_for_long_are_told_with_its_name(
    fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres_limits, "TELL_S", 0.2)
    monkeypatch.setattr(postgres_limits, "TABLES_S", 1.0)
    url = fresh_database()
    engine = sqlalchemy.create_engine(f"{url}?application_name=other", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection, caplog.at_level(logging.WARNING, "quell"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({postgres_limits.TABLES_LOCK})")
        with pytest.raises(StorageError, match=r"process \d+ \(other from 127.0.0.1\) has made its tables for 1 s,"):
            open_storage(url)
    assert "(other from 127.0.0.1) makes its tables; waiting for up to 1 s" in caplog.text
    open_storage(url).close()
