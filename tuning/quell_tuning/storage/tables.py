"""Optuna's tables: made, checked, upgraded, and written to once, however often a call is repeated.

Private names of Optuna, read in version 5.0.0: of `storages._rdb.storage` the session and the parts of two methods.
"""

import copy
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from quell_tuning import sqlite_file
from quell_tuning.errors import StorageError
from quell_tuning.outages import away, broken, first_line
from quell_tuning.storage.urls import shown

# System attribute of a trial: names of the latest calls that made it or changed its state.
CALLS = "quell:calls"
KEPT = 8  # names; between a call and its repetition others may claim the trial and hand it back
UNUSED_S = 0.5  # for a lock of a process that has the file open


@dataclass
class Call:
    """A call of a storage, with all its repetitions; of one whose answer was lost it is unknown whether it was done."""

    name: str = field(default_factory=lambda: secrets.token_hex(6))
    repeated: bool = False


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def this_call() -> Call:
    """The call that this thread is in, else a new one."""
    return _current.get() or Call()


@contextmanager
def current_call(call: Call | None = None) -> Iterator[Call]:
    """Inside the block this thread is in the call; without one in that which it is in already, or in a new one."""
    call = call or this_call()
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


class OptunaTables(RDBStorage):
    """Optuna's storage, except that a repeated call which was done before does nothing and gives its answer again.

    The call's name is stored in the transaction that does it. Attributes, parameters and reports overwrite themselves.
    A repetition waits for the transaction before, whose end the server may still have to see, by the locks of both.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            _disconnect(self)
            raise

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Without Optuna's own repetitions, which know nothing of calls and sleep for up to 2 s each."""
        template = template_trial or _blank()
        with current_call() as call, _create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            row = _made_by(call, study_id, session) if call.repeated else None
            if row is None:
                named = copy.copy(template)
                named.system_attrs = template.system_attrs | {CALLS: [call.name]}
                row = self._get_prepared_new_trial(study_id, named, session)
            number, trial_id = int(row.number), int(row.trial_id)
            start = row.datetime_start
        trial = copy.deepcopy(template)
        trial.number, trial.datetime_start, trial._trial_id = number, start, trial_id
        return trial

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with current_call() as call, _create_scoped_session(self.scoped_session) as session:
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            calls = _calls(trial_id, session)
            if call.name in calls:
                return True
            self.check_trial_is_updatable(trial_id, trial.state)
            if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
                return False
            kept = [*calls, call.name][-KEPT:]
            self._set_trial_attr_without_commit(session, models.TrialSystemAttributeModel, trial_id, CALLS, kept)
            for objective, value in enumerate(values or ()):
                self._set_trial_value_without_commit(session, trial, objective, value)
            trial.state = state
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            if state.is_finished():
                trial.datetime_complete = datetime.now()
        return True


def _disconnect(storage: RDBStorage) -> None:
    """Closes the connections of a storage, also of one whose making has failed."""
    if hasattr(storage, "scoped_session"):
        storage.remove_session()
    if hasattr(storage, "engine"):
        storage.engine.dispose()


def _blank() -> FrozenTrial:
    """A trial that runs from now on, as Optuna makes it without a template."""
    return FrozenTrial(0, TrialState.RUNNING, None, datetime.now(), None, {}, {}, {}, {}, {}, 0)


def _made_by(call: Call, study_id: int, session: Any) -> Any:
    """The trial that an attempt before has made; None where there was none."""
    attribute = models.TrialSystemAttributeModel
    made = session.query(models.TrialModel).join(attribute, attribute.trial_id == models.TrialModel.trial_id)
    made = made.filter(models.TrialModel.study_id == study_id, attribute.key == CALLS)
    return made.filter(attribute.value_json.contains(f'"{call.name}"')).first()


def _calls(trial_id: int, session: Any) -> list[str]:
    attribute = models.TrialSystemAttributeModel
    found = session.query(attribute.value_json).filter(attribute.trial_id == trial_id, attribute.key == CALLS).first()
    return json.loads(found[0]) if found else []


def open_tables(url: str, engine: Mapping[str, Any]) -> OptunaTables:
    """Optuna's tables, made where there are none; raises StorageError if another version of Optuna made them."""
    try:
        return OptunaTables(url, engine_kwargs=dict(engine))
    except RuntimeError as error:  # with this text, in Optuna 5.0.0
        made_by = re.search(r"set up by optuna ([^)]+)\)", str(error))
        if made_by is None:
            raise
        older = "storage upgrade" in str(error)
        remedy = f"run `quell storage upgrade --storage {shown(url)}`" if older else "update optuna"
        found = f"its tables were made by optuna {made_by[1]}, expected those of optuna {optuna.__version__}"
        raise StorageError(f"{shown(url)}: {found}; {remedy}") from None


def upgrade(url: str) -> tuple[str, str, Path | None]:
    """Upgrades the tables of a database that no process uses, as Optuna does.

    Returns the revision before and that of now, equal where nothing was to be done, and of an SQLite file the copy of
    the one before.

    Raises:
        StorageError: the database is in use, as far as it tells, has no tables of Optuna or those of a newer one, or
            the upgrade fails.
    """
    saved = None
    file = _sqlite_file(url)
    if file is not None and not file.exists():
        raise StorageError(f"{file}: no such database, expected one made by `quell tune`; name another")
    try:
        storage = OptunaTables(url, skip_compatibility_check=True, skip_table_creation=True)
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        raise _failed(url, error, saved) from error
    try:
        before, latest, known = storage.get_current_version(), storage.get_head_version(), storage.get_all_versions()
        if before not in known:
            expected = f"expected {latest} or an older one"
            raise StorageError(f"{shown(url)}: its tables are of revision {before}, {expected}; update optuna")
        if before != latest:
            _disconnect(storage)
            if file is None:
                _check_unused(url, storage.engine)
            else:
                saved = _copy_unused(url, file)
            storage.upgrade()
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise _failed(url, error, saved) from error
    finally:
        _disconnect(storage)
    return before, latest, saved


def _failed(url: str, error: Exception, saved: Path | None) -> StorageError:
    reason = broken(error) or away(error) or first_line(error)
    kept = "" if saved is None else f"; the file of before is {saved}"
    return StorageError(f"{shown(url)}: {reason}, expected a database of Optuna; check it{kept}")


def _sqlite_file(url: str) -> Path | None:
    return Path(url.partition(":///")[2]) if url.startswith("sqlite:") else None


def _copy_unused(url: str, file: Path) -> Path:
    """A copy of an SQLite file, beside it; raises StorageError where another process has the file open."""
    with closing(sqlite3.connect(file, timeout=UNUSED_S)) as database:
        try:
            database.execute("PRAGMA journal_mode=DELETE")  # which only the one process that has it open may do
        except sqlite3.OperationalError:
            raise _in_use(url, "another process has it open") from None
        numbers = (file.with_name(f"{file.stem}-before-upgrade-{number}{file.suffix}") for number in count(1))
        target = next(path for path in numbers if not path.exists())
        sqlite_file.copy(database, target)
    return target


def _check_unused(url: str, engine: sqlalchemy.Engine) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'quell'"
    with engine.connect() as connection:
        others = connection.exec_driver_sql(query).scalar()
    if others:
        raise _in_use(url, f"{others} connections of quell")


def _in_use(url: str, found: str) -> StorageError:
    return StorageError(f"{shown(url)}: {found}, expected a database that is not in use; stop what uses it")
