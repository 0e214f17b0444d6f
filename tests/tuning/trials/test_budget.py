"""The exact budget, on real storages of each kind and with real processes."""

import multiprocessing
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials import lease_watch
from quell_tuning.trials.budget import AHEAD, ATTEMPTS, MAX_REAPERS, REAP_EVERY, Budget
from quell_tuning.trials.lease import RunningTrial
from quell_tuning.trials.lease_watch import RENEWALS
from quell_tuning.trials.ranking import is_lost

PROCESSES = 3
NOBODY = 999_999_999  # no process has this number


@pytest.fixture
def storage(url: str) -> Iterator[RetryingStorage]:
    storage = open_storage(url, create=True)
    yield storage
    storage.close()


@pytest.fixture
def study(storage: RetryingStorage, study_name: str) -> optuna.Study:
    return optuna.create_study(study_name=study_name, storage=storage, direction="maximize")


def claimed(budget: Budget) -> optuna.Trial:
    trial = budget.claim()
    assert trial is not None
    return trial


def gone(worker: str, process: int = NOBODY) -> str:
    """The name of a worker on the same machine whose process is no more."""
    host, _, start = worker.split(":")
    return f"{host}:{process}:{start}"


def in_process(barrier: Barrier) -> None:
    global start
    start = barrier


Part = Callable[[Budget, int], Any]


def take_part(part: Part, number: int, url: str, study_name: str, trials: int) -> Any:
    """Runs in one of the processes, at the same time as in the others."""
    storage = open_storage(url)
    budget = Budget(optuna.load_study(study_name=study_name, storage=storage), trials)
    start.wait(60)
    try:
        return part(budget, number)
    finally:
        storage.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, in_process, (barrier,)) as pool:
        yield pool


@pytest.fixture
def at_once(processes: ProcessPoolExecutor, study: optuna.Study, url: str) -> Callable[[Part, int], list[Any]]:
    """Runs a part in every process at the same time; (part, trials) -> what each returned."""

    def run(part: Part, trials: int) -> list[Any]:
        # Each waits for the others before it begins, so that each process has one.
        futures: list[Future[Any]] = [
            processes.submit(take_part, part, number, url, study.study_name, trials) for number in range(PROCESSES)
        ]
        return [future.result(60) for future in futures]

    return run


def claim_all(budget: Budget, number: int) -> list[int]:
    slots = []
    while (trial := budget.claim()) is not None:
        slots.append(trial.user_attrs["slot"])
    return slots


def test_every_slot_is_claimed_by_exactly_one_of_many_processes(
    at_once: Callable[[Part, int], list[Any]], study: optuna.Study
) -> None:
    slots = 24
    taken = at_once(claim_all, slots)
    assert Counter(slot for one in taken for slot in one) == Counter(range(slots))
    Budget(study, slots).enqueue_missing()
    assert Counter(trial.state.name for trial in study.trials if "superfluous" not in trial.user_attrs) == {
        "RUNNING": slots
    }


def fill(budget: Budget, number: int) -> None:
    budget.enqueue_missing()


def test_after_many_processes_filled_at_once_one_more_fill_ends_the_superfluous_trials(
    at_once: Callable[[Part, int], list[Any]], study: optuna.Study
) -> None:
    at_once(fill, 20)
    budget = Budget(study, 20)
    budget.enqueue_missing()
    slots = budget.slots()
    assert slots.superfluous == []
    assert [trial.user_attrs["slot"] for trial in slots.waiting] == list(range(AHEAD))
    assert Counter(trial.state.name for trial in study.trials if "superfluous" not in trial.user_attrs) == {
        "WAITING": AHEAD
    }


def complete_or_reap(budget: Budget, number: int) -> list[str]:
    """What this process did to each running trial: 0 completes it, the others take its worker for dead."""
    done = []
    for turn, trial in enumerate(budget.slots().running):
        start.wait(60)
        if number > 0:
            start.wait(60)
            done.append("reaped" if trial.number in budget.reap(budget.slots()) else "")
            continue
        budget.storage.set_trial_user_attr(trial_id_of(trial), "worker", gone(trial.user_attrs["worker"]))
        start.wait(60)
        time.sleep(0.004 * turn)  # about as long as the others need to read the trials
        try:
            budget.storage.set_trial_state_values(trial_id_of(trial), TrialState.COMPLETE, [1.0])
            done.append("complete")
        except UpdateFinishedTrialError:
            done.append("")
    return done


