"""Storages by URL, and what a study refuses to continue with."""

import multiprocessing
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pytest
import sqlalchemy
from quell_tuning.errors import StorageError, StudyNotFound
from quell_tuning.storage import backends as module
from quell_tuning.storage import postgres_limits
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.urls import shown
from quell_tuning.study.stored_study import difference, load_study


def test_a_storage_of_each_kind_keeps_a_study(url: str, study_name: str) -> None:
    for _ in range(2):
        storage = open_storage(url, create=True)
        study = optuna.create_study(study_name=study_name, storage=storage, load_if_exists=True)
        study.enqueue_trial({"x": 0.5})
        assert len(study.trials) == len({trial.number for trial in study.trials})
        storage.close()
    assert len(study_of(url, study_name)) == 2


def study_of(url: str, study_name: str) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(url)
    try:
        return optuna.load_study(study_name=study_name, storage=storage).trials
    finally:
        storage.close()


def open_at_once(urls: list[str], start: Barrier, out: "multiprocessing.Queue[list[str]]") -> None:
    said = []
    for url in urls:
        start.wait(60)
        try:
            open_storage(url, create=True).close()
        except StorageError as error:
            said.append(str(error))
    out.put(said)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_that_make_the_same_tables_at_once_all_open_them(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = [f"sqlite:///{tmp_path / f'{attempt}.db'}" for attempt in range(2)]
    if kind == "postgres":
        fresh_database = request.getfixturevalue("fresh_database")
        urls = [fresh_database() for _ in range(2)]
    context, processes = multiprocessing.get_context("spawn"), 3
    start, out = context.Barrier(processes), context.Queue()
    children = [context.Process(target=open_at_once, args=(urls, start, out)) for _ in range(processes)]
    for child in children:
        child.start()
    assert [out.get(timeout=60) for _ in children] == [[]] * processes
    for child in children:
        child.join()


def test_a_database_is_made_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"q\.db: no such database, expected one made by `quell tune`"):
        open_storage(f"sqlite:///{tmp_path / 'q.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_named_and_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.write_text("this is not a database, and it is long enough to have a header " * 10)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"q\.db: .*not a database, expected a SQLite database"):
        open_storage(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [("v3.0.0.a", "run `quell storage upgrade --storage {url}`"), ("v9.0.0.a", "update optuna")],
)
def test_tables_of_another_optuna_are_one_line_with_both_versions(revision: str, remedy: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'q.db'}"
    open_storage(url, create=True).close()
    with closing(sqlite3.connect(tmp_path / "q.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
        database.execute("UPDATE version_info SET library_version = '7.8.9'")
        database.commit()
    with pytest.raises(StorageError) as raised:
        open_storage(url)
    versions = f"its tables were made by optuna 7.8.9, expected those of optuna {optuna.__version__}"
    assert str(raised.value) == f"{url}: {versions}; {remedy.format(url=url)}"


def test_readers_of_a_file_do_not_wait_for_a_writer_and_writers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.2)
    storage = open_storage(f"sqlite:///{tmp_path / 'q.db'}", create=True)
    study = optuna.create_study(storage=storage)
    study.tell(study.ask(), 1.0)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'q.db'}", isolation_level="AUTOCOMMIT")
    with engine.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        assert [trial.value for trial in study.get_trials()] == [1.0]
        assert optuna.load_study(study_name=study.study_name, storage=storage).user_attrs == {}
        with storage.waiting(at_most_s=0), pytest.raises(StorageError, match="locked"):
            study.set_user_attr("key", "value")
        writer.exec_driver_sql("ROLLBACK")
    study.set_user_attr("key", "value")
    assert study.user_attrs == {"key": "value"}
    engine.dispose()
    storage.close()


def test_an_empty_storage_has_no_study(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'q.db'}", create=True)
    with pytest.raises(StudyNotFound, match="no studies, expected at least one"):
        load_study(None, storage)
    storage.close()


def test_difference_names_the_first_key_that_differs_and_both_values() -> None:
    stored = {"corpus": {"sample_rate": 16000}, "search": {"depth": {"low": 3, "high": 6}}}
    assert difference(stored, stored) == ""
    other = {"corpus": {"sample_rate": 8000}, "search": {"depth": {"low": 3, "high": 6}}}
    assert difference(stored, other) == "corpus.sample_rate is 8000, expected 16000 as when it began"
    wider = {"corpus": {"sample_rate": 16000}, "search": {"depth": {"low": 3, "high": 7}}}
    assert difference(stored, wider).startswith('search.depth is {"low": 3, "high": 7}, expected {"low": 3, "high": 6}')


def test_postgresql_alone_means_our_driver(postgres: PostgresServer, study_name: str) -> None:
    storage = open_storage(postgres.url.replace("postgresql+psycopg://", "postgresql://"))
    optuna.create_study(study_name=study_name, storage=storage)
    storage.close()
    assert study_of(postgres.url, study_name) == []


def test_a_password_may_be_in_the_query(postgres: PostgresServer, password: str, study_name: str) -> None:
    address = postgres.url.rpartition("@")[2]
    storage = open_storage(f"postgresql://{address}?user=postgres&password={quote(password, safe='')}")
    optuna.create_study(study_name=study_name, storage=storage)
    storage.close()
    assert study_of(postgres.url, study_name) == []


SECRET = "sesame"  # in every URL below


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"mysql://me:{SECRET}@host/db", "mysql://me:***@host/db, expected sqlite:///FILE, postgresql"),
        (f"postgres://me:{SECRET}@host/db", "postgres://me:***@host/db, expected sqlite:///FILE, postgresql"),
        (f"mysql://host/db?password={SECRET}", "mysql://host/db, expected sqlite:///FILE, postgresql"),
        (f"me:{SECRET}@host/db", "'me', expected sqlite:///FILE, postgresql"),
        (f"{SECRET}@host/db", "no URL, expected sqlite:///FILE, postgresql"),
        (f"postgresql:me:{SECRET}@host/db", "'postgresql', expected .*; quote what is special in the password"),
        (f"postgresql://me:{SECRET}@host:port/db", "'postgresql', expected .*; quote what is special in the password"),
        (f"postgresql://me:{SECRET}@[::1/db", "'postgresql', expected .*; quote what is special in the password"),
        (f"mysql://me@host:{SECRET}/db", "'mysql', expected sqlite:///FILE, postgresql"),
        # What is special in a password, and unquoted.
        (f"postgresql://me:p@{SECRET}@host/db", "'postgresql', expected .*; quote what is special in the password"),
        (f"postgresql://me:{SECRET}@p@host/db", "'postgresql', expected .*; quote what is special in the password"),
        (f"postgresql://me:/{SECRET}@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db: .*Connection refused"),
        (f"postgresql://me:?{SECRET}@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db: .*Connection refused"),
        (f"postgresql://me:#{SECRET}@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db: .*Connection refused"),
        (f"postgresql://me::{SECRET}@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db: .*Connection refused"),
        (f"postgresql://me:%{SECRET}@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db: .*Connection refused"),
        (
            f"postgresql+psycopg://127.0.0.1:1/db?password={SECRET}",
            r"postgresql\+psycopg://127.0.0.1:1/db: .*refused, expected a Postgres server that accepts us; check",
        ),
        (f"postgresql://me:{SECRET}@127.0.0.1:1/db?bogus=1", 'db: invalid connection option "bogus", expected'),
        (f"grpc://me:{SECRET}@host", "grpc://me:***@host, expected grpc://HOST:PORT; take both from"),
        (
            f"grpc://me:{SECRET}@127.0.0.1:1",
            "grpc://me:***@127.0.0.1:1: no answer in 0.3 s, expected `quell storage",
        ),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_in_one_line_without_its_password(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url.startswith("grpc"):
        pytest.importorskip("grpc")
        monkeypatch.setattr(module, "SILENT_S", 0.3)
    with pytest.raises(StorageError, match=said.replace("***", r"\*\*\*")) as raised:
        open_storage(url)
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", ["grpc://127.0.0.1", "grpc://:13000", "grpc://host:port", "grpc://"])
def test_an_address_without_host_or_port_is_refused(url: str) -> None:
    pytest.importorskip("grpc")
    with pytest.raises(StorageError, match=r"^--storage: .*grpc.*, expected grpc://HOST:PORT; take both from `quell"):
        open_storage(url)


@pytest.mark.parametrize("url", ["sqlite", "sqlite:", "sqlite://", "sqlite:///"])
def test_a_file_without_a_name_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match=r"sqlite.*, expected sqlite:///FILE; leave it out for the database in"):
        open_storage(url, create=True)


