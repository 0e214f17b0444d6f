"""A sign of life for a trial that trains, and a look at the others' meanwhile.

Our own, since Optuna's heartbeat dies with the first database error and its gRPC proxy passes none.
"""

from __future__ import annotations

import logging
import threading

import optuna
from sqlalchemy.exc import SQLAlchemyError

from tuning.budget import RENEW_S, Budget

log = logging.getLogger("quell")


class Lease:
    """Renews a claimed trial from a thread until the block ends; the same thread ends and replaces trials of workers
    that are gone, also while every worker is busy.

    A database that cannot be reached is tried again at the next turn.
    """

    def __init__(self, trial: optuna.Trial, budget: Budget) -> None:
        self.trial = trial
        self.budget = budget
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease of trial {trial.number}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def taken(self) -> bool:
        """Whether somebody took this worker for dead and ended its trial."""
        return self.budget.storage.get_trial(self.trial._trial_id).state.is_finished()

    def _renew(self) -> None:
        count = 0
        while not self._over.wait(RENEW_S):
            count += 1
            try:
                self.budget.storage.set_trial_user_attr(self.trial._trial_id, "lease", count)
                if self.budget.reap():
                    self.budget.fill()
            except optuna.exceptions.UpdateFinishedTrialError:
                return  # the worker finds out at its next word
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                log.warning("lease of trial %d: %s", self.trial.number, str(error).splitlines()[0])