def test_a_trial_that_completes_while_others_reap_it_counts_once(
    at_once: Callable[[Part, int], list[Any]], study: optuna.Study
) -> None:
    budget = Budget(study, AHEAD)
    for _ in range(AHEAD):
        claimed(budget)
    ends = ["".join(done) for done in zip(*at_once(complete_or_reap, AHEAD), strict=True)]
    assert set(ends) <= {"complete", "reaped"}
    budget.enqueue_missing()
    slots = budget.slots()
    assert {trial.user_attrs["slot"]: trial.user_attrs["attempt"] for trial in slots.waiting} == {
        running.user_attrs["slot"]: 2 for running, end in zip(study.trials, ends, strict=False) if end == "reaped"
    }
    assert len(slots.ended) + len(slots.waiting) == AHEAD
    assert slots.superfluous == slots.running == []


def test_a_trial_that_completes_between_a_reapers_two_writes_stays_complete(
    study: optuna.Study, storage: RetryingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(study, 1)
    trial = claimed(budget)
    trial.set_user_attr("worker", gone(trial.user_attrs["worker"]))
    write = storage.set_trial_user_attr

    def write_and_complete(trial_id: int, key: str, value: Any) -> None:
        write(trial_id, key, value)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])

    monkeypatch.setattr(storage, "set_trial_user_attr", write_and_complete)
    assert budget.reap(budget.slots()) == []
    assert "lost" in study.trials[0].user_attrs
    budget.enqueue_missing()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert budget.slots().left == 0


@pytest.mark.parametrize(
    ("state", "attributes", "lost"),
    [
        (TrialState.FAIL, {"lost": "its worker ended"}, True),
        (TrialState.FAIL, {}, True),  # by whoever else: nothing says that it was its own fault
        (TrialState.FAIL, {"failure": "loss nan"}, False),
        (TrialState.COMPLETE, {"lost": "its worker ended"}, False),
        (TrialState.PRUNED, {"lost": "its worker ended"}, False),
        (TrialState.RUNNING, {}, False),
        (TrialState.WAITING, {}, False),
    ],
)
def test_a_trial_is_lost_when_it_failed_without_a_failure_of_its_own(
    state: TrialState, attributes: dict[str, str], lost: bool
) -> None:
    value = 1.0 if state == TrialState.COMPLETE else None
    assert is_lost(optuna.trial.create_trial(state=state, value=value, user_attrs=attributes)) is lost


def test_filling_twice_adds_nothing(study: optuna.Study) -> None:
    for _ in range(2):
        Budget(study, 5).enqueue_missing()
    assert [trial.user_attrs["slot"] for trial in study.trials] == list(range(5))


def test_at_most_a_few_trials_wait_and_those_in_the_lowest_slots(study: optuna.Study) -> None:
    budget = Budget(study, 100)
    for taken in range(3):
        budget.enqueue_missing()
        assert [trial.user_attrs["slot"] for trial in budget.slots().waiting] == list(range(taken, taken + AHEAD))
        claimed(budget)


def test_a_larger_budget_extends_the_study(study: optuna.Study) -> None:
    Budget(study, 2).enqueue_missing()
    Budget(study, 5).enqueue_missing()
    assert sorted(Budget(study, 5).slots().filled) == list(range(5))
    assert len(study.trials) == 5


def test_slots_beyond_a_smaller_budget_are_neither_claimed_nor_counted(study: optuna.Study) -> None:
    larger, smaller = Budget(study, 4), Budget(study, 2)
    larger.enqueue_missing()
    first, _, third = (claimed(larger) for _ in range(3))
    for trial in (first, third):
        study.tell(trial, 1.0)
    slots = smaller.slots()
    assert (slots.left, [trial.number for trial in slots.ended]) == (1, [first.number])
    assert smaller.claim() is None
    smaller.enqueue_missing()
    assert len(study.trials) == 4
    assert larger.slots().left == 2


def test_two_fillers_at_once_do_not_overshoot(study: optuna.Study) -> None:
    for slot in (0, 1, 1, 0):  # what two processes write that both found the slots empty
        study.enqueue_trial({}, user_attrs={"slot": slot})
    budget = Budget(study, 2)
    assert [claimed(budget).number, claimed(budget).number] == [0, 1]
    assert budget.claim() is None


def test_slots_read_earlier_claim_nothing_that_others_claimed_since(study: optuna.Study) -> None:
    budget = Budget(study, 2)
    budget.enqueue_missing()
    old = budget.slots()
    taken = [claimed(budget).number, claimed(budget).number]
    assert taken == [0, 1]
    assert budget.claim(old) is None


