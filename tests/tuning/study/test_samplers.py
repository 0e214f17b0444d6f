"""Samplers and pruners: each samples or prunes, and two workers suggest different points."""

import optuna
import pytest
from optuna.trial import TrialState
from quell_tuning.study import samplers, search_space

SEARCH: dict[str, search_space.Domain] = {
    "depth": search_space.Range(low=2, high=7),
    "dropout": search_space.Range(low=0.0, high=0.5),
    "growth": search_space.Range(low=1.0, high=3.0),
    "loss": search_space.Choices(choices=["l1", "l2"]),
}


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_sampler_improves_and_stays_in_the_search(name: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=samplers.sampler(name, 0, "here:1:1"))
    values = []
    for _ in range(25):
        trial = study.ask()
        point = search_space.suggest(trial, SEARCH)
        assert 2 <= point["depth"] <= 7 and 0 <= point["dropout"] <= 0.5 and point["loss"] in ("l1", "l2")
        values.append(-((point["depth"] - 6) ** 2) - 10 * (point["dropout"] - 0.4) ** 2)
        study.tell(trial, values[-1])
    assert max(values[12:]) > -1


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_two_workers_suggest_different_points_and_one_worker_always_the_same(name: str) -> None:
    def first(worker: str) -> dict[str, object]:
        study = optuna.create_study(sampler=samplers.sampler(name, 0, worker))
        trial = study.ask()
        search_space.suggest(trial, SEARCH)
        return trial.params

    assert first("here:1:1") == first("here:1:1") != first("here:2:1")


def pruned(name: str, rungs: list[float]) -> list[bool]:
    """Whether trials of falling quality were pruned at some rung."""
    study = optuna.create_study(direction="maximize", pruner=samplers.pruner(name, rungs))
    decisions = []
    for quality in range(40, 0, -1):
        trial, stopped = study.ask(), False
        for hours in rungs:
            trial.report(float(quality), round(hours * 3600))
            if hours < rungs[-1] and trial.should_prune():
                stopped = True
                break
        study.tell(trial, state=TrialState.PRUNED) if stopped else study.tell(trial, float(quality))
        decisions.append(stopped)
    return decisions


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_a_pruner_prunes_worse_trials_and_not_the_best(name: str) -> None:
    decisions = pruned(name, [1.0, 2.0, 4.0])
    assert not decisions[0]
    assert sum(decisions[10:]) > 10


@pytest.mark.parametrize("name", samplers.PRUNERS)
def test_without_rungs_before_the_last_nothing_is_pruned(name: str) -> None:
    assert not any(pruned(name, [4.0]))


def test_the_pruner_none_prunes_nothing() -> None:
    assert not any(pruned("none", [1.0, 2.0, 4.0]))


@pytest.mark.parametrize(
    ("rungs", "factor"), [([1.0, 2.0, 4.0], 2), ([1.0, 3.0, 9.0], 3), ([0.5, 4.5], 9), ([1.0, 1.2], 2)]
)
def test_asha_keeps_one_in_as_many_trials_as_the_ratio_of_rungs(rungs: list[float], factor: int) -> None:
    asha = samplers.pruner("asha", rungs)
    assert (asha._min_resource, asha._reduction_factor) == (round(rungs[0] * 3600), factor)
