"""Databases that are away for a while: with a storage that only pretends, and with servers stopped and started."""

import inspect
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from quell_tuning.errors import StorageError
from quell_tuning.storage import retrying
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.retrying import RetryingStorage

AWAY_S = 3.0
GONE = Exception("server closed the connection\n\tbefore or while processing the request")


TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'quell'"


class FakeRpcError(Exception):
    __module__ = "grpc._channel"

    def __init__(self, code: str, details: str = "") -> None:
        self.code = lambda: SimpleNamespace(name=code)
        self.details = lambda: details


def internal(cause: Exception) -> StorageInternalError:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


OPERATIONAL = sqlalchemy.exc.OperationalError("SELECT 1", {}, GONE)
OUTAGES = {
    "operational": (OPERATIONAL, "server closed the connection"),
    "wrapped by Optuna": (internal(OPERATIONAL), "server closed the connection"),
    "interface": (sqlalchemy.exc.InterfaceError("SELECT 1", {}, Exception("the connection is lost")), "is lost"),
    "invalidated": (
        sqlalchemy.exc.DBAPIError("SELECT 1", {}, Exception("terminated"), connection_invalidated=True),
        "terminated",
    ),
    "lost in the middle of a call": (
        internal(sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")),
        "Can't reconnect",
    ),
    "no connection free": (sqlalchemy.exc.TimeoutError("QueuePool limit of size 2 reached"), "QueuePool limit"),
    "no proxy": (FakeRpcError("UNAVAILABLE", "failed to connect to all addresses"), "failed to connect"),
    "proxy that ends": (FakeRpcError("CANCELLED"), "CANCELLED"),
}
PRESENT = {
    "unknown trial": KeyError("trial 7"),
    "duplicate": sqlalchemy.exc.IntegrityError("INSERT", {}, Exception("duplicate key")),
    "duplicate wrapped by Optuna": internal(sqlalchemy.exc.IntegrityError("INSERT", {}, Exception("duplicate key"))),
    "finished": UpdateFinishedTrialError("trial 7"),
    "wrong value": ValueError("x"),
    "error in the proxy": FakeRpcError("UNKNOWN", "Exception calling application"),
    "Optuna's own": StorageInternalError("no cause"),
}


class Flaky:
    """Stands for a storage whose every method raises an error so many times, then answers "here"."""

    def __init__(self, error: Exception, times: int = 1_000_000) -> None:
        self.error = error
        self.times = times
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., str]:
        def method(*_: Any, **__: Any) -> str:
            self.calls += 1
            if self.calls <= self.times:
                raise self.error
            return "here"

        return method


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_call_is_repeated_until_the_database_is_back_and_then_answers(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    error, reason = OUTAGES[kind]
    backend = Flaky(error, times=3)
    with caplog.at_level(logging.WARNING, "quell"):
        assert RetryingStorage(backend).get_all_studies() == "here"
    assert backend.calls == 4
    first, last = caplog.messages  # once each, not for every try
    assert first.startswith("storage: ") and reason in first and first.endswith("; trying again for 1800 s")
    assert last.startswith("storage: back after 0.")


@pytest.mark.parametrize("name", sorted(BaseStorage.__abstractmethods__))
def test_every_call_of_a_storage_is_retried(name: str) -> None:
    backend = Flaky(OPERATIONAL, times=1)
    parameters = list(inspect.signature(getattr(BaseStorage, name)).parameters)[1:]
    answer = getattr(RetryingStorage(backend), name)(**dict.fromkeys(parameters, 0))
    assert answer == (None if name == "delete_study" else "here")
    assert backend.calls == 2


@pytest.mark.parametrize("kind", PRESENT)
def test_other_errors_of_a_database_are_raised_at_once(kind: str) -> None:
    backend = Flaky(PRESENT[kind])
    with pytest.raises(type(PRESENT[kind])) as raised:
        RetryingStorage(backend).get_trial(7)
    assert raised.value is backend.error
    assert backend.calls == 1


def test_waiting_for_a_database_ends_with_its_last_error() -> None:
    storage = RetryingStorage(Flaky(OPERATIONAL))
    began = time.monotonic()
    with storage.waiting(at_most_s=0.3), pytest.raises(StorageError) as raised:
        storage.get_all_studies()
    assert 0.3 <= time.monotonic() - began < 5
    assert re.fullmatch(
        r"storage: away for \d s \(server closed the connection\), expected it back; start it and run the same again",
        str(raised.value),
    )
    assert raised.value.__cause__ is OPERATIONAL


class StopRequested(BaseException):
    pass


def leave() -> None:
    raise StopRequested


def test_waiting_ends_when_the_caller_is_asked_to_stop() -> None:
    asked = iter([None, None, leave])

    def unless() -> None:
        (next(asked, None) or (lambda: None))()

    storage = RetryingStorage(Flaky(OPERATIONAL))
    with storage.waiting(unless=unless), pytest.raises(StopRequested):
        storage.get_all_studies()


def test_unless_is_not_called_while_the_database_answers() -> None:
    storage = RetryingStorage(Flaky(OPERATIONAL, times=0))
    with storage.waiting(unless=leave):
        assert storage.get_all_studies() == "here"


def test_limits_of_waiting_hold_in_their_block_and_thread_only() -> None:
    storage = RetryingStorage(Flaky(OPERATIONAL))
    others: list[BaseException] = []

    def other() -> None:
        try:
            with storage.waiting(at_most_s=0.2):
                storage.get_all_studies()
        except BaseException as error:
            others.append(error)

    with storage.waiting(unless=leave):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        assert [type(error) for error in others] == [StorageError]
        with storage.waiting(at_most_s=0.0), pytest.raises(StorageError):  # before anybody is asked
            storage.get_all_studies()
        with storage.waiting(at_most_s=0.1, unless=lambda: None), pytest.raises(StorageError):
            storage.get_all_studies()
        with pytest.raises(StopRequested):
            storage.get_all_studies()
    with storage.waiting(at_most_s=0.1), pytest.raises(StorageError):
        storage.get_all_studies()


class LosesAnswers(InMemoryStorage):
    """Does what it is told, but the connection ends before it has said so; once."""

    lost = False

    def set_trial_state_values(self, *arguments: Any) -> bool:
        answer = super().set_trial_state_values(*arguments)
        if not self.lost:
            self.lost = True
            raise OPERATIONAL
        return answer


def running_trial(state: TrialState = TrialState.RUNNING) -> tuple[RetryingStorage, int]:
    storage = LosesAnswers()
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE])
    template = optuna.trial.FrozenTrial(0, state, None, None, None, {}, {}, {}, {}, {}, 0)
    return RetryingStorage(storage), storage.create_new_trial(study, template)


