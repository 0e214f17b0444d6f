"""What a worker does about everything that may become of its trials; on a real database, with objectives that take no
time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from quell_tuning import environment
from quell_tuning.errors import DiskError, StudyNotFound
from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials.budget import ATTEMPTS, SAME_FAILURES, Budget
from quell_tuning.trials.lease import DuplicateTrial, RunningTrial
from quell_tuning.trials.lease_watch import RENEWALS
from quell_tuning.trials.ranking import is_lost
from quell_tuning.workers.worker import DISK_ERRORS, Objective, StopRequest, StopRequested, work

Stub = Callable[[RunningTrial], None]


@pytest.fixture
def notice(handlers: None, monkeypatch: pytest.MonkeyPatch) -> StopRequest:
    monkeypatch.delenv(environment.POOL.name, raising=False)
    return StopRequest()


@pytest.fixture
def study(storage: RetryingStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


@pytest.fixture
def elsewhere(study: optuna.Study, tmp_path: Path) -> Iterator[optuna.Study]:
    """The study as another process sees it."""
    storage = open_storage(f"sqlite:///{tmp_path / 'q.db'}")
    yield optuna.load_study(study_name=study.study_name, storage=storage)
    storage.close()


class Worker:
    """Runs an objective; remembers what was asked of it."""

    def __init__(self, study: optuna.Study, notice: StopRequest) -> None:
        self.study = study
        self.notice = notice
        self.began = 0
        self.dropped: list[int] = []
        self.ran: list[int] = []

    def __call__(self, objective: Stub, trials: int) -> int:
        def run(running: RunningTrial) -> None:
            self.ran.append(running.trial.number)
            objective(running)

        def begin() -> Objective:
            self.began += 1
            return run

        late = threading.Timer(60, lambda: setattr(self.notice, "exit_code", 124))  # a test that hangs says nothing
        late.start()
        try:
            return work(Budget(self.study, trials), self.notice, begin, self.dropped.append)
        finally:
            late.cancel()

    def ended(self) -> list[FrozenTrial]:
        """The trials that count."""
        return [
            trial
            for trial in self.study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
            if not is_lost(trial) and "superfluous" not in trial.user_attrs
        ]


@pytest.fixture
def run(study: optuna.Study, notice: StopRequest) -> Worker:
    return Worker(study, notice)


def complete(running: RunningTrial) -> None:
    running.trial.study.tell(running.trial, running.trial.suggest_float("x", 0, 1))


def fail(running: RunningTrial, reason: str) -> None:
    running.trial.set_user_attr("failure", reason)
    running.trial.study.tell(running.trial, state=TrialState.FAIL)


def after(other: Stub, *numbers: int) -> Stub:
    """Completes every trial, but does something else about these numbers."""

    def objective(running: RunningTrial) -> None:
        (other if running.trial.number in numbers else complete)(running)

    return objective


def test_a_worker_runs_exactly_the_budget_with_one_objective(run: Worker) -> None:
    assert run(complete, 12) == 0
    assert [trial.state for trial in run.study.trials] == [TrialState.COMPLETE] * 12
    assert sorted(trial.user_attrs["slot"] for trial in run.study.trials) == list(range(12))
    assert run.began == 1
    assert run(complete, 13) == 0
    assert len(run.study.trials) == 13


def test_a_worker_without_a_trial_makes_no_objective(run: Worker) -> None:
    run(complete, 2)
    assert run(complete, 2) == 0
    assert run.began == 1


def test_a_trial_that_failed_by_its_own_fault_counts(run: Worker) -> None:
    assert run(after(lambda running: fail(running, "step 3: loss nan"), 0, 2), 4) == 0
    assert [trial.state.name for trial in run.study.trials] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]


def supersede(running: RunningTrial) -> None:
    running.trial.suggest_float("x", 0, 1)
    raise DuplicateTrial("the same configuration as trial 7, which is running")


def test_a_duplicates_slot_gets_another_trial_with_new_parameters(run: Worker) -> None:
    assert run(after(supersede, 0, 1), 3) == 0
    assert len(run.ended()) == 3
    assert sorted(trial.user_attrs["slot"] for trial in run.ended()) == [0, 1, 2]
    given_up = run.study.trials[:2]
    assert [trial.user_attrs["asked"] for trial in given_up] == [
        "the same configuration as trial 7, which is running"
    ] * 2
    assert len({trial.params["x"] for trial in run.study.trials}) == 5
    assert {trial.user_attrs["attempt"] for trial in run.study.trials} == {1}  # none was lost


def test_a_duplicate_that_another_worker_ended_meanwhile_does_not_end_the_worker(
    run: Worker, elsewhere: optuna.Study
) -> None:
    def reaped(running: RunningTrial) -> None:
        end_elsewhere(elsewhere, running)
        raise DuplicateTrial("the same configuration as trial 7, which is running")

    assert run(after(reaped, 0), 2) == 0
    assert len(run.ended()) == 2


def end_elsewhere(elsewhere: optuna.Study, running: RunningTrial) -> None:
    """Takes the worker for dead, as `quell_tuning.trials.budget` does."""
    storage_of(elsewhere).set_trial_user_attr(trial_id_of(running.trial), "lost", "its worker was silent for 31 s")
    storage_of(elsewhere).set_trial_state_values(trial_id_of(running.trial), TrialState.FAIL)


def test_a_trial_that_another_worker_ended_meanwhile_is_dropped_and_the_worker_continues(
    run: Worker, elsewhere: optuna.Study
) -> None:
    def reaped(running: RunningTrial) -> None:
        end_elsewhere(elsewhere, running)
        running.trial.report(0.5, 1)

    assert run(after(reaped, 1), 3) == 0
    assert run.dropped == [1]
    assert [trial.state for trial in run.ended()] == [TrialState.COMPLETE] * 3
    lost = run.study.trials[1]
    assert lost.state == TrialState.FAIL
    assert lost.intermediate_values == {}
    again = next(trial for trial in run.ended() if trial.user_attrs["slot"] == lost.user_attrs["slot"])
    assert again.user_attrs["attempt"] == 2


def test_a_worker_whose_lease_is_lost_stops_at_its_next_step(
    run: Worker, elsewhere: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.study.set_user_attr("grace_s", 0.01 * RENEWALS)
    noticed = False

    def frozen(running: RunningTrial) -> None:
        nonlocal noticed
        end_elsewhere(elsewhere, running)
        for step in range(1000):
            try:
                running.step(step / 1000)
            except optuna.exceptions.UpdateFinishedTrialError:
                noticed = True
                raise
            time.sleep(0.01)

    assert run(after(frozen, 0), 2) == 0
    assert noticed
    assert run.dropped == [0]
    assert len(run.ended()) == 2


class Bug(Exception):
    pass


def test_a_bug_is_raised_and_its_trial_stays_running(run: Worker) -> None:
    def buggy(running: RunningTrial) -> None:
        raise Bug

    with pytest.raises(Bug):
        run(after(buggy, 1), 3)
    assert [trial.state.name for trial in run.study.trials] == ["COMPLETE", "RUNNING"]
    assert run.dropped == []


@pytest.mark.parametrize("number", DISK_ERRORS)
def test_a_disk_that_cannot_be_written_to_ends_the_worker_and_costs_the_trial_nothing(run: Worker, number: int) -> None:
    def full(running: RunningTrial) -> None:
        running.trial.suggest_float("x", 0, 1)
        try:
            raise OSError(number, os.strerror(number), "/runs/a.checkpoint")
        except OSError as error:
            raise RuntimeError("file write failed") from error

    for _ in range(ATTEMPTS + 1):
        with pytest.raises(
            DiskError, match=f"^/runs/a.checkpoint: {os.strerror(number)}, expected a disk .*; free space"
        ):
            run(after(full, 1), 3)
    assert [trial.state for trial in run.study.trials] == [TrialState.COMPLETE, TrialState.WAITING]
    assert run(complete, 3) == 0
    assert [trial.state for trial in run.study.trials] == [TrialState.COMPLETE] * 3


def test_a_bug_after_a_trials_end_is_raised_and_its_files_stay(run: Worker) -> None:
    def buggy(running: RunningTrial) -> None:
        complete(running)
        raise Bug

    with pytest.raises(Bug):
        run(after(buggy, 1), 3)
    assert run.dropped == []


def test_a_study_that_is_deleted_while_it_runs_ends_its_workers_in_one_line(
    run: Worker, elsewhere: optuna.Study
) -> None:
    def deleted(running: RunningTrial) -> None:
        optuna.delete_study(study_name=elsewhere.study_name, storage=storage_of(elsewhere))
        complete(running)

    name = elsewhere.study_name
    with pytest.raises(StudyNotFound, match=f"^study {name!r}: deleted while it ran, expected it to stay; "):
        run(after(deleted, 1), 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_asked_to_stop_hands_its_trial_back_and_exits_by_the_signal(
    run: Worker, number: signal.Signals
) -> None:
    def left(running: RunningTrial) -> None:
        running.trial.suggest_float("x", 0, 1)
        signal.raise_signal(number)
        running.step(0.1)

    assert run(after(left, 1), 3) == 128 + number
    first, waiting = run.study.trials
    assert [first.state, waiting.state] == [TrialState.COMPLETE, TrialState.WAITING]
    run.notice.exit_code = None  # somebody else
    assert run(complete, 3) == 0
    ended = run.study.trials
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * 3
    assert run.ran == [0, 1, 1, 2]
    assert ended[1].params == waiting.params


def test_a_worker_that_is_asked_to_stop_while_it_begins_does_not_finish_that(
    study: optuna.Study, notice: StopRequest
) -> None:
    def begin() -> Objective:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on")

    assert work(Budget(study, 2), notice, begin, lambda _: None) == 143
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]


def test_a_worker_that_was_asked_to_stop_before_it_began_stops(run: Worker) -> None:
    run.notice.exit_code = 143

    def objective(running: RunningTrial) -> None:
        running.step(0.0)

    assert run(objective, 2) == 143
    assert [trial.state for trial in run.study.trials] == [TrialState.WAITING]


def test_a_worker_that_waits_for_the_others_stops_when_asked(run: Worker, elsewhere: optuna.Study) -> None:
    trial = Budget(elsewhere, 1).claim()
    assert trial is not None
    timer = threading.Timer(0.2, lambda: setattr(run.notice, "exit_code", 143))
    timer.start()
    assert run(complete, 1) == 143
    timer.join()
    assert run.began == 0
    assert run.study.trials[0].state == TrialState.RUNNING


def test_a_worker_that_waits_for_the_others_runs_the_trial_of_a_lost_one(
    run: Worker, elsewhere: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.study.set_user_attr("grace_s", 0.1 * RENEWALS)
    trial = Budget(elsewhere, 1).claim()
    assert trial is not None
    host, _, start = trial.user_attrs["worker"].split(":")
    trial.set_user_attr("worker", f"{host}:999999999:{start}")  # it was killed
    assert run(complete, 1) == 0
    assert run.ran == [1]
    assert [trial.state.name for trial in run.study.trials] == ["FAIL", "COMPLETE"]


def test_a_worker_stops_when_the_pool_that_started_it_has_ended(
    notice: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.POOL.name, str(os.getppid()))
    StopRequest().check()
    monkeypatch.setenv(environment.POOL.name, str(os.getppid() + 1))
    orphan = StopRequest()
    with pytest.raises(StopRequested):
        orphan.check()
    assert orphan.exit_code == 143


@pytest.mark.parametrize(("pool", "ends"), [("1", True), (str(os.getpid()), False)], ids=["gone", "there"])
def test_a_worker_inside_code_that_never_returns_ends_when_its_pool_has_ended(pool: str, ends: bool) -> None:
    code = (
        "import ctypes; from quell_tuning.workers.worker import end_with_pool; "
        "end_with_pool(0.2); ctypes.CDLL(None).sleep(3)"
    )
    variables = {**os.environ, environment.POOL.name: pool}
    assert subprocess.run([sys.executable, "-c", code], env=variables, timeout=30).returncode == (143 if ends else 0)


HANGS = """
import ctypes, sys, optuna
from quell_tuning.trials.budget import Budget
from quell_tuning.storage.backends import open_storage
from quell_tuning.workers.worker import StopRequest, work

