"""What a trial costs is known, and held against the limits, before it trains."""

import math

import optuna
import pytest
import torch
from optuna.trial import TrialState

from quell.cost import cost
from quell.denoiser import Denoiser
from quell.errors import TrainingError
from tuning import objective, outcome, space, study_file
from tuning.runs import Runs

LIMITS = {"parameters": 5_000, "macs_per_s": 3e6, "real_time_factor": 10.0, "latency_ms": 50.0}


class Running:
    """A trial in the hands of a worker that does `step` between two steps of training."""

    def __init__(self, trial: optuna.Trial, step=lambda: None) -> None:
        self.trial = trial
        self.between = step

    def step(self, audio_hours: float) -> None:
        self.between()


@pytest.fixture
def task(tiny_study, small_corpus, validation, scorer, tmp_path):
    def task(limits: dict[str, float]) -> objective.Task:
        path = tmp_path / "study.toml"
        text = "\n".join(f"{name} = {value}" for name, value in limits.items())
        path.write_text(f"{tiny_study}\n[limits]\n{text}\n")
        spec = study_file.load(path)
        return objective.Task(spec, small_corpus, validation, scorer, torch.device("cpu"), Runs(tmp_path / "runs"))

    return task


def test_a_trial_over_a_limit_is_pruned_untrained_with_how_far_it_is_over(task) -> None:
    here = task({"parameters": 1_000, "macs_per_s": 1e12})
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"depth": 3})
    trial = study.ask()

    def never() -> None:
        raise AssertionError("it trains")

    objective.run_trial(Running(trial, never), here)
    (ended,) = study.trials
    model = space.denoiser_config(space.suggest(optuna.trial.FixedTrial({"depth": 3}), here.spec.search), 8_000)
    found = cost(Denoiser(model))
    assert ended.state == TrialState.PRUNED
    assert ended.user_attrs["pruned"] == "over the limit of parameters"
    assert ended.constraints["parameters"] == pytest.approx(found.parameters / 1_000 - 1)
    assert ended.constraints["macs_per_s"] < 0
    assert outcome.best_trials(study) == []


def test_a_trial_within_the_limits_trains(task) -> None:
    class Trains(Exception):
        pass

    def trains() -> None:
        raise Trains

    study = optuna.create_study(direction="maximize")
    with pytest.raises(Trains):
        objective.run_trial(Running(study.ask(), trains), task({"parameters": 1_000_000, "latency_ms": 1_000.0}))


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_is_held_against_its_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = space.denoiser_config(space.PRESETS["recurrent-unet"], 8_000)
    monkeypatch.setattr(objective, "real_time_factor", lambda denoiser: 0.3)
    found = objective.over_limits(model, study_file.LimitsSection(**{name: LIMITS[name]}))
    counted = cost(Denoiser(model))
    expected = {
        "parameters": counted.parameters / 5_000 - 1,
        "macs_per_s": counted.macs_per_s / 3e6 - 1,
        "real_time_factor": 0.3 / 1.5 / 10.0 - 1,  # a busy machine is not the network's fault
        "latency_ms": math.inf,
    }
    assert found == {name: pytest.approx(expected[name])}


def test_without_limits_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "cost", None)
    assert (
        objective.over_limits(space.denoiser_config(space.PRESETS["mask-unet"], 8_000), study_file.LimitsSection())
        == {}
    )


def test_a_trial_that_diverges_fails_with_its_reason(task, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise TrainingError("step 3: loss nan")

    monkeypatch.setattr(objective, "train", diverge)
    study = optuna.create_study(direction="maximize")
    objective.run_trial(Running(study.ask()), task({}))
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs["failure"] == "step 3: loss nan"


class Left(BaseException):
    """The worker was asked to leave."""


def leave_after(steps: int):
    def leave() -> None:
        nonlocal steps
        steps -= 1
        if steps < 0:
            raise Left

    return leave


@pytest.mark.parametrize("damage", [False, True])
def test_a_trial_that_was_left_goes_on_to_the_score_of_one_that_was_not(task, damage: bool) -> None:
    def ended(steps: int) -> optuna.trial.FrozenTrial:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        trial = study.ask()
        if steps:
            with pytest.raises(Left):
                objective.run_trial(Running(trial, leave_after(steps)), here)
            (left,) = here.runs.checkpoints("tiny").folder.rglob("*.checkpoint")
            if damage:
                left.write_bytes(b"half")
            assert trial.study.trials[0].state == TrialState.RUNNING
        objective.run_trial(Running(trial), here)
        assert not list(here.runs.checkpoints("tiny").folder.rglob("*.checkpoint"))
        return study.trials[0]

    here = task({})
    whole, past_a_rung = ended(0), ended(200)  # of 288 steps, 108 to the first rung
    assert past_a_rung.value == whole.value
    assert past_a_rung.intermediate_values == whole.intermediate_values
    assert len(whole.intermediate_values) == 2
