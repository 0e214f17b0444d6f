"""Calls whose answer was lost, on a real server, and tables of other versions of Optuna."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning.cli.app import app
from quell_tuning.errors import StorageError
from quell_tuning.storage import retrying
from quell_tuning.storage.backends import open_storage, upgrade_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.storage.tables import CALLS, upgrade
from relay import Relay

MAXIMIZE = [optuna.study.StudyDirection.MAXIMIZE]
WAITING, RUNNING, COMPLETE, FAIL = TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[Relay]:
    with Relay(postgres.port) as relay:
        yield relay


@pytest.fixture(params=["postgres", "grpc"])
def storage(request: pytest.FixtureRequest, relay: Relay, postgres: PostgresServer) -> Iterator[RetryingStorage]:
    """A storage whose answers the relay can lose, either to it or to the proxy in between."""
    behind = open_storage(postgres.url.replace(f":{postgres.port}/", f":{relay.port}/"))
    if request.param == "postgres":
        yield behind
    else:
        pytest.importorskip("grpc")
        from quell_tuning.storage.grpc_service import make_server

        server = make_server(behind.backend, behind.check, shared=False)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        client = open_storage(f"grpc://127.0.0.1:{port}")
        yield client
        client.close()
        server.stop(None).wait()
    behind.close()


@pytest.fixture
def study(storage: RetryingStorage, study_name: str) -> int:
    return storage.create_new_study(MAXIMIZE, study_name)


def trials(storage: RetryingStorage, study: int) -> list[FrozenTrial]:
    return storage.get_all_trials(study)


def test_a_study_whose_answer_was_lost_is_made_once(storage: RetryingStorage, relay: Relay, study_name: str) -> None:
    relay.lose = b"COMMIT"
    study = storage.create_new_study(MAXIMIZE, study_name)
    assert relay.lost == 1
    assert [found.study_name for found in storage.get_all_studies()].count(study_name) == 1
    assert storage.get_study_id_from_name(study_name) == study
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MAXIMIZE, study_name)
    relay.lose = b"COMMIT"
    storage.delete_study(study)
    assert relay.lost == 2
    with pytest.raises(KeyError):
        storage.delete_study(study)


@pytest.mark.parametrize(
    "template",
    [None, create_trial(state=WAITING, user_attrs={"slot": 3}), create_trial(state=COMPLETE, value=0.5)],
    ids=["asked", "enqueued", "added"],
)
def test_a_trial_whose_answer_was_lost_is_made_once(
    template: FrozenTrial | None, storage: RetryingStorage, relay: Relay, study: int
) -> None:
    relay.lose = b"COMMIT"
    trial = storage.create_new_trial(study, template)
    assert relay.lost == 1
    (found,) = trials(storage, study)
    assert (found._trial_id, found.number) == (trial, 0)
    assert found.state == (template.state if template else RUNNING)
    assert found.user_attrs == (template.user_attrs if template else {})
    assert storage.get_trial_id_from_study_id_trial_number(study, 0) == trial


@pytest.mark.parametrize(
    ("before", "state", "values"),
    [(WAITING, RUNNING, None), (RUNNING, WAITING, None), (RUNNING, COMPLETE, [0.5]), (RUNNING, FAIL, None)],
    ids=["claim", "hand back", "complete", "fail"],
)
def test_a_change_of_state_whose_answer_was_lost_is_done_once(
    before: TrialState, state: TrialState, values: Any, storage: RetryingStorage, relay: Relay, study: int
) -> None:
    trial = storage.create_new_trial(study, create_trial(state=before))
    relay.lose = b"COMMIT"
    assert storage.set_trial_state_values(trial, state, values) is True
    assert relay.lost == 1
    assert (storage.get_trial(trial).state, storage.get_trial(trial).values) == (state, values)
    assert len(storage.get_trial(trial).system_attrs[CALLS]) == 2
    if state.is_finished():
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(trial, FAIL)
    elif state == RUNNING:
        assert storage.set_trial_state_values(trial, RUNNING) is False


def test_a_repeated_hand_back_does_not_take_the_trial_from_who_claimed_it_meanwhile(
    storage: RetryingStorage, relay: Relay, study: int, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = storage.create_new_trial(study, create_trial(state=RUNNING))
    other = open_storage(postgres.url)

    def claimed_meanwhile(*_: object) -> None:
        assert other.set_trial_state_values(trial, RUNNING) is True

    monkeypatch.setattr(storage, "_pause", claimed_meanwhile)
    relay.lose = b"COMMIT"
    assert storage.set_trial_state_values(trial, WAITING) is True
    assert storage.get_trial(trial).state == RUNNING
    other.close()


def test_what_a_trial_is_told_while_answers_are_lost_is_stored(
    storage: RetryingStorage, relay: Relay, study: int
) -> None:
    trial = storage.create_new_trial(study)
    uniform = FloatDistribution(0, 1)
    writes: list[Callable[[], None]] = [
        lambda: storage.set_trial_param(trial, "x", 0.25, uniform),
        lambda: storage.set_trial_intermediate_value(trial, 7, 0.5),
        lambda: storage.set_trial_user_attr(trial, "lease", [1, 0.5]),
        lambda: storage.set_trial_user_attr(trial, "lease", [2, 0.5]),
        lambda: storage.set_trial_system_attr(trial, "key", "value"),
        lambda: storage.set_study_user_attr(study, "plan", {"0": {}}),
        lambda: storage.set_study_system_attr(study, "note", "text"),
    ]
    for number, write in enumerate(writes):
        relay.lose = b"COMMIT"
        write()
        assert relay.lost == number + 1
    found = storage.get_trial(trial)
    assert (found.params, found.intermediate_values) == ({"x": 0.25}, {7: 0.5})
    assert found.user_attrs == {"lease": [2, 0.5]}
    assert found.system_attrs["key"] == "value"
    assert storage.get_study_user_attrs(study) == {"plan": {"0": {}}}
    assert storage.get_study_system_attrs(study) == {"note": "text"}


def old_database(file: Path) -> None:
    """Tables of Optuna 3.0, which had one index less, with one study."""
    storage = RDBStorage(f"sqlite:///{file}")
    study = optuna.create_study(study_name="old", storage=storage)
    study.add_trial(create_trial(state=COMPLETE, value=0.5))
    storage.remove_session()
    storage.engine.dispose()
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP INDEX ix_trials_study_id")
        database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
        database.execute("UPDATE version_info SET library_version = '3.0.6'")
        database.commit()


def test_upgrading_keeps_the_trials_and_a_copy_of_the_file_before(tmp_path: Path) -> None:
    file = tmp_path / "quell.db"
    old_database(file)
    before = dump(file)
    with pytest.raises(StorageError, match=r"run `quell storage upgrade --storage sqlite:///\S+quell\.db`$"):
        open_storage(f"sqlite:///{file}")
    first, last, saved = upgrade(f"sqlite:///{file}")
    assert (first, saved) == ("v3.0.0.d", tmp_path / "quell-before-upgrade-1.db")
    assert dump(saved) == before
    assert any("trials_study_id_key" in line for line in dump(file))
    storage = open_storage(f"sqlite:///{file}")
    study = optuna.load_study(study_name="old", storage=storage)
    assert [trial.value for trial in study.trials] == [0.5]
    storage.close()
    assert upgrade(f"sqlite:///{file}") == (last, last, None)


def test_the_command_names_the_copy_and_refuses_a_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old_database(tmp_path / "quell.db")
    app(["storage", "upgrade", "--runs", str(tmp_path)], standalone_mode=False)
    said = capsys.readouterr().err
    copy = tmp_path / "quell-before-upgrade-1.db"
    assert said == f"tables of revision v3.2.0.a, before of v3.0.0.d; the file of before is {copy}\n"
    with pytest.raises(StorageError, match=r"^grpc://host:1: a proxy, expected the database behind it; name that"):
        upgrade_storage("grpc://host:1", tmp_path)


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as database:
        return list(database.iterdump())


def test_a_file_in_use_is_not_upgraded(tmp_path: Path) -> None:
    file = tmp_path / "quell.db"
    old_database(file)
    with closing(sqlite3.connect(file)) as user:
        user.execute("PRAGMA journal_mode=WAL")
        user.execute("SELECT * FROM studies").fetchall()
        before = dump(file)
        with pytest.raises(StorageError, match=r"quell\.db: another process has it open, expected .* not in use; stop"):
            upgrade(f"sqlite:///{file}")
        assert dump(file) == before
    assert [path.name for path in tmp_path.iterdir()] == ["quell.db"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such database, expected one made"), (b"", "no such table"), (b"text " * 300, "not a database")],
)
def test_what_is_no_database_is_not_upgraded(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "q.db"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StorageError, match=said) as raised:
        upgrade(f"sqlite:///{file}")
    assert "\n" not in str(raised.value)
    assert (file.read_bytes() if file.exists() else None) == content


def test_tables_of_a_newer_optuna_are_not_upgraded(tmp_path: Path) -> None:
    file = tmp_path / "q.db"
    open_storage(f"sqlite:///{file}", create=True).close()
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
        database.commit()
    with pytest.raises(StorageError, match=r"are of revision v9\.0\.0\.a, expected v\S+ or an older"):
        upgrade(f"sqlite:///{file}")


def test_a_server_in_use_is_not_upgraded(fresh_database: Callable[[], str], wait_for: Callable[..., Any]) -> None:
    url = fresh_database()
    storage = open_storage(url)
    with storage.backend._backend.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    with pytest.raises(StorageError, match=r": \d connections of quell, expected a database that is not in use; stop"):
        upgrade(url)
    storage.close()
    with pytest.raises(StorageError, match=r"expected those of optuna"):
        open_storage(url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'quell'"
    with engine.connect() as connection:  # neither of what was refused is left open
        wait_for(lambda: connection.exec_driver_sql(query).scalar() == 0)
    assert upgrade(url)[0] == "v3.0.0.d"
    open_storage(url).close()
