"""Runs a study to its end with workers that are launched, watched and stopped, wherever they run."""

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from quell_tuning.errors import StorageError, TrialsFailed
from quell_tuning.trials.budget import Budget, Slots
from quell_tuning.workers.live_view import LiveView
from quell_tuning.workers.worker import StopRequested

POLL_S = 0.5
LAST_WAIT_S = 2.0  # for a database that is away when everything has ended


@dataclass(kw_only=True)
class Supervisor(ABC):
    """Reconciles the budget and shows it, while a subclass launches and stops workers."""

    budget: Budget
    view: LiveView
    _signal: int | None = field(default=None, init=False)

    def run(self) -> int:
        """Runs the study to its end; returns 0, or 130 or 143 when this process was asked to stop.

        Raises:
            WorkerError: workers die again and again and no trial ends.
            TrialsFailed: the last trials all failed for the same reason.
        """
        self.begin()
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.view.live:
                self._watch()
        finally:
            self.dismiss()
            with suppress(StorageError), self.budget.storage.waiting(at_most_s=LAST_WAIT_S, unless=lambda: None):
                self.budget.reconcile()  # replaces what the workers left behind, ends superfluous trials
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return 128 + self._signal if self._signal else 0

    @abstractmethod
    def begin(self) -> None:
        """Called before the first look."""

    @abstractmethod
    def tend(self, slots: Slots) -> None:
        """Called at every look while trials are left: launches workers, and handles those that ended."""

    @abstractmethod
    def dismiss(self) -> None:
        """Asks all workers to stop, and waits until they have."""

    @abstractmethod
    def kill(self) -> None:
        """Kills all workers that can be killed at once, after a second Ctrl-C."""

    def workers(self) -> Sequence[tuple[str, int | None]]:
        """Name and process id of each worker on this machine, as `LiveView.show` takes them."""
        return ()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            self.kill()
            os._exit(130)
        self._signal = number

    def _check(self) -> None:
        if self._signal is not None:
            raise StopRequested

    def _watch(self) -> None:
        with suppress(StopRequested), self.budget.storage.waiting(unless=self._check):
            while True:
                self._check()
                began = time.monotonic()
                slots = self.budget.reconcile()
                look_s = time.monotonic() - began
                self.view.show(slots, self.workers())
                if slots.left == 0:
                    return
                self._check_failures(slots)
                self.tend(slots)
                time.sleep(
                    min(self.budget.renew_s, max(POLL_S, 4 * look_s))
                )  # with many running trials a look takes seconds

    def _check_failures(self, slots: Slots) -> None:
        if reason := self.budget.common_failure(slots):
            raise TrialsFailed(
                f"study {self.budget.study.study_name!r}: the last trials all failed: {reason}, expected trials that "
                "train; change the study file, or run the same again to go on regardless"
            )
