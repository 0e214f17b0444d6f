"""A storage that waits for its database: every call is repeated while the database cannot be reached.

Optuna takes a lost connection for a failed trial, or leaves the trial running for ever.

The loop is our own: with `tenacity` 9 it had 27 lines instead of 28, and a call that needs no repetition took 100 us
instead of 6.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from quell_tuning import environment
from quell_tuning.errors import StorageError

log = logging.getLogger("quell")

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = environment.PATIENCE_S.seconds()
# Between two attempts; the first follows a restart at once, the last rate is gentle to a server under repair.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0


def unreachable(error: BaseException) -> str | None:
    """What a storage's error says about a database that cannot be reached for now; None for any other error."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    if isinstance(cause, sqlalchemy.exc.DBAPIError):
        disconnected = isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
        return _first_line(cause.orig) if disconnected or cause.connection_invalidated else None
    # PendingRollbackError: the rest of a call whose connection was lost in the middle; the next one starts afresh.
    if isinstance(cause, sqlalchemy.exc.TimeoutError | sqlalchemy.exc.PendingRollbackError):
        return _first_line(cause)
    code = getattr(cause, "code", None)  # grpc.RpcError, without importing grpc
    if type(cause).__module__.startswith("grpc") and callable(code) and code().name in ("UNAVAILABLE", "CANCELLED"):
        return str(getattr(cause, "details", lambda: "")() or code().name)
    return None


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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

    Repeating is safe: writes of attributes, parameters and reports overwrite themselves; of a trial that was made
    twice the second is superfluous (`quell_tuning.trials.budget`); a claim whose answer was lost is reaped.

    Args:
        close: ends its connections.
        reading: what a call that only reads is made in.

    Raises:
        StorageError: from any method, when the database was away for longer than QUELL_PATIENCE_S.
    """

    def __init__(
        self,
        backend: BaseStorage,
        close: Callable[[], None] = lambda: None,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.backend = backend
        self.close = close
        self._reading = reading
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
        pauses = 0
        while True:
            try:
                with self._reading() if getattr(method, "__name__", "").startswith("get_") else nullcontext():
                    result = method(*arguments, **keywords)
            except Exception as error:
                reason = unreachable(error)
                if reason is None:
                    raise
                if pauses == 0:
                    began = time.monotonic()
                    log.warning("storage: %s; trying again for %.0f s", reason, self._waiting.at_most_s)
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
            # Stored by the attempt before, whose answer was lost. FAIL may be another worker's verdict, not ours.
            trial = self.get_trial(trial_id)
            intended = (state, None if values is None else list(values))
            if state != TrialState.FAIL and (trial.state, trial.values) == intended:
                return True
            raise

    create_new_study = _repeated(BaseStorage.create_new_study)
    delete_study = _repeated(BaseStorage.delete_study)
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
