"""A sign of life for a trial that runs, and a look at the others' meanwhile.

Our own, since Optuna's heartbeat dies with the first database error and its gRPC proxy passes none.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import optuna

from tuning.budget import RENEW_S, SELDOM, Budget
from tuning.errors import StorageError

log = logging.getLogger("quell")


class _Over(Exception):
    """The trial ended while the thread waited for the database."""


class Lease:
    """Renews a claimed trial from a thread until the block ends; the same thread ends and replaces trials of workers
    that are gone, also while every worker is busy.

    What it writes is [a counter, the audio hours trained so far].
    """

    def __init__(self, trial: optuna.Trial, budget: Budget) -> None:
        self.trial = trial
        self.budget = budget
        self.audio_hours = 0.0  # set by the one who trains
        self.lost = False  # somebody took this worker for dead and ended its trial; the thread saw it
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease of trial {trial.number}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def taken(self) -> bool:
        """Whether somebody took this worker for dead and ended its trial."""
        return self.budget.storage.get_trial(self.trial._trial_id).state == optuna.trial.TrialState.FAIL

    def _run(self) -> None:
        with suppress(_Over), self.budget.storage.waiting(unless=self._check):
            self._renew()

    def _check(self) -> None:
        if self._over.is_set():
            raise _Over

    def _renew(self) -> None:
        count = look = 0
        while not self._over.wait(RENEW_S):
            count += 1
            word = [count, round(self.audio_hours, 4)]
            try:
                self.budget.storage.set_trial_user_attr(self.trial._trial_id, "lease", word)
                if count > look:
                    self.budget.keep(self.trial.number)
                    look = count + (0 if self.budget.watches(self.trial.number) else SELDOM - 1)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.lost = True
                return
            except StorageError as error:
                log.warning("lease of trial %d: %s", self.trial.number, error)
