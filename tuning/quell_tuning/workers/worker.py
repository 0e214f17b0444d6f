"""One process on one device: claims trials, runs them, leaves politely when asked."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import optuna

from quell_tuning import environment
from quell_tuning.errors import StorageError
from quell_tuning.trials.budget import MAX_REAPERS, MISSED_LOOKS, Budget
from quell_tuning.trials.lease import DuplicateTrial, Lease, RunningTrial
from quell_tuning.trials.lease_watch import RENEW_S

log = logging.getLogger("quell")

# A worker that was asked to leave has 10 s; a database that is away may take so many of them.
HAND_BACK_S = 4.0
LOOK_S = 2.5  # so often a worker looks whether there is work again
ORPHANED_S = 15.0  # until a worker without its pool that has not left by itself is ended
NOBODY = -1  # the trial of a worker that waits


def pool_process() -> int | None:
    """Process id of the pool that started this worker; None where a user did."""
    number = environment.POOL.get()
    return None if number is None else int(number)


class StopRequested(BaseException):
    """The worker was asked to leave; not an Exception, so that nothing on the way takes it for a failure."""


class StopRequest:
    """Remembers SIGINT and SIGTERM, and that the pool which started the worker died.

    A second SIGINT ends the process at once. A worker that a person started stays when their shell goes.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._pool = pool_process()
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code is not None and number == signal.SIGINT:
            os._exit(130)
        self.exit_code = 128 + number

    def check(self) -> None:
        """Raises Leave when it is time to go."""
        if self.exit_code is None and self._pool is not None and os.getppid() != self._pool:
            self.exit_code = 143
        if self.exit_code is not None:
            raise StopRequested


def end_with_pool(after_s: float = ORPHANED_S) -> None:
    """Ends this process so long after the pool that started it, where the main thread never comes to look.

    Native code that does not return keeps it from that, while the lease goes on: nobody would get the trial.
    """
    pool = pool_process()
    if pool is None:
        return

    def watch() -> None:
        while os.getppid() == pool:
            time.sleep(min(1.0, after_s))
        time.sleep(after_s)
        os._exit(143)

    threading.Thread(target=watch, name="pool", daemon=True).start()


Objective = Callable[[RunningTrial], None]


def work(budget: Budget, notice: StopRequest, begin: Callable[[], Objective], drop: Callable[[int], None]) -> int:
    """Runs trials until the budget is used up; returns the exit code: 0, or 130 or 143 when asked to leave.

    A trial that fails by its own fault ends alone. One that the worker leaves behind goes back in line. Anything else
    that an objective raises is a bug and ends the worker.

    Args:
        begin: makes the objective, when the first trial is there: a worker that waits needs no torch.
        drop: removes what an objective left of a trial (its number) that another worker has since.
    """
    objective: Objective | None = None
    try:
        with budget.storage.waiting(unless=notice.check):
            while (slots := budget.slots()).left and not budget.common_failure(slots):
                trial = budget.claim(slots)
                if trial is None:  # others run the rest; one of them may get lost
                    _wait(budget, notice)
                    continue
                try:
                    with Lease(trial, Budget(budget.study, budget.trials)) as lease:
                        objective = objective or begin()
                        _run(RunningTrial(trial, notice.check, lease), objective, budget, drop)
                except StopRequested:
                    _hand_back(trial, budget)
                    raise
            if not slots.left:
                budget.enqueue_missing()  # ends what is superfluous, since nobody may come after us
    except StopRequested:
        pass
    return notice.exit_code or 0


def _wait(budget: Budget, notice: StopRequest) -> None:
    crowd = len(budget.reconcile(NOBODY).running) / MAX_REAPERS  # the longer a look takes, the fewer
    until = time.monotonic() + min(MISSED_LOOKS / 2 * RENEW_S, max(1.0, crowd) * min(LOOK_S, RENEW_S / 2))
    while time.monotonic() < until:
        notice.check()
        time.sleep(0.1)


def _run(running: RunningTrial, objective: Objective, budget: Budget, drop: Callable[[int], None]) -> None:
    number = running.trial.number
    log.info("trial %d starts", number)
    try:
        objective(running)
    except DuplicateTrial as reason:
        budget.give_up(running.trial, str(reason))
        log.info("trial %d given up: %s", number, reason)
    except Exception as error:
        if not running.lease.taken():
            with suppress(Exception):  # what is raised below matters more
                running.trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise
        drop(number)
        log.warning("trial %d dropped: another worker has it, since nothing was heard of us", number)
    else:
        log.info("trial %d ended", number)


def _hand_back(trial: optuna.Trial, budget: Budget) -> None:
    try:
        with budget.storage.waiting(at_most_s=HAND_BACK_S, unless=lambda: None):
            budget.hand_back(trial)
        log.info("trial %d handed back", trial.number)
    except StorageError as error:  # the others find out that we are gone
        log.warning("trial %d left behind: %s", trial.number, error)