def test_presets_are_the_first_trials(study: optuna.Study) -> None:
    study.set_user_attr("plan", {"0": {"params": {"depth": 5}, "attributes": {"preset": "known"}}})
    budget = Budget(study, 2)
    budget.enqueue_missing()
    first = claimed(budget)
    assert first.suggest_int("depth", 2, 7) == 5
    assert first.user_attrs["preset"] == "known"


def test_a_handed_back_trial_is_claimed_again_with_its_parameters(study: optuna.Study) -> None:
    budget = Budget(study, 1)
    budget.enqueue_missing()
    trial = claimed(budget)
    value = trial.suggest_float("x", 0, 1)
    budget.hand_back(trial)
    again = claimed(budget)
    assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, value)


def test_a_trial_that_was_reaped_is_not_handed_back(study: optuna.Study) -> None:
    budget = Budget(study, 1)
    trial = claimed(budget)
    trial.set_user_attr("worker", gone(trial.user_attrs["worker"]))
    assert budget.reap(budget.slots()) == [trial.number]
    budget.hand_back(trial)
    assert study.trials[0].state == TrialState.FAIL


def test_lost_trials_are_replaced_until_they_count_as_failed(study: optuna.Study) -> None:
    budget = Budget(study, 1)
    with subprocess.Popen(["true"]) as ended:
        pass
    values = []
    for _ in range(ATTEMPTS):
        budget.enqueue_missing()
        trial = claimed(budget)
        values.append(trial.suggest_float("x", 0, 1))
        assert budget.reap(budget.slots()) == []  # its worker, this process, is alive
        trial.set_user_attr("worker", gone(trial.user_attrs["worker"], ended.pid))
        assert budget.reap(budget.slots()) == [trial.number]
    budget.enqueue_missing()
    assert budget.claim() is None
    assert budget.slots().left == 0
    assert len(set(values)) == 1
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * ATTEMPTS
    assert study.trials[-1].user_attrs["failure"].endswith(f":{ended.pid} ended, {ATTEMPTS} times")


