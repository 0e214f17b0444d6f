"""The exact budget, on a real storage with real processes."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tuning import budget as module
from tuning.budget import ATTEMPTS, Budget
from tuning.lease import Lease
from tuning.patience import PatientStorage
from tuning.storage import open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[PatientStorage]:
    storage = open_storage(f"sqlite:///{tmp_path / 'q.db'}", create=True)
    yield storage
    storage.close()


@pytest.fixture
def study(storage: PatientStorage) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def claim_all(url: str, trials: int, start: Barrier) -> list[int]:
    storage = open_storage(url)
    budget = Budget(optuna.load_study(study_name="s", storage=storage), trials)
    start.wait()
    claimed = []
    while (trial := budget.claim()) is not None:
        claimed.append(trial.number)
    return claimed


def in_child(url: str, trials: int, start: Barrier, out: "multiprocessing.Queue[list[int]]") -> None:
    out.put(claim_all(url, trials, start))


def test_every_trial_is_claimed_by_exactly_one_of_many_processes(
    study: optuna.Study, storage: PatientStorage, tmp_path: Path
) -> None:
    slots, processes = 40, 4
    Budget(study, slots).fill()
    context = multiprocessing.get_context("spawn")
    start, out = context.Barrier(processes), context.Queue()
    url = f"sqlite:///{tmp_path / 'q.db'}"
    children = [context.Process(target=in_child, args=(url, slots, start, out)) for _ in range(processes)]
    for child in children:
        child.start()
    claimed = [number for _ in children for number in out.get(timeout=60)]
    for child in children:
        child.join()
    assert Counter(claimed) == Counter(range(slots))


def test_filling_twice_adds_nothing(study: optuna.Study, storage: PatientStorage) -> None:
    for _ in range(2):
        Budget(study, 5).fill()
    assert [trial.user_attrs["slot"] for trial in study.trials] == list(range(5))


def test_a_larger_budget_extends_the_study(study: optuna.Study, storage: PatientStorage) -> None:
    Budget(study, 2).fill()
    Budget(study, 5).fill()
    assert sorted(Budget(study, 5).look().filled) == list(range(5))
    assert len(study.trials) == 5


def test_two_fillers_at_once_do_not_overshoot(study: optuna.Study, storage: PatientStorage) -> None:
    for slot in (0, 1, 1, 0):  # what two processes write that both found the slots empty
        study.enqueue_trial({}, user_attrs={"slot": slot})
    budget = Budget(study, 2)
    claimed = [budget.claim(), budget.claim()]
    assert [trial.number for trial in claimed if trial] == [0, 1]
    assert budget.claim() is None


def test_presets_are_the_first_trials(study: optuna.Study, storage: PatientStorage) -> None:
    study.set_user_attr("plan", {"0": {"params": {"depth": 5}, "attributes": {"preset": "known"}}})
    budget = Budget(study, 2)
    budget.fill()
    first = budget.claim()
    assert first is not None
    assert first.suggest_int("depth", 2, 7) == 5
    assert first.user_attrs["preset"] == "known"


def test_a_handed_back_trial_is_claimed_again_with_its_parameters(study: optuna.Study, storage: PatientStorage) -> None:
    budget = Budget(study, 1)
    budget.fill()
    trial = budget.claim()
    assert trial is not None
    value = trial.suggest_float("x", 0, 1)
    budget.hand_back(trial)
    again = budget.claim()
    assert again is not None
    assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, value)


def test_lost_trials_are_replaced_until_they_are_at_fault_themselves(
    study: optuna.Study, storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(study, 1)
    gone = multiprocessing.get_context("spawn").Process(target=os.getpid)
    gone.start()
    gone.join()
    values = []
    for _ in range(ATTEMPTS):
        budget.fill()
        trial = budget.claim()
        assert trial is not None
        values.append(trial.suggest_float("x", 0, 1))
        assert budget.reap() == []  # its worker, this process, is alive
        host, _, start = trial.user_attrs["worker"].split(":")
        trial.set_user_attr("worker", f"{host}:{gone.pid}:{start}")
        assert budget.reap() == [trial.number]
    budget.fill()
    assert budget.claim() is None
    assert budget.look().left == 0
    assert len(set(values)) == 1
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * ATTEMPTS
    assert study.trials[-1].user_attrs["failure"].endswith(f":{gone.pid} ended, {ATTEMPTS} times")


def test_a_process_that_was_given_a_dead_workers_number_is_not_taken_for_it(
    study: optuna.Study, storage: PatientStorage
) -> None:
    budget = Budget(study, 1)
    budget.fill()
    trial = budget.claim()
    assert trial is not None
    host, process, start = trial.user_attrs["worker"].split(":")
    trial.set_user_attr("worker", f"{host}:{process}:{int(start) - 1}")
    assert budget.reap() == [trial.number]


def test_a_trial_whose_worker_never_signed_is_given_up_after_a_while_and_not_before(
    study: optuna.Study, storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(study, 1)
    budget.fill()
    trial = budget.claim()
    assert trial is not None
    budget.hand_back(trial)
    storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)  # claimed by one that was killed there and then
    silent, _ = look_every_5_s(budget, monkeypatch)
    assert module.GRACE_S < silent <= module.GRACE_S + 10
    assert study.trials[0].user_attrs["lost"].startswith("whoever claimed it said nothing for")


def look_every_5_s(budget: Budget, monkeypatch: pytest.MonkeyPatch, between=lambda: None) -> tuple[float, list[float]]:
    """Seconds until a trial is reaped, at most 100; the clock can be set."""
    clock = [module.time.monotonic()]
    began = clock[0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    while clock[0] < began + 100 and not budget.reap():
        between()
        clock[0] += 5
    return clock[0] - began, clock


def elsewhere(budget: Budget) -> optuna.Trial:
    """A trial that a worker of another machine runs."""
    budget.fill()
    trial = budget.claim()
    assert trial is not None
    trial.set_user_attr("worker", "elsewhere:1:1")
    return trial


def test_a_worker_that_says_nothing_is_taken_for_dead_after_the_grace_period(
    study: optuna.Study, storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(study, 1)
    elsewhere(budget)
    silent, _ = look_every_5_s(budget, monkeypatch)
    assert module.GRACE_S < silent <= module.GRACE_S + 10
    assert study.trials[0].state == TrialState.FAIL


def test_a_worker_that_renews_its_lease_keeps_its_trial(
    study: optuna.Study, storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(study, 1)
    trial, counts = elsewhere(budget), iter(range(100))
    silent, _ = look_every_5_s(budget, monkeypatch, lambda: trial.set_user_attr("lease", next(counts)))
    assert silent >= 100


def test_time_in_which_nobody_looked_is_nobodys_silence(
    study: optuna.Study, storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(study, 1)
    elsewhere(budget)
    clock = [module.time.monotonic()]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    assert budget.reap() == []
    clock[0] += 3600  # frozen, or the database was away
    assert budget.reap() == []
    assert budget.reap() == []


def test_a_lease_is_renewed_while_its_block_runs_and_reaps_others(
    study: optuna.Study, storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.lease.RENEW_S", 0.05)
    budget = Budget(study, 2)
    gone = elsewhere(budget)
    mine = budget.claim()
    assert mine is not None
    host, _, start = mine.user_attrs["worker"].split(":")
    gone.set_user_attr("worker", f"{host}:999999999:{start}")
    with Lease(mine, Budget(study, 2)) as lease:
        deadline = module.time.monotonic() + 20
        while module.time.monotonic() < deadline and len(study.trials) < 3:
            module.time.sleep(0.05)
        assert not lease.taken()
    trials = study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "RUNNING", "WAITING"]
    assert trials[1].user_attrs["lease"][0] >= 1
    assert trials[2].user_attrs["slot"] == trials[0].user_attrs["slot"]
    storage.set_trial_state_values(mine._trial_id, TrialState.FAIL)
    assert lease.taken()
