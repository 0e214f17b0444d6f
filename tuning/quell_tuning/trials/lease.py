"""A sign of life for a trial that runs, and a look at the others' meanwhile.

Our own, since Optuna's heartbeat dies with the first database error and its gRPC proxy passes none.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress

import optuna

from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.trials.budget import REAP_EVERY, Budget
from quell_tuning.trials.lease_watch import RENEW_S

log = logging.getLogger("quell")

# A training that does nothing for so long hangs, in a driver or on a file system. Longer than patience with a database.
HANG_S = environment.HANG_S.seconds()


class _Over(Exception):
    """The trial ended while the thread waited for the database."""


class Lease:
    """Renews a claimed trial from a thread until the block ends; the same thread ends and replaces trials of workers
    that are gone, also while every worker is busy. A process whose training hangs it ends: else nobody got the trial.

    What it writes is [a counter, the audio hours trained so far].
    """

    def __init__(self, trial: optuna.Trial, budget: Budget) -> None:
        self.trial = trial
        self.budget = budget
        self.audio_hours = 0.0  # set by the one who trains
        self.looks = 0  # counted by the one who trains; while it stays 0, a corpus may be decoded for hours
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
        return self.budget.storage.get_trial(trial_id_of(self.trial)).state == optuna.trial.TrialState.FAIL

    def _run(self) -> None:
        with suppress(_Over), self.budget.storage.waiting(unless=self._check):
            self._renew()

    def _check(self) -> None:
        if self._over.is_set():
            raise _Over

    def _renew(self) -> None:
        count = look = seen = 0
        silent_s = 0.0  # by turns of this thread, which a frozen process does not make
        while not self._over.wait(RENEW_S):
            count += 1
            silent_s, seen = silent_s + RENEW_S if seen == self.looks > 0 else 0.0, self.looks
            if silent_s > HANG_S:
                self._end_process(silent_s)
            word = [count, round(self.audio_hours, 4)]
            try:
                self.budget.storage.set_trial_user_attr(trial_id_of(self.trial), "lease", word)
                if count > look:
                    self.budget.reconcile(self.trial.number)
                    look = count + (0 if self.budget.watches(self.trial.number) else REAP_EVERY - 1)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.lost = True
                return
            except StorageError as error:
                log.warning("lease of trial %d: %s", self.trial.number, error)

    def _end_process(self, silent_s: float) -> None:
        log.error("trial %d: nothing happened for %.0f s, this process ends; it was here:", self.trial.number, silent_s)
        faulthandler.dump_traceback()
        os._exit(1)


class DuplicateTrial(Exception):
    """A trial that need not be run; its slot gets another one. The message says why."""


class RunningTrial:
    """A trial that this process runs, and what its objective must call."""

    def __init__(self, trial: optuna.Trial, check: Callable[[], None], lease: Lease) -> None:
        self.trial = trial
        self.check = check
        self.lease = lease

    def step(self, audio_hours: float) -> None:
        """The training has got so far; raises what `look_up` raises."""
        self.lease.audio_hours = audio_hours
        self.look_up()

    def look_up(self) -> None:
        """To be called often, and outside of anything that must be finished.

        Raises:
            Leave: the worker was asked to; the trial goes on elsewhere, from its checkpoint.
            UpdateFinishedTrialError: another worker has the trial.
        """
        self.lease.looks += 1
        if self.lease.lost:
            raise optuna.exceptions.UpdateFinishedTrialError(f"trial {self.trial.number}")
        self.check()