def test_a_process_that_reuses_a_dead_workers_id_is_not_taken_for_it(study: optuna.Study) -> None:
    budget = Budget(study, 1)
    budget.enqueue_missing()
    trial = claimed(budget)
    name = trial.user_attrs["worker"].rpartition(".")[0]
    trial.set_user_attr("worker", f"{name}.1")
    assert budget.reap(budget.slots()) == [trial.number]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the budget takes for the time, in seconds; to be set."""
    now = [1000.0]
    monkeypatch.setattr(lease_watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def look_every_5_s(budget: Budget, clock: list[float], between: Callable[[], None] = lambda: None) -> float:
    """Seconds until a trial is reaped, at most 100."""
    began = clock[0]
    while clock[0] < began + 100 and not budget.reap(budget.slots()):
        between()
        clock[0] += 5
    return clock[0] - began


def elsewhere(budget: Budget) -> optuna.Trial:
    """A trial that a worker of another machine runs."""
    budget.enqueue_missing()
    trial = claimed(budget)
    trial.set_user_attr("worker", "elsewhere:1:1")
    return trial


def test_a_trial_whose_worker_left_no_name_is_lost_after_the_grace_period(
    study: optuna.Study, storage: RetryingStorage, clock: list[float]
) -> None:
    budget = Budget(study, 1)
    trial = claimed(budget)
    budget.hand_back(trial)
    storage.set_trial_state_values(
        trial_id_of(trial), TrialState.RUNNING
    )  # claimed by one that was killed there and then
    assert lease_watch.GRACE_S < look_every_5_s(budget, clock) <= lease_watch.GRACE_S + 10
    assert study.trials[0].user_attrs["lost"].startswith("the worker that claimed it was silent for")


def test_a_silent_worker_is_taken_for_dead_after_the_grace_period(study: optuna.Study, clock: list[float]) -> None:
    budget = Budget(study, 1)
    elsewhere(budget)
    assert lease_watch.GRACE_S < look_every_5_s(budget, clock) <= lease_watch.GRACE_S + 10
    assert study.trials[0].state == TrialState.FAIL


def test_a_worker_that_renews_its_lease_keeps_its_trial(study: optuna.Study, clock: list[float]) -> None:
    budget = Budget(study, 1)
    trial, counts = elsewhere(budget), iter(range(100))
    assert look_every_5_s(budget, clock, lambda: trial.set_user_attr("lease", next(counts))) >= 100


def test_time_without_a_look_is_not_counted_as_silence(study: optuna.Study, clock: list[float]) -> None:
    budget = Budget(study, 1)
    elsewhere(budget)
    assert budget.reap(budget.slots()) == []
    clock[0] += 3600  # frozen, or the database was away
    assert budget.reap(budget.slots()) == []
    assert budget.reap(budget.slots()) == []


def running(budget: Budget, count: int) -> list[optuna.Trial]:
    """Trials that workers of another machine run."""
    found = [elsewhere(budget) for _ in range(count)]
    for trial in found:
        trial.set_user_attr("lease", [0, 0.0])
    return found


def renew(trials: Sequence[optuna.Trial], count: int) -> None:
    for trial in trials:
        trial.set_user_attr("lease", [count, 0.0])


def test_the_workers_of_the_first_running_trials_are_reapers(study: optuna.Study, clock: list[float]) -> None:
    budget = Budget(study, 12)
    trials = running(budget, 12)
    for count in range(1, 4):
        budget.reconcile()
        assert [budget.is_reaper(trial.number) for trial in trials] == [True] * MAX_REAPERS + [False] * 4
        clock[0] += 5
        renew(trials, count)


def test_other_workers_become_reapers_when_the_first_are_lost(study: optuna.Study, clock: list[float]) -> None:
    budget = Budget(study, 12)
    trials = running(budget, 12)
    budget.reconcile()
    lost, left = trials[:MAX_REAPERS], trials[MAX_REAPERS:]
    clock[0] += 5 * REAP_EVERY
    renew(left, 1)
    budget.reconcile()
    assert [budget.is_reaper(trial.number) for trial in left] == [True] * 4
    began, count = clock[0], 1
    while any(study.trials[trial.number].state == TrialState.RUNNING for trial in lost):
        assert clock[0] - began < lease_watch.GRACE_S + 15
        clock[0] += 5
        count += 1
        renew(left, count)
        budget.reconcile()
    assert all(study.trials[trial.number].state == TrialState.RUNNING for trial in left)


def test_only_the_first_of_many_workers_fills(
    study: optuna.Study, storage: RetryingStorage, clock: list[float]
) -> None:
    budget = Budget(study, 12)
    trials = running(budget, 2)
    for waiting in budget.slots().waiting:
        storage.set_trial_state_values(trial_id_of(waiting), TrialState.RUNNING)
        storage.set_trial_state_values(trial_id_of(waiting), TrialState.FAIL)
    later, first = Budget(study, 12), Budget(study, 12)
    assert later.reconcile(trials[1].number).waiting == []
    assert len(first.reconcile(trials[0].number).waiting) == AHEAD
    assert later.reconcile(trials[1].number).superfluous == []


def test_a_worker_that_is_no_reaper_reads_the_trials_seldom(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    study.set_user_attr("grace_s", 0.02 * RENEWALS)
    budget = Budget(study, MAX_REAPERS + 2)
    running(budget, MAX_REAPERS + 1)
    budget.enqueue_missing()
    mine, own, looks = claimed(budget), Budget(study, MAX_REAPERS + 2), []
    look = own.reconcile
    monkeypatch.setattr(own, "reconcile", lambda trial: looks.append(1) or look(trial))
    with RunningTrial(mine, own, lambda: None):
        wait_for(lambda: study.trials[mine.number].user_attrs.get("lease", [0])[0] >= 4 * REAP_EVERY)
    beats = study.trials[mine.number].user_attrs["lease"][0]
    # From its second look on it sees that the others say nothing, and looks after them.
    assert looks and own.is_reaper(mine.number)
    assert len(looks) <= beats - REAP_EVERY + 1


def test_a_lease_is_renewed_while_its_block_runs_and_reaps_others(
    study: optuna.Study, storage: RetryingStorage, wait_for: Callable[..., Any]
) -> None:
    study.set_user_attr("grace_s", 0.05 * RENEWALS)
    budget = Budget(study, 2)
    lost = elsewhere(budget)
    mine = claimed(budget)
    lost.set_user_attr("worker", gone(mine.user_attrs["worker"]))
    with RunningTrial(mine, Budget(study, 2), lambda: None) as running:
        wait_for(lambda: len(study.trials) == 3)
        assert not running.ended_elsewhere()
    trials = study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "RUNNING", "WAITING"]
    assert trials[1].user_attrs["lease"][0] >= 1
    assert trials[2].user_attrs["slot"] == trials[0].user_attrs["slot"]
    storage.set_trial_state_values(trial_id_of(mine), TrialState.FAIL)
    assert running.ended_elsewhere()
