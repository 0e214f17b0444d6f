"""A line for every trial that ends while somebody looks, and none for those before."""

import io

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from quell_tuning.trials.budget import Slots
from quell_tuning.workers.live_view import LiveView
from rich.console import Console


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def end(study: optuna.Study, value: float | None = None, state: TrialState = TrialState.COMPLETE, **found) -> None:
    constraints = found.pop("constraints", {})
    found["slot"] = len(study.trials)
    study.add_trial(create_trial(state=state, value=value, user_attrs=found, constraints=constraints))


def lines(study: optuna.Study, shown: LiveView) -> list[str]:
    shown.console.file = io.StringIO()
    shown.show(Slots(study.get_trials(deepcopy=False), 9), [])
    return shown.console.file.getvalue().splitlines()


def test_each_trial_is_printed_once_and_those_that_ended_before_are_counted(study: optuna.Study) -> None:
    end(study, 2.5)
    end(study, state=TrialState.PRUNED, pruned="over the limit of macs_per_s")
    shown = LiveView(Console(file=io.StringIO(), width=200), 9, audio_hours=1.0, score="pesq")
    assert lines(study, shown) == ["2 of 9 trials ended before, best pesq 2.500"]
    assert lines(study, shown) == []
    end(study, 2.75, preset="mask-unet")
    end(study, 2.75, same_as=2)
    end(study, state=TrialState.PRUNED, pruned="pesq 2.1 after 0.5 h of audio")
    end(study, state=TrialState.FAIL, failure="step 3: loss nan")
    assert lines(study, shown) == [
        "trial 2 mask-unet complete: pesq 2.750 (3 of 9, best pesq 2.750)",
        "trial 3 complete: pesq 2.750, the same as trial 2 (4 of 9, best pesq 2.750)",
        "trial 4 pruned: pesq 2.1 after 0.5 h of audio (5 of 9, best pesq 2.750)",
        "trial 5 fail: step 3: loss nan (6 of 9, best pesq 2.750)",
    ]


def test_a_trial_that_lowers_a_constrained_score_is_infeasible_and_not_the_best(study: optuna.Study) -> None:
    shown = LiveView(Console(file=io.StringIO(), width=200), 9, audio_hours=1.0, score="pesq")
    assert lines(study, shown) == []
    end(study, 3.0, constraints={"parameters": -0.5, "si_sdr": 2.0, "stoi": 0.1})
    assert lines(study, shown) == [
        "trial 0 infeasible: pesq 3.000, but si_sdr and stoi below the noisy input's (1 of 9)"
    ]
