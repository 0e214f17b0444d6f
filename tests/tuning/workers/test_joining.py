"""How a worker comes in while its database is away."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy.exc
from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study.study_file import StudySpec
from quell_tuning.workers import joining
from quell_tuning.workers.joining import join, open_patiently
from quell_tuning.workers.worker import StopRequest, StopRequested
from rich.console import Console

pytestmark = pytest.mark.usefixtures("handlers")


def place(*answers: Any) -> Any:
    """A place whose storage is opened with the next of the answers, an error or a storage."""
    left = iter(answers)

    def open_storage() -> Any:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    runs = SimpleNamespace(check=lambda write: None)
    return SimpleNamespace(open_storage=open_storage, open_corpus=lambda *_, **__: None, runs=runs)


MISSED_LOOKS = StorageError("postgresql://host/db: Connection refused")


def test_a_worker_of_a_pool_waits_for_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.POOL.name, str(os.getppid()))
    monkeypatch.setattr(joining.time, "sleep", lambda seconds: None)
    assert open_patiently(place(MISSED_LOOKS, MISSED_LOOKS, "storage"), StopRequest()) == "storage"


def test_a_worker_that_a_user_starts_raises_that_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.POOL.name, raising=False)
    with pytest.raises(StorageError, match="Connection refused"):
        open_patiently(place(MISSED_LOOKS, "storage"), StopRequest())


def test_a_worker_of_a_pool_that_ended_stops_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.POOL.name, "1")
    with pytest.raises(StopRequested):
        open_patiently(place(MISSED_LOOKS, "storage"), StopRequest())


class Gone:
    """A database that went away when it had been opened."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*_: Any) -> Any:
            raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))

        return method


def test_a_worker_stops_when_asked_though_its_database_went_away_before_it_had_its_study(
    tiny_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.POOL.name, raising=False)
    storage = RetryingStorage(Gone())
    asked = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    asked.start()
    began = time.monotonic()
    with storage.waiting(at_most_s=8):
        assert join(tiny_spec(), "search", place(storage), "cpu", Console()) == 143
    assert time.monotonic() - began < 5
    asked.join()
