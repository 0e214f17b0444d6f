"""Whoever runs a study to its end with workers that are launched, watched and dismissed, wherever they are."""

from __future__ import annotations

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
from quell_tuning.trials.lease_watch import RENEW_S
from quell_tuning.workers.live_view import LiveView

POLL_S = 0.5
LAST_WORD_S = 2.0  # a database that is away at the end is waited for so long


@dataclass(kw_only=True)
class Supervisor(ABC):
    """Keeps the budget and shows it; what workers are, subclasses know."""

    budget: Budget
    shown: LiveView
    _signal: int | None = field(default=None, init=False)

    def run(self) -> int:
        """Runs the study to its end; returns 0, or 130 or 143 when this process was asked to stop.

        Raises:
            WorkerError: workers die again and again and no trial ends.
            TrialsFailed: the last trials failed alike.
        """
        self.begin()
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.shown:
                self._watch()
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + self._signal if self._signal else 0

    @abstractmethod
    def begin(self) -> None:
        """Before the first look."""

    @abstractmethod
    def tend(self, slots: Slots) -> None:
        """At every look while trials are left: launches workers, and takes note of those that ended."""

    @abstractmethod
    def progressed(self) -> None:
        """A trial ended."""

    @abstractmethod
    def dismiss(self) -> None:
        """Asks all workers to leave, and waits until they have."""

    @abstractmethod
    def kill(self) -> None:
        """Ends all workers that can be ended at once: the user is in a hurry."""

    def workers(self) -> Sequence[tuple[str, int | None]]:
        """As `LiveView.show` takes them."""
        return ()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            self.kill()
            os._exit(130)
        self._signal = number

    def _asked(self) -> None:
        if self._signal is not None:
            raise _Asked

    def _watch(self) -> None:
        ended = -1
        with suppress(_Asked), self.budget.storage.waiting(unless=self._asked):
            while True:
                self._asked()
                began = time.monotonic()
                slots = self.budget.reconcile()
                took = time.monotonic() - began
                self.shown.show(slots, self.workers())
                if slots.left == 0:
                    return
                if len(slots.ended) > ended:
                    ended = len(slots.ended)
                    self.progressed()
                    self._refuse_faults(slots)
                self.tend(slots)
                time.sleep(min(RENEW_S, max(POLL_S, 4 * took)))  # of many running trials a look takes seconds

    def _refuse_faults(self, slots: Slots) -> None:
        reason = self.budget.common_failure(slots)
        if reason:
            raise TrialsFailed(
                f"study {self.budget.study.study_name!r}: the last trials all failed: {reason}, expected trials that "
                "train; change the study file, or run the same again to go on regardless"
            )

    def _stop(self) -> None:
        self.dismiss()
        with suppress(StorageError), self.budget.storage.waiting(at_most_s=LAST_WORD_S, unless=lambda: None):
            self.budget.reconcile()  # the workers are gone: what they left is replaced, what is superfluous ended


class _Asked(BaseException):
    """This process was asked to stop."""
