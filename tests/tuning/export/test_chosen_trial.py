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