def objective(running):
    running.look_up()
    ctypes.CDLL(None).sleep(60)  # native code: nothing reaches this thread

storage = open_storage(sys.argv[1])
study = optuna.load_study(study_name=sys.argv[2], storage=storage)
work(Budget(study, 1), StopRequest(), lambda: objective, print)
"""


def test_a_worker_whose_training_hangs_ends_with_a_traceback_and_another_gets_its_trial(
    run: Worker, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", HANGS, f"sqlite:///{tmp_path / 'q.db'}", run.study.study_name]
    environment = {**os.environ, "QUELL_HANG_S": "1", "QUELL_GRACE_S": "1.2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "trial 0: no progress for 1 s, this process ends; it was here:" in done.stderr
    assert "in objective" in done.stderr
    assert run(complete, 1) == 0
    assert run.ran == [1]
    assert [trial.state.name for trial in run.study.trials] == ["FAIL", "COMPLETE"]
    assert "ended" in run.study.trials[0].user_attrs["lost"]


def reasons(*found: str | None) -> Stub:
    """Trials that fail for these reasons, one after the other, where there is one; those after them complete."""
    left = iter(found)

    def objective(running: RunningTrial) -> None:
        reason = next(left, None)
        complete(running) if reason is None else fail(running, reason)

    return objective


NAN = [f"step {3 * step}: loss nan, learning rate {10.0**-step}" for step in range(1, 2 * SAME_FAILURES)]


def test_failures_that_differ_only_in_numbers_stop_the_worker_though_slots_are_left(run: Worker) -> None:
    assert run(reasons(None, *NAN), 20) == 0
    assert len(run.ended()) == 1 + SAME_FAILURES
    budget = Budget(run.study, 20)
    assert budget.common_failure(budget.slots()) == NAN[SAME_FAILURES - 1]
    assert run(complete, 20) == 0
    assert len(run.ended()) == 1 + SAME_FAILURES  # nor does another worker go on


@pytest.mark.parametrize(
    "found",
    [
        NAN[: SAME_FAILURES - 1],
        [*NAN[: SAME_FAILURES - 1], None, *NAN[: SAME_FAILURES - 1]],
        [*NAN[: SAME_FAILURES - 1], "out of memory", *NAN[: SAME_FAILURES - 1]],
    ],
    ids=["too few", "one that completed between", "one for another reason between"],
)
def test_fewer_failures_or_others_between_them_do_not_stop_the_worker(run: Worker, found: list[str | None]) -> None:
    assert run(reasons(*found), 12) == 0
    assert len(run.ended()) == 12


def test_after_ignoring_failures_as_many_new_ones_stop_the_worker(run: Worker) -> None:
    run(reasons(*NAN), 20)
    budget = Budget(run.study, 20)
    budget.ignore_past_failures()
    assert budget.common_failure(budget.slots()) is None
    assert run(reasons(*NAN), 20) == 0
    assert len(run.ended()) == 2 * SAME_FAILURES
    budget.ignore_past_failures()
    assert run(complete, 20) == 0
    assert len(run.ended()) == 20