@pytest.mark.parametrize(
    ("state", "values"), [(TrialState.COMPLETE, [0.5]), (TrialState.PRUNED, [0.5]), (TrialState.PRUNED, None)]
)
def test_a_result_whose_answer_was_lost_counts_as_stored(state: TrialState, values: list[float] | None) -> None:
    storage, trial = running_trial()
    assert storage.set_trial_state_values(trial, state, values) is True
    assert (storage.get_trial(trial).state, storage.get_trial(trial).values) == (state, values)


def test_a_failure_whose_answer_was_lost_may_be_another_workers() -> None:
    storage, trial = running_trial()
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial, TrialState.FAIL)


@pytest.mark.parametrize(
    ("state", "values"), [(TrialState.COMPLETE, [0.6]), (TrialState.PRUNED, [0.5]), (TrialState.FAIL, None)]
)
def test_another_result_than_the_stored_one_is_refused(state: TrialState, values: list[float] | None) -> None:
    storage, trial = running_trial()
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial, state, values)
    assert storage.get_trial(trial).values == [0.5]


def test_a_claim_whose_answer_was_lost_is_not_taken() -> None:
    storage, trial = running_trial(TrialState.WAITING)
    assert storage.set_trial_state_values(trial, TrialState.RUNNING) is False


class Reporter(threading.Thread):
    """Reports steps one after another, as a worker does, and completes its trial."""

    def __init__(self, url: str, study_name: str, steps: int) -> None:
        super().__init__(daemon=True)
        self.storage = open_storage(url)
        self.study = optuna.create_study(study_name=study_name, storage=self.storage, direction="maximize")
        self.trial = self.study.ask()
        self.steps = steps
        self.done = 0

    def run(self) -> None:
        while self.done < self.steps:
            self.trial.report(self.done / 2, self.done)
            self.done += 1
            time.sleep(0.02)
        self.study.tell(self.trial, 1.0)


def check_all_is_stored(reporter: Reporter, server: PostgresServer) -> None:
    reporter.join(30)
    assert not reporter.is_alive()
    reporter.storage.close()
    storage = open_storage(server.url)
    (trial,) = optuna.load_study(study_name=reporter.study.study_name, storage=storage).trials
    storage.close()
    assert trial.intermediate_values == {step: step / 2 for step in range(reporter.steps)}
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1.0)


@pytest.mark.parametrize("url", ["postgres", "grpc"], indirect=True)
def test_reports_wait_for_a_server_that_is_away_and_are_stored_once_each(
    url: str, postgres: PostgresServer, study_name: str, wait_for: Callable[..., Any]
) -> None:
    reporter = Reporter(url, study_name, steps=40)
    reporter.start()
    wait_for(lambda: reporter.done > 5)
    postgres.stop()
    try:
        before = reporter.done
        time.sleep(AWAY_S)
        assert reporter.is_alive()
        assert reporter.done <= before + 1
    finally:
        postgres.start()
    check_all_is_stored(reporter, postgres)


def test_reports_wait_for_a_proxy_that_was_killed_and_are_stored_once_each(
    postgres: PostgresServer,
    proxied: Callable[[str, int], AbstractContextManager[subprocess.Popen[bytes]]],
    free_port: Callable[[], int],
    study_name: str,
    wait_for: Callable[..., Any],
) -> None:
    port = free_port()
    with proxied(postgres.url, port):
        reporter = Reporter(f"grpc://127.0.0.1:{port}", study_name, steps=40)
        reporter.start()
        wait_for(lambda: reporter.done > 5)
    time.sleep(AWAY_S / 2)  # the new one needs a while to come up
    assert reporter.is_alive()
    with proxied(postgres.url, port):
        check_all_is_stored(reporter, postgres)


def test_reads_that_lose_their_connection_start_again(postgres: PostgresServer) -> None:
    storage = open_storage(postgres.url)
    study = optuna.create_study(storage=storage)
    for number in range(10):
        study.ask().set_user_attr("number", number)
    over, read = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            read.append(len(study.get_trials(deepcopy=False)))

    engine = sqlalchemy.create_engine(postgres.url, poolclass=sqlalchemy.pool.NullPool)
    with ThreadPoolExecutor(3) as pool:
        looks = [pool.submit(look) for _ in range(3)]
        for _ in range(60):
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(TERMINATE))
            time.sleep(0.03)
        over.set()
    for look_on in looks:
        look_on.result()
    assert set(read) == {10}
    storage.close()
