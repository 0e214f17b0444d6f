"""Storages by URL, and what a study refuses to continue with."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tuning.errors import StorageError, StudyNotFound
from tuning.storage import open_storage
from tuning.study import difference, load_study


def open_at_once(url: str, start: Barrier, out: "multiprocessing.Queue[str]") -> None:
    start.wait()
    try:
        open_storage(url, create=True)
        out.put("")
    except StorageError as error:
        out.put(str(error))


def test_processes_that_make_the_same_database_at_once_all_get_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for attempt in range(2):
        start, out = context.Barrier(4), context.Queue()
        url = f"sqlite:///{tmp_path / f'{attempt}.db'}"
        children = [context.Process(target=open_at_once, args=(url, start, out)) for _ in range(4)]
        for child in children:
            child.start()
        assert [out.get(timeout=60) for _ in children] == [""] * 4
        for child in children:
            child.join()


def test_a_database_is_made_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"q\.db: no such database, expected one made by `quell tune`"):
        open_storage(f"sqlite:///{tmp_path / 'q.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.write_text("this is not a database, and it is long enough to have a header " * 10)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"q\.db: .*not a database, expected a SQLite database"):
        open_storage(f"sqlite:///{path}")
    assert path.read_bytes() == before


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
