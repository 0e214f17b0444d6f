"""Known configurations that slots start from: presets, repetitions, the best trials of another study."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from quell_tuning.study import search_space
from quell_tuning.study.presets import DEFAULT, PRESETS
from quell_tuning.study.stored_study import SPEC
from quell_tuning.study.study_file import StudySpec, completed
from quell_tuning.study.substudies import REPEATS
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import best_trainings


def slots_for(starts: Sequence[dict[str, Any]], planned: Mapping[str, Any]) -> int:
    """How many slots a study needs for the starting points that are planned already and the new ones."""
    return len(planned) + len(_new(starts, planned))


def _new(starts: Sequence[dict[str, Any]], planned: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [start for start in starts if start not in planned.values()]


def plan(study: optuna.Study, trials: int, starts: Sequence[dict[str, Any]]) -> int:
    """Assigns new starting points to the lowest free slots; returns how many were assigned."""
    planned: dict[str, Any] = dict(study.user_attrs.get("plan", {}))
    slots = Budget(study, trials).slots()
    taken = {*map(int, planned), *slots.filled, *slots.lost}  # lost trials are tried again in their slots
    free = [slot for slot in range(trials) if slot not in taken]
    assigned = dict(zip(map(str, free), _new(starts, planned), strict=False))
    if assigned:
        study.set_user_attr("plan", planned | assigned)
    return len(assigned)


def repetitions(study: optuna.Study, best: int) -> list[dict[str, Any]]:
    """The best trials of a search with other seeds: each once, then each again."""
    return [
        {"params": trial.params, "attributes": {"of": trial.number, "repeat": repeat}}
        for repeat in range(1, REPEATS + 1)
        for trial in best_trainings(study)[:best]
    ]


def warm_starts(old: optuna.Study, spec: StudySpec, best: int) -> tuple[list[dict[str, Any]], int]:
    """The best trials of another study that lie inside this one's search space, and how many lie outside."""
    searched = completed(old.user_attrs[SPEC])["search"]
    fixed = {name: value for name, value in searched.items() if not isinstance(value, dict)}
    starts = []
    trials = best_trainings(old)[:best]
    for trial in trials:
        point = search_space.inside({**PRESETS[DEFAULT], **fixed, **trial.params}, spec.search)
        if point is not None:
            starts.append({"params": point, "attributes": {"warm_start": f"{old.study_name} trial {trial.number}"}})
    return starts, len(trials) - len(starts)
