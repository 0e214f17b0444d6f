"""One worker process: claims trials, runs them, and hands its trial back when it is asked to stop."""

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import optuna

from quell_tuning import environment
from quell_tuning.errors import DiskError, StorageError
from quell_tuning.study.stored_study import there
from quell_tuning.trials.budget import MAX_REAPERS, MISSED_LOOKS, Budget
from quell_tuning.trials.lease import DuplicateTrial, RunningTrial

log = logging.getLogger("quell")

# Of the 10 s that a worker has to stop, for a database that is away.
HAND_BACK_S = 4.0
IDLE_S = 2.5  # between two looks of a worker for a trial to claim
ORPHANED_S = 15.0  # after the end of its pool a worker that has not stopped is ended
NO_TRIAL = -1  # number of the trial of a worker that waits
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def pool_process() -> int | None:
    """Process id of the pool that started this worker; None where a user started it."""
    return environment.POOL.process()


class StopRequested(BaseException):
    """This process was asked to stop; not an Exception, so that no caller takes it for a failure."""


class StopRequest:
    """Whether the worker was asked to stop: by SIGINT or SIGTERM, or by the death of the pool that started it.

    A second SIGINT ends the process at once. A worker that a user started goes on when their shell ends.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._raises = False
        self._pool = pool_process()
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code is not None and number == signal.SIGINT:
            os._exit(130)
        self.exit_code = 128 + number
        if self._raises:
            self._raises = False
            raise StopRequested

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside the block a signal raises StopRequested where it arrives: imports and reading never look for one."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def check(self) -> None:
        """Raises StopRequested once the worker was asked to stop."""
        if self.exit_code is None and self._pool is not None and os.getppid() != self._pool:
            self.exit_code = 143
        if self.exit_code is not None:
            raise StopRequested


def end_with_pool(after_s: float = ORPHANED_S) -> None:
    """Ends this process `after_s` after the pool that started it, in case its main thread never checks by itself.

    Native code that does not return would prevent that check, while the lease is renewed: no worker would get the
    trial.
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


def work(budget: Budget, stop: StopRequest, begin: Callable[[], Objective], drop: Callable[[int], None]) -> int:
    """Runs trials until the budget is used up; returns the exit code: 0, or 130 or 143 when asked to stop.

    A trial that fails by its own fault ends alone. One that is interrupted waits again. Any other exception of an
    objective is a bug and ends the worker.

    Raises:
        DiskError: nothing can be written here; the trial waits again, for a worker elsewhere or later.

    Args:
        begin: makes the objective for the first trial, since a worker that waits needs no torch.
        drop: removes the files of a trial, by its number, that another worker has now.
    """
    objective: Objective | None = None
    try:
        with there(budget.study), budget.storage.waiting(unless=stop.check):
            while (slots := budget.slots()).left and not budget.common_failure(slots):
                trial = budget.claim(slots)
                if trial is None:  # others run the rest; one of these may be lost
                    _wait(budget, stop)
                    continue
                try:
                    with RunningTrial(trial, Budget(budget.study, budget.trials), stop.check) as running:
                        if objective is None:
                            with stop.at_once():
                                objective = begin()
                        _run(running, objective, budget, drop)
                except (StopRequested, DiskError):
                    _hand_back(trial, budget)
                    raise
            if not slots.left:
                budget.enqueue_missing()  # ends superfluous trials; this may be the last worker
    except StopRequested:
        pass
    return stop.exit_code or 0


def _wait(budget: Budget, stop: StopRequest) -> None:
    crowd = len(budget.reconcile(NO_TRIAL).running) / MAX_REAPERS  # with many running trials a look takes long
    pause_s = max(1.0, crowd) * min(IDLE_S, budget.renew_s / 2)
    deadline = time.monotonic() + min(MISSED_LOOKS / 2 * budget.renew_s, pause_s)
    while time.monotonic() < deadline:
        stop.check()
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
        if not running.ended_elsewhere():
            if (disk := _disk_error(error)) is not None:
                problem = f"{disk.filename or 'disk'}: {disk.strerror}, expected a disk that can be written to"
                raise DiskError(f"{problem}; free space there, or choose other --runs") from error
            with suppress(Exception):  # the error raised below matters more
                running.trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise
        drop(number)
        log.warning("trial %d dropped: another worker has it, since this one was silent for too long", number)
    else:
        log.info("trial %d ended", number)


def _disk_error(error: BaseException | None) -> OSError | None:
    """The error of a disk that an error follows from; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None


def _hand_back(trial: optuna.Trial, budget: Budget) -> None:
    try:
        with budget.storage.waiting(at_most_s=HAND_BACK_S, unless=lambda: None):
            budget.hand_back(trial)
        log.info("trial %d handed back", trial.number)
    except StorageError as error:  # the others find out by the lease
        log.warning("trial %d left behind: %s", trial.number, error)
