"""What slots start from: presets, repetitions, the best trials of another study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

from quell_tuning.study import search_space
from quell_tuning.study.presets import DEFAULT, PRESETS
from quell_tuning.study.study_file import StudySpec
from quell_tuning.study.substudies import REPEATS
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import best_trainings


def plan(study: optuna.Study, trials: int, starting: Sequence[dict[str, Any]]) -> int:
    """Gives what is not planned yet to the lowest slots that have nothing; returns how many found a slot."""
    planned: dict[str, Any] = dict(study.user_attrs.get("plan", {}))
    slots = Budget(study, trials).slots()
    new = [start for start in starting if start not in planned.values()]
    taken = {*map(int, planned), *slots.filled, *slots.lost}  # what was lost is tried again
    free = [slot for slot in range(trials) if slot not in taken]
    chosen = dict(zip(map(str, free), new, strict=False))
    if chosen:
        study.set_user_attr("plan", planned | chosen)
    return len(chosen)


def repetitions(study: optuna.Study, best: int) -> list[dict[str, Any]]:
    """The best trials of a search with other seeds: first each once, then each again."""
    return [
        {"params": trial.params, "attributes": {"of": trial.number, "repeat": repeat}}
        for repeat in range(1, REPEATS + 1)
        for trial in best_trainings(study)[:best]
    ]


def warm_starts(old: optuna.Study, spec: StudySpec, best: int) -> tuple[list[dict[str, Any]], int]:
    """The best trials of another study that lie inside this one's search, and how many of them do not."""
    whole = old.user_attrs["spec"]["search"]
    fixed = {name: value for name, value in whole.items() if not isinstance(value, dict)}
    found = []
    for trial in best_trainings(old)[:best]:
        point = search_space.inside({**PRESETS[DEFAULT], **fixed, **trial.params}, spec.search)
        if point is not None:
            found.append({"params": point, "attributes": {"warm_start": f"{old.study_name} trial {trial.number}"}})
    return found, len(best_trainings(old)[:best]) - len(found)
