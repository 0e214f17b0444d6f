"""What a trial costs is known, and held against the limits, before it trains."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from quell_tuning.progress import Trainings
from quell_tuning.study import search_space, substudies
from quell_tuning.study import sections as study_sections
from quell_tuning.study.presets import PRESETS
from quell_tuning.trials import objective, ranking
from quell_tuning.trials.budget import Slots
from quell_tuning.trials.lease import DuplicateTrial
from quell_tuning.workspace.run_folder import RunFolder
from rich.console import Console

from quell.config import DenoiserConfig
from quell.errors import TrainingError
from quell.export.cost import cost
from quell.network.denoiser import Denoiser
from quell.training.training_loop import Trained

LIMITS = {"parameters": 5_000, "macs_per_s": 3e6, "real_time_factor": 10.0, "latency_ms": 50.0}


class RunningTrial:
    """A trial in the hands of a worker that does `step` between two steps of training, and `look_up` between clips."""

    def __init__(self, trial: optuna.Trial, step=lambda: None, look_up=lambda: None) -> None:
        self.trial = trial
        self.between = step
        self.look_up = look_up
        self.budget = self

    def slots(self) -> Slots:
        return Slots(self.trial.study.get_trials(deepcopy=False), trials=10)

    def step(self, audio_hours: float) -> None:
        self.between()

    def note_checkpoint(self, audio_hours: float) -> None:
        self.checkpoint_hours = audio_hours


@pytest.fixture
def task(tiny_spec, small_corpus, validation, scorer, tmp_path):
    def task(limits: dict[str, float], **sections: dict[str, Any]) -> objective.Task:
        spec = tiny_spec(limits=limits, **sections)
        runs = RunFolder(tmp_path / "runs")
        return objective.Task(spec, small_corpus, validation, scorer, torch.device("cpu"), runs, Trainings(Console()))

    return task


def test_a_trial_over_a_limit_is_pruned_untrained_with_how_far_it_is_over(task) -> None:
    here = task({"parameters": 1_000, "macs_per_s": 1e12})
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"depth": 3})
    trial = study.ask()

    def never() -> None:
        raise AssertionError("it trains")

    objective.run_trial(RunningTrial(trial, never), here)
    (ended,) = study.trials
    model = search_space.denoiser_config(
        search_space.suggest(optuna.trial.FixedTrial({"depth": 3}), here.spec.search), 8_000
    )
    found = cost(model)
    assert ended.state == TrialState.PRUNED
    assert ended.user_attrs["pruned"] == "over the limit of parameters"
    assert ended.constraints["parameters"] == pytest.approx(found.parameters / 1_000 - 1)
    assert ended.constraints["macs_per_s"] < 0
    assert ranking.best_trials(study) == []


def test_a_trial_within_the_limits_trains(task) -> None:
    class Trains(Exception):
        pass

    def trains() -> None:
        raise Trains

    study = optuna.create_study(direction="maximize")
    with pytest.raises(Trains):
        objective.run_trial(RunningTrial(study.ask(), trains), task({"parameters": 1_000_000, "latency_ms": 1_000.0}))


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_is_compared_with_its_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = search_space.denoiser_config(PRESETS["recurrent-unet"], 8_000)
    monkeypatch.setattr(objective, "real_time_factor", lambda denoiser: 0.3)
    found = objective.over_limits(model, study_sections.LimitsSection(**{name: LIMITS[name]}))
    counted = cost(model)
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
        objective.over_limits(search_space.denoiser_config(PRESETS["mask-unet"], 8_000), study_sections.LimitsSection())
        == {}
    )


def test_a_trial_that_diverges_fails_with_its_reason(task, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise TrainingError("step 3: loss nan")

    monkeypatch.setattr(objective, "train", diverge)
    study = optuna.create_study(direction="maximize")
    objective.run_trial(RunningTrial(study.ask()), task({}))
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
def test_an_interrupted_trial_reaches_the_score_of_an_uninterrupted_one(task, damage: bool) -> None:
    def ended(**left: Callable[[], None]) -> optuna.trial.FrozenTrial:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        trial = study.ask()
        if left:
            with pytest.raises(Left):
                objective.run_trial(RunningTrial(trial, **left), here)
            (checkpoint,) = here.runs.checkpoints("tiny").folder.rglob("*.checkpoint")
            if damage:
                checkpoint.write_bytes(b"half")
            assert trial.study.trials[0].state == TrialState.RUNNING
        objective.run_trial(RunningTrial(trial), here)
        assert not list(here.runs.checkpoints("tiny").folder.rglob("*.checkpoint"))
        return study.trials[0]

    here = task({})
    whole = ended()
    past_a_rung = ended(step=leave_after(200))  # of 288 steps, 108 to the first rung
    in_the_last_score = ended(look_up=leave_after(15))  # each of 6 clips twice at a rung
    for other in (past_a_rung, in_the_last_score):
        assert other.value == whole.value
        assert other.intermediate_values == whole.intermediate_values
    assert len(whole.intermediate_values) == 2


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[DenoiserConfig]:
    """What is trained. No training takes any time, or makes anything better."""
    models = []

    def train(model, config, corpus, validation, scorer, *, metric, on_rung, on_step, **_: object) -> Trained:
        models.append(model)
        for hours in config.rungs_audio_hours:
            on_step(hours, 0.0)
            on_rung(hours, validation.noisy_scores.values[metric])
        return Trained(Denoiser(model), validation.noisy_scores, 0.0, 0.0, config.batch_size, None)

    monkeypatch.setattr(objective, "train", train)
    return models


def ask(study: optuna.Study, **params: Any) -> optuna.Trial:
    """The trial that a sampler would make with these parameters."""
    study.sampler = optuna.samplers.PartialFixedSampler(params, optuna.samplers.RandomSampler(seed=0))
    return study.ask()


UNUSED = {
    "power of linear magnitudes": ({"representation": "linear", "power": {"low": 0.1, "high": 1.0}}, "power"),
    "units of no bottleneck": ({"bottleneck": "none", "bottleneck_units": {"low": 8, "high": 64}}, "bottleneck_units"),
    "weight of no term": ({"loss": "l1", "si_sdr_weight": {"low": 0.1, "high": 90.0}}, "si_sdr_weight"),
}


@pytest.mark.parametrize(("search", "unused"), UNUSED.values(), ids=UNUSED)
def test_configurations_that_differ_in_an_unused_parameter_are_duplicates(
    task, trainings, search: dict[str, Any], unused: str
) -> None:
    here = task({}, search=search)
    study = optuna.create_study(direction="maximize")
    for value in (8, 64) if unused == "bottleneck_units" else (0.2, 0.9):
        objective.run_trial(RunningTrial(ask(study, depth=2, **{unused: value})), here)
    first, second = study.trials
    assert first.params[unused] != second.params[unused]
    assert len(trainings) == 1
    assert (second.state, second.value, second.user_attrs["same_as"]) == (TrialState.COMPLETE, first.value, 0)
    assert second.intermediate_values == first.intermediate_values


def test_configurations_that_differ_in_a_used_parameter_are_no_duplicates(task, trainings) -> None:
    study = optuna.create_study(direction="maximize")
    for power in (0.2, 0.9):
        objective.run_trial(
            RunningTrial(ask(study, depth=2, power=power)), task({}, search={"power": {"low": 0.1, "high": 1.0}})
        )
    assert [model.power for model in trainings] == [0.2, 0.9]
    assert "same_as" not in study.trials[1].user_attrs


def begun(study: optuna.Study, here: objective.Task) -> optuna.Trial:
    """A trial that trains."""
    trial = ask(study, depth=2)
    with pytest.raises(Left):
        objective.run_trial(RunningTrial(trial, leave_after(0)), here)
    return trial


def test_a_duplicate_of_a_running_trial_is_given_up_untrained(task, trainings) -> None:
    study, here = optuna.create_study(direction="maximize"), task({})
    begun(study, here)
    with pytest.raises(DuplicateTrial, match="the same configuration as trial 0, which is running"):
        objective.run_trial(RunningTrial(ask(study, depth=2)), here)
    assert len(trainings) == 1
    assert study.trials[1].state == TrialState.RUNNING  # ended by the worker, which asks again


def test_a_planned_trial_is_run_although_a_duplicate_is_running(task, trainings) -> None:
    study, here = optuna.create_study(direction="maximize"), task({})
    begun(study, here)
    study.enqueue_trial({"depth": 2})
    objective.run_trial(RunningTrial(study.ask()), here)
    assert study.trials[1].state == TrialState.COMPLETE
    assert len(trainings) == 2


def test_after_some_samples_a_slots_trial_runs_although_a_duplicate_is_running(task, trainings) -> None:
    study, here = optuna.create_study(direction="maximize"), task({})
    begun(study, here)
    for _ in range(objective.MAX_SAMPLES):
        trial = ask(study, depth=2)
        trial.set_user_attr("slot", 5)
        with pytest.raises(DuplicateTrial):
            objective.run_trial(RunningTrial(trial), here)
        for key in ("asked", "superfluous"):  # as `quell_tuning.trials.budget` gives it up
            trial.set_user_attr(key, "the same as trial 0")
        study.tell(trial, state=TrialState.FAIL)
    trial = ask(study, depth=2)
    trial.set_user_attr("slot", 5)
    objective.run_trial(RunningTrial(trial), here)
    assert study.trials[-1].state == TrialState.COMPLETE
    assert len(trainings) == 2


def test_a_handed_back_trial_does_not_measure_its_cost_again(task, trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    study, here = optuna.create_study(direction="maximize"), task({"parameters": 1_000_000, "real_time_factor": 100.0})
    trial = begun(study, here)
    before = trial.constraints
    assert set(before) == {"parameters", "real_time_factor"}
    measured = []
    monkeypatch.setattr(objective, "over_limits", lambda *asked: measured.append(asked) or dict.fromkeys(before, 1.0))
    objective.run_trial(RunningTrial(trial), here)
    ended = study.trials[0]
    assert measured == []
    assert ended.state == TrialState.COMPLETE
    assert {name: ended.constraints[name] for name in before} == before


def test_a_trial_over_a_limit_is_pruned_by_the_next_worker_when_the_first_was_killed(task, trainings) -> None:
    study = optuna.create_study(direction="maximize")
    trial = ask(study, depth=2)
    trial.set_constraint("parameters", 0.5)
    objective.run_trial(RunningTrial(trial), task({"parameters": 1_000_000, "macs_per_s": 1e12}))
    assert study.trials[0].state == TrialState.PRUNED
    assert study.trials[0].user_attrs["pruned"] == "over the limit of parameters"
    assert trainings == []


def test_a_trial_of_several_scores_has_all_of_them_as_values_and_is_not_pruned(task, trainings, validation) -> None:
    here = task({}, study={"score": ["si_sdr", "macs"]})
    study = optuna.create_study(
        directions=here.spec.study.directions, pruner=optuna.pruners.ThresholdPruner(lower=math.inf)
    )
    objective.run_trial(RunningTrial(ask(study, depth=2)), here)
    (ended,) = study.trials
    macs = cost(trainings[0]).macs_per_s
    assert ended.values == [pytest.approx(validation.noisy_scores.mean("si_sdr")), macs]
    assert ended.intermediate_values == {}
    assert set(ended.user_attrs["clips"]) == {"108", "288"}


def test_a_trial_that_falls_behind_is_pruned_at_its_first_rung(task, trainings) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1000.0))
    objective.run_trial(RunningTrial(ask(study, depth=2)), task({}))
    (ended,) = study.trials
    assert ended.state == TrialState.PRUNED
    assert list(ended.intermediate_values) == [108]
    assert ended.user_attrs["pruned"].endswith("after 0.03 h of audio")


def test_at_the_last_rung_nothing_is_pruned(task, trainings) -> None:
    class Last(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == 288

    study = optuna.create_study(direction="maximize", pruner=Last())
    objective.run_trial(RunningTrial(ask(study, depth=2)), task({}))
    assert study.trials[0].state == TrialState.COMPLETE


def test_every_repetition_keeps_its_weights_until_the_winner_is_known(task, trainings) -> None:
    here = task({}, study={"confirm": 3})
    here = replace(here, spec=substudies.part(here.spec, "confirm"))
    study = optuna.create_study(study_name=here.spec.study.name, direction="maximize")
    for repeat in range(1, here.spec.study.trials + 1):
        study.enqueue_trial({"depth": 2}, user_attrs={"of": 7, "repeat": repeat})
        objective.run_trial(RunningTrial(study.ask()), here)
    assert len(trainings) == 6
    assert all(here.runs.weights(study.study_name, number).exists() for number in range(6))
