"""What ended trials leave to the others: which are the best, whose weights stay, whose score is taken over."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.trials import outcome, ranking
from quell_tuning.workspace.run_folder import RunFolder

from quell.export.cost import Cost
from quell.metrics.scorer import Scores

SEED = 2**47 + 11  # of a training: 48 bits
BEGAN = datetime(2026, 1, 1)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


@pytest.fixture
def front() -> optuna.Study:
    """A study of quality against cost."""
    return optuna.create_study(directions=["maximize", "minimize"])


def add(
    study: optuna.Study,
    *values: float,
    state: TrialState = TrialState.COMPLETE,
    seed: int | None = None,
    began_s: float = 0.0,
    **attributes: Any,
) -> int:
    """A trial that ended with these values, or is in another state; its number."""
    constraints = attributes.pop("constraints", {})
    rungs = attributes.pop("rungs", {})
    if seed is not None:
        attributes["training"] = {"seed": seed}
    trial = create_trial(
        state=state,
        values=values or None,
        user_attrs=attributes,
        constraints=constraints,
        intermediate_values=rungs,
    )
    if state != TrialState.WAITING:
        trial.datetime_start = BEGAN + timedelta(seconds=began_s)
    study.add_trial(trial)
    return len(study.trials) - 1


def running(study: optuna.Study, number: int) -> optuna.Trial:
    return optuna.Trial(study, trial_id_of(study.trials[number]))


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_best_trial_scores_highest_and_of_equal_ones_is_the_earlier(study: optuna.Study) -> None:
    for value in (-1.0, 3.0, 0.0, 3.0, 4.0, -0.5):
        add(study, value)
    assert numbers(ranking.best_trials(study)) == [4, 1, 3, 2, 5, 0]


def test_only_complete_and_feasible_trials_are_among_the_best(study: optuna.Study) -> None:
    good = add(study, 1.0, constraints={"si_sdr": 0.0, "stoi": -0.1})
    add(study, 9.0, constraints={"si_sdr": 0.1, "stoi": -0.1})
    add(study, 9.0, state=TrialState.PRUNED, rungs={108: 9.0})
    add(study, state=TrialState.FAIL, failure="step 3: loss nan")
    add(study, state=TrialState.FAIL, lost="its worker ended", rungs={108: 9.0})
    add(study, state=TrialState.RUNNING, rungs={108: 9.0})
    add(study, state=TrialState.WAITING)
    assert numbers(ranking.best_trials(study)) == [good]


def test_the_best_trials_by_several_scores_are_the_pareto_front(front: optuna.Study) -> None:
    small = add(front, 2.0, 5.0)
    large = add(front, 3.0, 10.0)
    add(front, 2.5, 20.0)  # worse and larger than `large`
    again = add(front, 3.0, 10.0)
    add(front, state=TrialState.PRUNED)
    add(front, state=TrialState.FAIL, lost="its worker ended")
    assert numbers(ranking.best_trials(front)) == [large, again, small]
    add(front, 9.0, 1.0, constraints={"si_sdr": 0.1})  # better than all of them, but for its limits
    assert numbers(ranking.best_trials(front)) == [large, again, small]


@pytest.fixture
def runs(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def kept(runs: RunFolder) -> Callable[..., list[int]]:
    """Whose weights stay, when every trial but those that took another's score over had some."""

    def kept(study: optuna.Study, **arguments: int) -> list[int]:
        files = {trial.number: runs.weights(study.study_name, trial.number) for trial in study.trials}
        for trial in study.trials:
            if "same_as" not in trial.user_attrs:
                files[trial.number].parent.mkdir(parents=True, exist_ok=True)
                files[trial.number].touch()
        outcome.prune_weights(study, runs, **arguments)
        return [number for number, file in files.items() if file.exists()]

    return kept


def test_the_weights_of_exactly_the_best_trials_are_kept(study: optuna.Study, kept) -> None:
    for value in (1.0, 5.0, 3.0, 2.0, 4.0):
        add(study, value)
    add(study, 9.0, constraints={"stoi": 0.1})
    assert kept(study, keep=2) == [1, 4]
    assert kept(study) == [1, 2, 4]


def test_without_a_feasible_trial_those_of_the_least_bad_are_kept(study: optuna.Study, kept) -> None:
    add(study, 1.0, constraints={"stoi": 0.1})
    add(study, 2.0, constraints={"stoi": 0.3})
    add(study, 9.0, constraints={"stoi": 0.1, "si_sdr": 1.0})
    assert kept(study, keep=2) == [0, 1]
    add(study, 0.5)
    assert kept(study, keep=2) == [3]


