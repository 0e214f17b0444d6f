"""Starting points of slots: presets, repetitions and warm starts."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study import search_space, substudies
from quell_tuning.study.presets import PRESETS
from quell_tuning.study.stored_study import create_study
from quell_tuning.study.study_file import StudySpec
from quell_tuning.trials import starting_points
from quell_tuning.trials.budget import Budget

from quell.corpus.memory_map import Split

# A search that two presets lie in.
INSIDE = {
    "win_ms": 32,
    "overlap": 4,
    "depth": {"low": 3, "high": 5},
    "base_channels": {"choices": [12, 16]},
    "time_stride": {"choices": [1, 2]},
    "bottleneck": {"choices": ["none", "both"]},
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[StudySpec], optuna.Study]]:
    """Makes the study of a specification, each in a database of its own."""
    opened: list[RetryingStorage] = []

    def make(spec: StudySpec) -> optuna.Study:
        path = tmp_path_factory.mktemp("runs") / "quell.db"
        opened.append(open_storage(f"sqlite:///{path}", create=True))
        nothing = Split(np.zeros(0, np.int16), [])
        corpus = SimpleNamespace(
            fingerprint="0123", sample_rate=8_000, splits={"train": nothing, "validation": nothing}
        )
        study = create_study(spec, corpus, opened[-1])
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        return study

    yield make
    for storage in opened:
        storage.close()


@pytest.fixture
def study(storage: RetryingStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


def start(x: float, **attributes: Any) -> dict[str, Any]:
    return {"params": {"x": x}, "attributes": attributes}


def claim(study: optuna.Study, trials: int) -> optuna.Trial:
    trial = Budget(study, trials).claim()
    assert trial is not None
    return trial


def claim_all(study: optuna.Study, trials: int) -> dict[int, optuna.Trial]:
    """Every trial of the budget, by slot."""
    claims = [claim(study, trials) for _ in range(trials)]
    return {trial.user_attrs["slot"]: trial for trial in claims}


def end(
    study: optuna.Study, value: float, params: dict[str, Any], search: dict[str, search_space.Domain], **more: Any
) -> None:
    """Adds an ended trial of a search."""
    trial = optuna.trial.FixedTrial(params)
    search_space.suggest(trial, search)
    ended = create_trial(value=value, params=params, distributions=trial.distributions, **more)
    study.add_trial(ended)


def test_the_trials_of_the_presets_study_are_the_presets(tiny_spec, make) -> None:
    spec = tiny_spec(search=INSIDE)
    part = substudies.part(spec, "presets")
    study = make(part)
    trials = part.study.trials
    assert starting_points.plan(study, trials, substudies.starts(spec, "presets")) == trials
    for trial in claim_all(study, trials).values():
        assert search_space.suggest(trial, part.search) == PRESETS[trial.user_attrs["preset"]]


def test_presets_inside_the_search_are_its_first_slots(tiny_spec, make) -> None:
    spec = tiny_spec(search=INSIDE)
    study = make(spec)
    assert starting_points.plan(study, 4, substudies.starts(spec, "search")) == 2
    trials = claim_all(study, 4)
    for slot, preset in enumerate(("compressed-unet", "recurrent-unet")):
        assert trials[slot].user_attrs["preset"] == preset
        assert search_space.suggest(trials[slot], spec.search) == PRESETS[preset] | {"batch_size": 4}
    assert "preset" not in trials[2].user_attrs


def test_planning_twice_changes_nothing(study: optuna.Study) -> None:
    starts = [start(0.1, preset="a"), start(0.2, preset="b")]
    assert starting_points.plan(study, 3, starts) == 2
    before = study.user_attrs["plan"]
    assert before == {"0": starts[0], "1": starts[1]}
    assert starting_points.plan(study, 3, starts) == 0
    assert study.user_attrs["plan"] == before


def test_no_more_starting_points_are_planned_than_slots(study: optuna.Study) -> None:
    starts = [start(number / 10) for number in range(5)]
    assert starting_points.plan(study, 3, starts) == 3
    assert starting_points.plan(study, 4, starts) == 1
    assert list(study.user_attrs["plan"].values()) == starts[:4]


def test_new_starting_points_go_to_free_slots(study: optuna.Study) -> None:
    assert starting_points.plan(study, 5, [start(0.1)]) == 1
    for slot in (1, 3):
        study.enqueue_trial({}, user_attrs={"slot": slot})
    running = claim(study, 5)
    assert running.user_attrs["slot"] == 1
    assert starting_points.plan(study, 5, [start(0.2), start(0.3), start(0.4)]) == 2
    assert study.user_attrs["plan"] == {"0": start(0.1), "2": start(0.2), "4": start(0.3)}


def test_a_slot_of_a_lost_trial_gets_no_starting_point(study: optuna.Study) -> None:
    lose(claim(study, 1), suggested=["x"])
    assert starting_points.plan(study, 1, [start(0.1, preset="known")]) == 0
    assert "preset" not in claim(study, 1).user_attrs


def lose(trial: optuna.Trial, suggested: list[str]) -> None:
    """Marks a running trial as lost, after it suggested these parameters."""
    for name in suggested:
        trial.suggest_float(name, 0, 1)
    trial.set_user_attr("lost", "its worker ended")
    storage_of(trial.study).set_trial_state_values(trial_id_of(trial), TrialState.FAIL)


@pytest.mark.parametrize("suggested", [[], ["x"], ["x", "y"], ["y"]], ids=["nothing", "half", "all", "the other half"])
def test_a_planned_slot_keeps_its_starting_point_after_a_lost_trial(study: optuna.Study, suggested: list[str]) -> None:
    planned = {"params": {"x": 0.25, "y": 0.75}, "attributes": {"preset": "known", "repeat": 2}}
    starting_points.plan(study, 1, [planned])
    lose(claim(study, 1), suggested)
    lose(claim(study, 1), [])
    again = claim(study, 1)
    assert (again.suggest_float("x", 0, 1), again.suggest_float("y", 0, 1)) == (0.25, 0.75)
    assert again.user_attrs == again.user_attrs | planned["attributes"] | {"slot": 0, "attempt": 3}


def test_repetitions_are_the_best_trials_each_once_then_each_again(study: optuna.Study) -> None:
    search: dict[str, search_space.Domain] = {"dropout": search_space.Range(low=0.0, high=0.9)}
    for value, dropout in ((1.0, 0.1), (3.0, 0.3), (2.0, 0.2), (9.0, 0.8)):
        end(study, value, {"dropout": dropout}, search, constraints={"stoi": 1.0 if value == 9.0 else -1.0})
    assert starting_points.repetitions(study, 2) == [
        {"params": {"dropout": dropout}, "attributes": {"of": number, "repeat": repeat}}
        for repeat in (1, 2)
        for number, dropout in ((1, 0.3), (2, 0.2))
    ]


def test_duplicates_are_repeated_once(study: optuna.Study) -> None:
    search: dict[str, search_space.Domain] = {"power": search_space.Range(low=0.1, high=1.0)}
    for value, same in ((3.0, {}), (3.0, {"same_as": 0}), (2.0, {}), (1.0, {})):
        end(study, value, {"power": 0.5}, search, user_attrs=same)
    assert [start["attributes"]["of"] for start in starting_points.repetitions(study, 2)] == [0, 2, 0, 2]


def test_every_repetition_has_a_slot(tiny_spec, study: optuna.Study) -> None:
    for value in (1.0, 2.0, 3.0, 4.0):
        end(study, value, {"depth": 2}, tiny_spec().search)
    part = substudies.part(tiny_spec(study={"confirm": 3}), "confirm")
    assert part.study.trials == len(starting_points.repetitions(study, 3))


WARM = {"depth": {"low": 2, "high": 4}, "dropout": {"low": 0.0, "high": 0.4}}


@pytest.fixture(scope="module")
def old(tiny_spec, make) -> optuna.Study:
    """A read-only study whose best trials, best first, have depth 4, 2 and 3."""
    spec = tiny_spec(search=WARM)
    study = make(spec)
    for value, depth, dropout in ((1.0, 3, 0.1), (3.0, 4, 0.2), (2.0, 2, 0.3)):
        end(study, value, {"depth": depth, "dropout": dropout}, spec.search)
    return study


@pytest.mark.parametrize(
    ("search", "best", "inside", "outside"),
    [
        (WARM, 5, [1, 2, 0], 0),
        (WARM, 2, [1, 2], 0),
        (WARM | {"depth": {"low": 2, "high": 3}}, 3, [2, 0], 1),
        (WARM | {"dropout": {"choices": [0.1, 0.2]}}, 3, [1, 0], 1),
        (WARM | {"dropout": {"low": 0.0, "high": 0.4, "step": 0.2}}, 3, [1], 2),
        (WARM | {"depth": 2}, 3, [2], 2),
        (WARM | {"win_ms": {"choices": [16, 32]}}, 3, [1, 2, 0], 0),
        (WARM | {"win_ms": {"choices": [8, 32]}}, 3, [], 3),
        (WARM | {"base_channels": 8}, 3, [], 3),
        (WARM | {"learning_rate": 5e-3}, 3, [], 3),
    ],
    ids=[
        "the same search",
        "fewer wanted",
        "smaller range",
        "choices",
        "steps",
        "fixed",
        "what was fixed is searched",
        "what was fixed is not among it",
        "fixed at another value",
        "fixed at another value than the default",
    ],
)
def test_warm_starts_are_the_best_trials_of_the_old_study_inside_the_search(
    tiny_spec, old: optuna.Study, search: dict[str, Any], best: int, inside: list[int], outside: int
) -> None:
    spec = tiny_spec(search=search)
    starts, left_out = starting_points.warm_starts(old, spec, best)
    assert [start["attributes"] for start in starts] == [
        {"warm_start": f"{old.study_name} trial {number}"} for number in inside
    ]
    assert left_out == outside
    for start, number in zip(starts, inside, strict=True):
        point = search_space.suggest(optuna.trial.FixedTrial(start["params"]), spec.search)
        then = old.trials[number].params
        assert {name: point[name] for name in then} == then
        assert (point["win_ms"], point["base_channels"], point["batch_size"]) == (16, 4, 4)  # fixed by the old study


def test_warm_starts_become_trials_of_the_new_study(tiny_spec, old: optuna.Study, make) -> None:
    spec = tiny_spec(search=WARM | {"win_ms": {"choices": [16, 32]}})
    study = make(spec)
    starts, _ = starting_points.warm_starts(old, spec, 2)
    assert starting_points.plan(study, 4, [*substudies.starts(spec, "search"), *starts]) == 2
    trials = claim_all(study, 4)
    point = search_space.suggest(trials[0], spec.search)
    assert (point["depth"], point["dropout"], point["win_ms"]) == (4, 0.2, 16)
    assert trials[0].user_attrs["warm_start"] == "tiny trial 1"
