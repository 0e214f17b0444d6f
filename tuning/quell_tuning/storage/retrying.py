"""A storage that waits for its database: every call is repeated while the database cannot be reached.

Optuna takes a lost connection for a failed trial, or leaves the trial running for ever.

The loop is our own: with `tenacity` 9 it had 27 lines instead of 28, and a call that needs no repetition took 100 us
instead of 6.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.study import StudyDirection
from optuna.trial import TrialState

from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.outages import away, broken
from quell_tuning.storage.tables import current_call, this_call

log = logging.getLogger("quell")

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = environment.PATIENCE_S.seconds()
# Between two attempts; the first follows a restart at once, the last rate is gentle to a server under repair.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0


class _Waiting(threading.local):
    """How this thread waits."""

    at_most_s = PATIENCE_S
    unless: Callable[[], None] = staticmethod(lambda: None)


def _repeated(method: Callable[Concatenate[BaseStorage, P], T]) -> Callable[Concatenate["RetryingStorage", P], T]:
    """The backend's method of this name, repeated while the database cannot be reached."""

    def repeated(self: "RetryingStorage", /, *arguments: P.args, **keywords: P.kwargs) -> T:
        attempt: Callable[P, T] = getattr(self.backend, method.__name__)
        return self._call(attempt, *arguments, **keywords)

    return repeated


class RetryingStorage(BaseStorage):
    """Another storage, whose calls are repeated with longer and longer pauses while it cannot be reached.

    A call whose answer was lost is done once and answered as if nothing had happened: writes of attributes, parameters
    and reports overwrite themselves; trials are made and change their state under the name of the call
    (`quell_tuning.storage.tables`); a study is known by its name. With a proxy of an older version a trial may be made
    twice, of which the second is superfluous, and a claim may be lost, which is reaped (`quell_tuning.trials.budget`).

    Args:
        close: ends its connections.
        reading: what a call that only reads is made in.
        check: called before every attempt; raises StorageError where the database can't be used any more.
        holder: what holds the database's lock, as far as it tells; empty without.

    Raises:
        StorageError: from any method, when the database was away for longer than QUELL_PATIENCE_S, or can't be used.
    """

    def __init__(
        self,
        backend: BaseStorage,
        close: Callable[[], None] = lambda: None,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
        check: Callable[[], None] = lambda: None,
        holder: Callable[[], str] = lambda: "",
    ) -> None:
        self.backend = backend
        self.close = close
        self.reading = reading
        self.check = check
        self.holder = holder
        self._waiting = _Waiting()

    @contextmanager
    def waiting(self, *, at_most_s: float | None = None, unless: Callable[[], None] | None = None) -> Iterator[None]:
        """Inside the block this thread waits for so long at most, and calls `unless` meanwhile, which may raise."""
        outer = self._waiting.at_most_s, self._waiting.unless
        self._waiting.at_most_s = outer[0] if at_most_s is None else at_most_s
        self._waiting.unless = unless or outer[1]
        try:
            yield
        finally:
            self._waiting.at_most_s, self._waiting.unless = outer

    def _call(self, method: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        call, pauses = this_call(), 0
        while True:
            self.check()
            try:
                reads = getattr(method, "__name__", "").startswith("get_")
                with current_call(call), self.reading() if reads else nullcontext():
                    result = method(*arguments, **keywords)
            except Exception as error:
                reason = _reason_to_wait(error)
                call.repeated = True
                if pauses == 0:
                    began = time.monotonic()
                    held = self.holder() if "lock" in reason else ""
                    log.warning("storage: %s%s; trying again for %.0f s", reason, held, self._waiting.at_most_s)
                self._pause(pauses, time.monotonic() - began, reason, error)
                pauses += 1
            else:
                if pauses:
                    log.warning("storage: back after %.1f s", time.monotonic() - began)
                return result

    def _pause(self, number: int, away_s: float, reason: str, error: Exception) -> None:
        if away_s >= self._waiting.at_most_s:
            text = f"storage: away for {away_s:.0f} s ({reason}), expected it back; start it and run the same again"
            raise StorageError(text) from error
        pause_s = min(FIRST_PAUSE_S * 2.0**number, LONGEST_PAUSE_S)
        until = time.monotonic() + pause_s * random.uniform(0.5, 1)  # not all workers at the same instant
        while (remaining_s := until - time.monotonic()) > 0:
            self._waiting.unless()
            time.sleep(min(remaining_s, 0.2))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        try:
            return self._call(self.backend.set_trial_state_values, trial_id, state, values)
        except UpdateFinishedTrialError:
            # An older proxy does not know calls: this result may have been stored by the attempt before, whose answer
            # was lost. FAIL may be another worker's verdict, not ours.
            trial = self.get_trial(trial_id)
            intended = (state, None if values is None else list(values))
            if state != TrialState.FAIL and (trial.state, trial.values) == intended:
                return True
            raise

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        # The name is chosen here: Optuna would choose another one at every attempt.
        name = study_name or f"{DEFAULT_STUDY_NAME_PREFIX}{uuid.uuid4()}"
        with current_call() as call:
            try:
                return self._call(self.backend.create_new_study, directions, name)
            except DuplicatedStudyError:
                found = self.get_study_id_from_name(name) if call.repeated else None
                if found is None or self.get_study_directions(found) != list(directions):
                    raise
                return found  # made by the attempt before, whose answer was lost

    def delete_study(self, study_id: int) -> None:
        with current_call() as call:
            try:
                self._call(self.backend.delete_study, study_id)
            except KeyError:
                if not call.repeated:
                    raise

    set_study_user_attr = _repeated(BaseStorage.set_study_user_attr)
    set_study_system_attr = _repeated(BaseStorage.set_study_system_attr)
    get_study_id_from_name = _repeated(BaseStorage.get_study_id_from_name)
    get_study_name_from_id = _repeated(BaseStorage.get_study_name_from_id)
    get_study_directions = _repeated(BaseStorage.get_study_directions)
    get_study_user_attrs = _repeated(BaseStorage.get_study_user_attrs)
    get_study_system_attrs = _repeated(BaseStorage.get_study_system_attrs)
    get_all_studies = _repeated(BaseStorage.get_all_studies)
    create_new_trial = _repeated(BaseStorage.create_new_trial)
    set_trial_param = _repeated(BaseStorage.set_trial_param)
    set_trial_intermediate_value = _repeated(BaseStorage.set_trial_intermediate_value)
    set_trial_user_attr = _repeated(BaseStorage.set_trial_user_attr)
    set_trial_system_attr = _repeated(BaseStorage.set_trial_system_attr)
    get_trial_id_from_study_id_trial_number = _repeated(BaseStorage.get_trial_id_from_study_id_trial_number)
    get_trial = _repeated(BaseStorage.get_trial)
    get_all_trials = _repeated(BaseStorage.get_all_trials)

    def remove_session(self) -> None:
        with suppress(Exception):
            self.backend.remove_session()


def _reason_to_wait(error: Exception) -> str:
    """What the error says about a database that is away for now.

    Raises:
        StorageError: the database is there and cannot be used.
        Exception: any other error, as it is.
    """
    reason = away(error)
    if reason is not None:
        return reason
    reason = broken(error)
    if reason is None:
        raise error
    if "expected" in reason:  # a proxy's whole line
        raise StorageError(reason) from error
    text = f"storage: {reason}, expected tables of quell that can be written; check the database and run the same again"
    raise StorageError(text) from error