def test_weights_that_a_running_trial_has_just_written_are_kept(study: optuna.Study, kept) -> None:
    add(study, 1.0)
    add(study, 2.0)
    mine = add(study, state=TrialState.RUNNING)
    assert kept(study, keep=1) == [1, mine]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_weights_of_a_trial_that_completes_meanwhile_are_kept(study: optuna.Study, kept, monkeypatch, after) -> None:
    """Whichever of its three looks at the study's trials the one that forgets has just taken."""
    add(study, 1.0)
    mine = running(study, add(study, state=TrialState.RUNNING))
    look = study.get_trials
    looks: list[bool] = []

    def look_then_complete(**arguments: Any) -> list[FrozenTrial]:
        seen = look(**arguments)
        if not arguments.get("deepcopy", True):  # the look of `prune_weights`, not of this test
            looks.append(True)
            if len(looks) == after:
                study.tell(mine, 2.0)
        return seen

    monkeypatch.setattr(study, "get_trials", look_then_complete)
    assert mine.number in kept(study, keep=1)


def test_the_weights_of_the_whole_front_are_kept(front: optuna.Study, kept) -> None:
    for cost in range(outcome.KEPT_WEIGHTS + 2):
        add(front, float(cost), float(cost))
    dominated = add(front, 1.0, 9.0)
    assert kept(front) == list(range(dominated))


def test_the_best_trials_weights_are_kept_however_many_duplicates_it_has(study: optuna.Study, kept) -> None:
    trained = outcome.KEPT_WEIGHTS
    for _ in range(trained):
        add(study, 2.0, same_as=trained)
    add(study, 2.0)
    add(study, 1.0)
    assert kept(study, keep=1) == [trained]
    assert trained in kept(study)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_a_duplicate_is_an_ended_trial_with_the_same_training(study: optuna.Study, state: TrialState) -> None:
    values = [2.0] if state == TrialState.COMPLETE else []
    add(study, *values, state=state, seed=SEED + 1)
    add(study, *values, state=state)
    mine = add(study, state=TrialState.RUNNING, seed=SEED)
    assert outcome.find_duplicate(running(study, mine), SEED) is None
    ended = add(study, *values, state=state, seed=SEED)
    found = outcome.find_duplicate(running(study, mine), SEED)
    assert found is not None and (found.number, found.state) == (ended, state)


def test_neither_the_trial_itself_nor_failed_lost_or_superfluous_ones_are_duplicates(study: optuna.Study) -> None:
    add(study, state=TrialState.FAIL, seed=SEED, failure="step 3: loss nan")
    add(study, state=TrialState.FAIL, seed=SEED, lost="its worker ended")
    add(study, state=TrialState.FAIL, seed=SEED, superfluous="another trial fills its slot")
    add(study, state=TrialState.FAIL, seed=SEED, superfluous="the same as trial 0", asked="the same as trial 0")
    add(study, state=TrialState.WAITING, seed=SEED)
    mine = add(study, state=TrialState.RUNNING, seed=SEED, began_s=9)
    assert outcome.find_duplicate(running(study, mine), SEED) is None


def test_an_ended_duplicate_comes_before_a_running_one(study: optuna.Study) -> None:
    add(study, state=TrialState.RUNNING, seed=SEED)
    ended = add(study, 1.0, seed=SEED)
    mine = add(study, state=TrialState.RUNNING, seed=SEED, began_s=9)
    found = outcome.find_duplicate(running(study, mine), SEED)
    assert found is not None and found.number == ended


@pytest.mark.parametrize(
    ("first_s", "second_s", "sees"),
    [(0, 1, [None, 0]), (1, 0, [1, None]), (0, 0, [None, 0]), (0, 1e-6, [None, 0]), (1e-6, 0, [1, None])],
    ids=["in order", "handed back meanwhile", "at once", "a moment later", "a moment before"],
)
def test_of_two_running_duplicates_only_the_later_one_finds_the_other(
    study: optuna.Study, first_s: float, second_s: float, sees: list[int | None]
) -> None:
    for began_s in (first_s, second_s):
        add(study, state=TrialState.RUNNING, seed=SEED, began_s=began_s)
    found = [outcome.find_duplicate(running(study, number), SEED) for number in (0, 1)]
    assert [other and other.number for other in found] == sees


LEFT = {
    "cost": {"parameters": 7, "latency_ms": None},
    "metrics": {"pesq": 2.5, "si_sdr": 9.0},
    "by_snr": {"-5": {"pesq": 2.5}},
    "worse": {"pesq": 0.1},
    "clips": {"108": [1.0, 2.0], "288": [2.0, 3.0]},
    "failures": 0,
    "machine": {"threads": 1},
    "data_share": 0.1,
    "micro_batch": 4,
    "iou": 0.5,
}
RUNGS = {108: 1.5, 288: 2.5}