def test_without_the_package_grpc_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(StorageError, match=r"grpcio is not installed, .*; pip install 'quell-denoiser\[grpc\]'$"):
        open_storage("grpc://127.0.0.1:13000")


def test_a_wrong_password_and_an_unknown_database_are_named(postgres: PostgresServer, password: str) -> None:
    wrong = PostgresServer(postgres.folder, "wrong sesame", postgres.port)
    with pytest.raises(StorageError, match='password authentication failed for user "postgres", expected') as raised:
        open_storage(wrong.url)
    unknown = postgres.url.rpartition("/")[0] + "/nowhere"
    with pytest.raises(StorageError, match='database "nowhere" does not exist, expected') as other:
        open_storage(unknown)
    for error in (raised.value, other.value):
        assert f"postgres:***@127.0.0.1:{postgres.port}/" in str(error)
        assert "\n" not in str(error)
        assert SECRET not in str(error)


def test_a_quoted_password_is_not_shown_either(postgres: PostgresServer, password: str) -> None:
    assert shown(postgres.url) == f"postgresql+psycopg://postgres:***@127.0.0.1:{postgres.port}/postgres"


def in_time(function: Callable[[], Any], seconds: float) -> bool:
    """Whether it returns in time; it goes on in a thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_a_process_frozen_inside_a_transaction_does_not_block_others(
    postgres: PostgresServer, study_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_limits, "SILENT_S", 3)  # of 1, opening takes longer on a busy machine
    frozen, other = open_storage(postgres.url), open_storage(postgres.url)
    study = optuna.create_study(study_name=study_name, storage=other)
    with frozen.backend._backend.engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM studies FOR UPDATE")
        assert in_time(lambda: study.enqueue_trial({}), 10)
        connection.invalidate()
    assert len(study.trials) == 1
    frozen.close()
    other.close()


def test_a_process_frozen_while_it_makes_the_tables_does_not_block_others(
    fresh_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, frozen, goes_on = fresh_database(), threading.Event(), threading.Event()
    make_tables = module.open_tables

    def freeze(*_: Any, **__: Any) -> Any:
        monkeypatch.setattr(module, "open_tables", make_tables)
        frozen.set()
        goes_on.wait(60)
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("woken up"))

    def open_frozen() -> None:
        with pytest.raises(StorageError):
            open_storage(url)

    monkeypatch.setattr(postgres_limits, "SILENT_S", 3)
    monkeypatch.setattr(module, "open_tables", freeze)
    thread = threading.Thread(target=open_frozen, daemon=True)
    thread.start()
    assert frozen.wait(10)
    try:
        assert in_time(lambda: open_storage(url).close(), 30)
    finally:
        goes_on.set()
        thread.join(10)
