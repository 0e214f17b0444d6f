"""What becomes of a trial that loses its workers: it goes on as long as it gets further, and can be run again."""

from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials import lease_watch
from quell_tuning.trials.budget import ATTEMPTS, Budget
from quell_tuning.trials.ranking import counted

NOBODY = 999_999_999  # no process has this number


@pytest.fixture
def study(storage: RetryingStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, direction="maximize")


def claimed(budget: Budget) -> optuna.Trial:
    trial = budget.claim()
    assert trial is not None
    return trial


def lose(budget: Budget, checkpoint_hours: float | None) -> TrialState:
    """Loses the worker of the next trial, whose checkpoint has that many hours; returns the state of its slot's trial
    that counts, or WAITING."""
    budget.enqueue_missing()
    trial = claimed(budget)
    if checkpoint_hours is not None:
        trial.set_user_attr("lease", [3, checkpoint_hours + 0.5, checkpoint_hours])
    host, _, mark = trial.user_attrs["worker"].split(":")
    trial.set_user_attr("worker", f"{host}:{NOBODY}:{mark}")
    assert budget.reap(budget.slots()) == [trial.number]
    budget.enqueue_missing()
    return budget.slots().filled[0].state


@pytest.mark.parametrize(
    ("checkpoints", "failed_after"),
    [
        ([0.1 * number for number in range(1, 12)], None),  # each attempt gets further
        ([0.0, 0.0, 0.0], 3),
        ([None, None, None], 3),  # killed before they said a word, or by an older version
        ([0.2, 0.2, 0.2, 0.2], 4),  # the first got further than nothing, three times not
        ([0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3], 7),  # two in vain are forgotten when the next gets further
        ([0.5, 0.1, 0.5, 0.4], 4),  # where machines do not share checkpoints, the furthest counts
        ([0.5, 0.1, 0.1, 0.6], None),
    ],
)
def test_a_trial_fails_only_after_three_attempts_in_a_row_that_got_no_further(
    study: optuna.Study, checkpoints: list[float | None], failed_after: int | None
) -> None:
    budget = Budget(study, 1)
    states = [lose(budget, hours) for hours in checkpoints]
    expected = [TrialState.WAITING] * len(checkpoints)
    if failed_after is not None:
        expected[failed_after - 1 :] = [TrialState.FAIL]
    assert states == expected


def test_a_trial_whose_workers_were_lost_is_run_again_when_asked(study: optuna.Study) -> None:
    budget = Budget(study, 2)
    while lose(budget, 0.2) == TrialState.WAITING:
        pass
    own_fault = claimed(budget)
    own_fault.set_user_attr("failure", "step 3: loss nan")
    study.tell(own_fault, state=TrialState.FAIL)
    failed = budget.slots().filled[0]
    assert budget.slots().left == 0
    assert budget.retry_failed() == 1
    assert budget.retry_failed() == 0
    slots = budget.slots()
    assert (slots.left, [trial.number for trial in slots.ended]) == (1, [own_fault.number])
    again = claimed(budget)
    assert again.user_attrs == again.user_attrs | {"slot": 0, "attempt": failed.user_attrs["attempt"] + 1}
    assert failed.number not in [trial.number for trial in counted(study.trials)]
    budget.hand_back(again)
    assert [lose(budget, 0.2) for _ in range(ATTEMPTS)] == [TrialState.WAITING] * (ATTEMPTS - 1) + [TrialState.FAIL]
    assert budget.slots().left == 0
    assert budget.retry_failed() == 1
    study.tell(claimed(budget), 1.0)
    assert [trial.state for trial in budget.slots().ended] == [TrialState.COMPLETE, TrialState.FAIL]


def test_trials_that_two_ask_to_run_again_at_once_are_run_once(study: optuna.Study) -> None:
    budget, other = Budget(study, 1), Budget(study, 1)
    while lose(budget, 0.0) == TrialState.WAITING:
        pass
    slots = budget.slots()
    other.slots = lambda: slots  # type: ignore[method-assign] - as it read them at the same time
    assert (budget.retry_failed(), other.retry_failed()) == (1, 1)
    study.tell(claimed(budget), 1.0)
    budget.enqueue_missing()
    assert budget.claim() is None
    assert [trial.state for trial in counted(study.trials)] == [TrialState.COMPLETE]


def test_progress_rises_with_checkpoints_and_with_trials_that_end(study: optuna.Study) -> None:
    budget = Budget(study, 2)
    before = budget.slots().progress
    for hours in (0.1, 0.3):
        lose(budget, hours)
        assert budget.slots().progress > before
        before = budget.slots().progress
    lose(budget, 0.3)
    assert budget.slots().progress == before
    study.tell(claimed(budget), 1.0)
    assert budget.slots().progress > before


def test_the_grace_period_is_that_of_the_study_whatever_the_process_says(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(lease_watch, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(lease_watch, "GRACE_S", 10.0)
    study.set_user_attr("grace_s", 60.0)
    budget = Budget(study, 1)
    assert budget.renew_s == 10
    trial = claimed(budget)
    trial.set_user_attr("worker", "elsewhere:1:1")
    for _ in range(7):
        assert budget.reap(budget.slots()) == []
        now += 10
    assert budget.reap(budget.slots()) == [trial.number]
