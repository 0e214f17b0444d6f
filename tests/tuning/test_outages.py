"""Which errors of real drivers mean that a database is away for now."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from psycopg import errors
from quell_tuning.outages import away, broken

STATES = {
    "connection failure": "08006",
    "protocol violation, as a pooler says": "08P01",
    "serialisation": "40001",
    "deadlock": "40P01",
    "disk full": "53100",
    "too many connections": "53300",
    "statement timeout": "57014",
    "shutdown": "57P01",
    "starting": "57P03",
    "lock timeout": "55P03",
    "read-only server": "25006",
    "failed transaction": "25P02",
    "idle in transaction": "25P03",
    "input or output": "58030",
}
HERE = {
    "no such table": "42P01",
    "no such column": "42703",
    "not allowed": "42501",
    "no such schema": "3F000",
    "damaged": "XX001",
    "prepared twice": "42P05",
}


def from_driver(error: Exception) -> Exception:
    """The error as SQLAlchemy and Optuna hand it on."""
    kind = getattr(sqlalchemy.exc, next(k.__name__ for k in type(error).__mro__ if hasattr(sqlalchemy.exc, k.__name__)))
    internal = StorageInternalError("An exception is raised during the commit.")
    internal.__cause__ = kind("SELECT 1", {}, error)
    return internal


@pytest.mark.parametrize("name", STATES)
def test_a_server_that_will_answer_again_is_away(name: str) -> None:
    error = from_driver(errors.lookup(STATES[name])("it says so\nDETAIL: more"))
    assert away(error) == "it says so"
    assert broken(error) is None


@pytest.mark.parametrize("name", HERE)
def test_a_server_that_answers_is_not_away(name: str) -> None:
    error = from_driver(errors.lookup(HERE[name])("it says so\nDETAIL: more"))
    assert away(error) is None
    assert broken(error) == "it says so"


def test_an_error_about_the_data_is_neither(tmp_path: Path) -> None:
    error = from_driver(errors.lookup("23505")("duplicate key"))
    assert (away(error), broken(error)) == (None, None)
    assert (away(KeyError(7)), broken(KeyError(7))) == (None, None)


def test_a_closed_socket_below_a_complaint_about_autocommit_is_a_lost_connection() -> None:
    try:
        try:
            raise psycopg.OperationalError("sending query failed: Bad file descriptor")
        finally:
            raise psycopg.ProgrammingError("can't change 'autocommit' now: connection in transaction status UNKNOWN")
    except psycopg.ProgrammingError as complaint:
        error = from_driver(complaint)
    assert away(error) == "can't change 'autocommit' now: connection in transaction status UNKNOWN"
    assert away(from_driver(psycopg.ProgrammingError("the query has 1 placeholder but 0 parameters"))) is None


def locked(file: Path) -> None:
    with closing(sqlite3.connect(file)) as first, closing(sqlite3.connect(file, timeout=0)) as second:
        first.execute("BEGIN IMMEDIATE")
        second.execute("BEGIN IMMEDIATE")


def no_such_table(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("SELECT * FROM trials")


def read_only(file: Path) -> None:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        database.execute("CREATE TABLE a (b)")


def not_a_database(file: Path) -> None:
    file.write_text("text " * 300)
    with closing(sqlite3.connect(file)) as database:
        database.execute("SELECT * FROM trials")


@pytest.mark.parametrize(
    ("use", "is_away", "said"),
    [
        (locked, True, "database is locked"),
        (no_such_table, False, "no such table: trials"),
        (read_only, False, "attempt to write a readonly database"),
        (not_a_database, False, "file is not a database"),
    ],
)
def test_a_locked_sqlite_file_is_waited_for_and_one_that_cannot_be_used_is_not(
    use: Callable[[Path], Any], is_away: bool, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "q.db"
    sqlite3.connect(file).close()
    with pytest.raises(sqlite3.Error) as raised:
        use(file)
    error = from_driver(raised.value)
    assert (away(error), broken(error)) == ((said, None) if is_away else (None, said))
