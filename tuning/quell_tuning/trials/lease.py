"""The lease of a running trial: a counter that a thread renews, while it also reaps the trials of lost workers.

Not Optuna's heartbeat, whose thread ends with the first database error, and which its gRPC proxy does not pass on.
"""

import faulthandler
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import optuna

from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.trials.budget import REAP_EVERY, Budget

log = logging.getLogger("quell")

# A training without progress for so long hangs, in a driver or a file system. Longer than PATIENCE_S, for a database.
HANG_S = environment.HANG_S.seconds()


class _TrialEnded(Exception):
    """The block ended while the thread waited for the database."""


class DuplicateTrial(Exception):
    """A trial that need not be run, since a running one has its configuration; its slot gets another trial."""


class RunningTrial:
    """A trial that this process runs, and the methods that its objective must call.

    A thread renews its lease until the block ends: [a counter, the audio hours trained so far, those of them that the
    checkpoint holds]. The same thread ends and replaces the trials of lost workers. It also ends this process when its
    training hangs, so that another worker gets the trial.

    Args:
        budget: not the worker's own: what it remembers between two looks is the thread's.
        check: raises when the worker is asked to stop.
    """

    def __init__(self, trial: optuna.Trial, budget: Budget, check: Callable[[], None]) -> None:
        self.trial = trial
        self.budget = budget
        self.check = check
        self._audio_hours = 0.0
        self._checkpoint_hours = 0.0
        self._looks = 0  # while it is 0, a corpus may be decoded for hours
        self._lost = False  # the trial was ended because this worker was taken for dead
        self._ended = threading.Event()
        self._wake = threading.Event()  # set when the lease is to be renewed at once, or the block ended
        self._thread = threading.Thread(target=self._run, name=f"lease of trial {trial.number}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def ended_elsewhere(self) -> bool:
        """Asks the database whether the trial was ended because this worker was taken for dead."""
        return self.budget.storage.get_trial(trial_id_of(self.trial)).state == optuna.trial.TrialState.FAIL

    def _run(self) -> None:
        with suppress(_TrialEnded), self.budget.storage.waiting(unless=self._check_ended):
            self._renew()

    def _check_ended(self) -> None:
        if self._ended.is_set():
            raise _TrialEnded

    def _renew(self) -> None:
        count = next_look = looks = 0
        hanging_s = 0.0  # by turns of this thread, which stands still too when the process is frozen
        while True:
            self._wake.wait(self.budget.renew_s)
            self._wake.clear()
            if self._ended.is_set():
                return
            count += 1
            hanging_s, looks = hanging_s + self.budget.renew_s if looks == self._looks > 0 else 0.0, self._looks
            if hanging_s > HANG_S:
                self._end_process(hanging_s)
            lease = [count, round(self._audio_hours, 4), round(self._checkpoint_hours, 4)]
            try:
                self.budget.storage.set_trial_user_attr(trial_id_of(self.trial), "lease", lease)
                if count >= next_look:
                    self.budget.reconcile(self.trial.number)
                    next_look = count + (1 if self.budget.is_reaper(self.trial.number) else REAP_EVERY)
            except optuna.exceptions.UpdateFinishedTrialError:
                self._lost = True
                return
            except StorageError as error:
                log.warning("lease of trial %d: %s", self.trial.number, error)

    def _end_process(self, hanging_s: float) -> None:
        log.error("trial %d: no progress for %.0f s, this process ends; it was here:", self.trial.number, hanging_s)
        faulthandler.dump_traceback()
        os._exit(1)

    def step(self, audio_hours: float) -> None:
        """To be called after every training step; raises what `look_up` raises."""
        self._audio_hours = audio_hours
        self.look_up()

    def note_checkpoint(self, audio_hours: float) -> None:
        """To be called with the audio hours from which another worker could continue: at the start of the training, and
        whenever its checkpoint was written."""
        self._checkpoint_hours = audio_hours
        self._wake.set()  # else an attempt that is lost in the next seconds would seem to have got no further

    def look_up(self) -> None:
        """To be called often, and never in the middle of what must be finished.

        Raises:
            StopRequested: the worker was asked to stop; another one continues from the checkpoint.
            UpdateFinishedTrialError: another worker has the trial.
        """
        self._looks += 1
        if self._lost:
            raise optuna.exceptions.UpdateFinishedTrialError(f"trial {self.trial.number}")
        self.check()