def copy_result(study: optuna.Study, number: int) -> FrozenTrial:
    """A new trial, which has the configuration of trial `number`."""
    trial = study.ask()
    outcome.copy_result(trial, study.trials[number])
    return study.trials[trial.number]


def test_a_trial_gets_the_whole_result_of_a_complete_duplicate(study: optuna.Study) -> None:
    constraints = {"parameters": -0.5, "si_sdr": -3.0, "stoi": 0.0}
    add(study, 2.5, rungs=RUNGS, constraints=constraints, **LEFT)
    taken = copy_result(study, 0)
    assert (taken.state, taken.value) == (TrialState.COMPLETE, 2.5)
    assert taken.intermediate_values == RUNGS
    assert taken.constraints == constraints
    assert taken.user_attrs == LEFT | {"same_as": 0}
    assert numbers(ranking.best_trials(study)) == [0, 1]


def test_a_copied_result_names_the_trial_that_was_trained(study: optuna.Study) -> None:
    add(study, 2.5, rungs=RUNGS, **LEFT)
    copy_result(study, 0)
    assert copy_result(study, 1).user_attrs == LEFT | {"same_as": 0}


def test_a_duplicate_of_a_pruned_trial_is_pruned_at_the_same_rung_for_the_same_reason(study: optuna.Study) -> None:
    add(study, state=TrialState.PRUNED, rungs={108: 1.5}, pruned="pesq 1.500 after 0.03 h of audio")
    taken = copy_result(study, 0)
    assert taken.state == TrialState.PRUNED
    assert taken.intermediate_values == {108: 1.5}
    assert taken.user_attrs["pruned"] == "pesq 1.500 after 0.03 h of audio"


def test_a_duplicate_of_an_infeasible_trial_is_infeasible(study: optuna.Study) -> None:
    add(study, 2.5, constraints={"si_sdr": 0.2, "stoi": -0.1}, **LEFT)
    assert copy_result(study, 0).constraints == {"si_sdr": 0.2, "stoi": -0.1}
    add(study, state=TrialState.PRUNED, constraints={"parameters": 1.5}, pruned="over the limit of parameters")
    assert copy_result(study, 2).constraints == {"parameters": 1.5}
    assert ranking.best_trials(study) == []


def test_all_of_several_scores_are_copied(front: optuna.Study) -> None:
    add(front, 2.5, 7e6, **LEFT)
    taken = copy_result(front, 0)
    assert taken.values == [2.5, 7e6]
    assert taken.user_attrs["same_as"] == 0


def test_a_handed_back_trial_copies_only_what_it_did_not_report_before(study: optuna.Study) -> None:
    add(study, 2.5, rungs=RUNGS, constraints={"parameters": -0.5, "stoi": -0.1}, **LEFT)
    trial = study.ask()
    trial.set_constraint("parameters", -0.5)
    trial.report(1.5, 108)
    outcome.copy_result(running(study, trial.number), study.trials[0])  # warnings are errors
    taken = study.trials[trial.number]
    assert taken.intermediate_values == RUNGS
    assert taken.constraints == {"parameters": -0.5, "stoi": -0.1}


def scores(**means: float) -> Scores:
    """Of two clips, around these means."""
    values = {name: np.array([mean - 0.25, mean + 0.25]) for name, mean in means.items()}
    return Scores(values, np.array([0.0, 20.0]), 0)


@pytest.mark.parametrize(
    ("score", "told"),
    [
        ("pesq", [2.5]),
        ("si_sdr", [9.0]),
        (["pesq", "macs"], [2.5, 3e6]),
        (["si_sdr", "parameters", "macs"], [9.0, 700, 3e6]),
        (["si_sdr", "macs", "parameters"], [9.0, 3e6, 700]),
    ],
)
def test_the_values_of_a_trial_are_the_studys_scores_in_their_order(tiny_spec, score: str | list[str], told) -> None:
    cost = Cost(parameters=700, macs_per_s=3e6, latency_ms=16.0)
    assert outcome.values(tiny_spec(study={"score": score}), scores(pesq=2.5, si_sdr=9.0), cost) == told


@pytest.mark.parametrize(
    ("si_sdr", "stoi", "feasible"), [(9.0, 0.8, True), (5.0, 0.7, True), (4.9, 0.8, False), (9.0, 0.69, False)]
)
def test_a_trial_that_lowers_si_sdr_or_stoi_is_infeasible(
    study: optuna.Study, si_sdr: float, stoi: float, feasible: bool
) -> None:
    trial = study.ask()
    outcome.add_quality_constraints(trial, scores(si_sdr=si_sdr, stoi=stoi), scores(si_sdr=5.0, stoi=0.7))
    study.tell(trial, 4.5)
    assert numbers(ranking.best_trials(study)) == ([0] if feasible else [])
