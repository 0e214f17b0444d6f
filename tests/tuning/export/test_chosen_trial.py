"""The trial that is exported when none is named."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial
from quell_tuning.errors import StudyNotFound
from quell_tuning.export import chosen_trial
from quell_tuning.workspace.run_folder import RunFolder


def test_the_only_trial_of_a_front_is_chosen_and_of_several_one_must_be_named(tmp_path: Path) -> None:
    runs = RunFolder(tmp_path)
    front = optuna.create_study(study_name="front", directions=["maximize", "minimize"])
    for number, values in enumerate(((2.5, 5e6), (2.25, 6e6), (2.75, 9e6))):
        front.add_trial(create_trial(values=values))
        runs.weights("front", number).parent.mkdir(parents=True, exist_ok=True)
        runs.weights("front", number).touch()
        if number < 2:
            assert chosen_trial.choose(front, runs).trial.number == 0
    with pytest.raises(StudyNotFound, match="a front of 2 trials, expected --trial with one of 2, 0"):
        chosen_trial.choose(front, runs)
    assert chosen_trial.choose(front, runs, 0).trial.number == 0


def infeasible_study(runs: RunFolder, name: str = "poor") -> optuna.Study:
    """Trials 0 and 1 break one constraint, 2 breaks two; 3 was pruned."""
    study = optuna.create_study(study_name=name, direction="maximize")
    for value, constraints in ((1.5, {"stoi": 0.1}), (1.75, {"stoi": 0.2}), (2.0, {"stoi": 0.1, "si_sdr": 1.0})):
        study.add_trial(create_trial(value=value, constraints=constraints))
    study.add_trial(create_trial(state=optuna.trial.TrialState.PRUNED))
    runs.weights(name, 0).parent.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        runs.weights(name, number).touch()
    return study


def test_without_a_feasible_trial_the_least_bad_one_is_named_and_can_be_exported(tmp_path: Path) -> None:
    runs = RunFolder(tmp_path)
    study = infeasible_study(runs)
    with pytest.raises(StudyNotFound, match=r"no trial is complete and feasible, .*; tune on, or .* --trial 1$"):
        chosen_trial.choose(study, runs)
    for number in range(3):
        assert chosen_trial.choose(study, runs, number).trial.number == number


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (3, "trial 3: pruned, without weights"),
        (4, "trial 4: not in study 'poor', which has 4 trials"),
        (2, "trial 2: infeasible, and its weights not kept"),
    ],
)
def test_the_answer_to_a_trial_that_cannot_be_exported_is_about_it(tmp_path: Path, number: int, found: str) -> None:
    runs = RunFolder(tmp_path)
    study = infeasible_study(runs)
    runs.weights("poor", 2).unlink()
    with pytest.raises(StudyNotFound, match=rf"{found}, expected one with weights \(1, 0\); choose among them"):
        chosen_trial.choose(study, runs, number)
