"""The studies that one study file makes: the search itself, and beside it, outside its trials, the published presets
and the repetition of its best trials. Every part runs with the same workers, budget and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from quell_tuning import space
from quell_tuning.budget import Budget
from quell_tuning.outcome import best_trainings
from quell_tuning.presets import DEFAULT, PRESETS, Value
from quell_tuning.study_file import StudySpec
from quell_tuning.study_sections import LimitsSection

PARTS = ("search", "presets", "confirm")
REPEATS = 2  # of each confirmed trial, beside its first training


def part(spec: StudySpec, name: str) -> StudySpec:
    """The specification of a part; presets and repetitions are neither pruned by a rule nor held against limits."""
    if name == "search":
        return spec
    changed: dict[str, Any] = {"name": f"{spec.study.name}-{name}", "pruner": "none", "confirm": 0}
    if name == "presets":
        changed["trials"] = max(1, len(outside(spec)))
    else:
        changed["trials"] = max(1, spec.study.confirm * REPEATS)
    study = spec.study.model_copy(update=changed)
    search = preset_space() if name == "presets" else spec.search
    return spec.model_copy(update={"study": study, "limits": LimitsSection(), "search": search})


def outside(spec: StudySpec) -> dict[str, Mapping[str, Value]]:
    """The presets that do not lie inside the search: the search itself starts from the others."""
    return {name: point for name, point in PRESETS.items() if space.inside(point, spec.search) is None}


def preset_space() -> dict[str, space.Domain]:
    """Every parameter that the presets disagree on, with the values that they have."""
    values = {name: list(dict.fromkeys(point[name] for point in PRESETS.values())) for name in PRESETS[DEFAULT]}
    return {name: space.Choices(choices=found) for name, found in values.items() if len(found) > 1}


def starts(spec: StudySpec, name: str) -> list[dict[str, Any]]:
    """What the first slots of the search, or all slots of its presets, start from."""
    chosen, search = (PRESETS, spec.search) if name == "search" else (outside(spec), preset_space())
    points = {preset: space.inside(point, search) for preset, point in chosen.items()}
    return [
        {"params": point, "attributes": {"preset": preset}} for preset, point in points.items() if point is not None
    ]


def plan(study: optuna.Study, trials: int, starting: Sequence[dict[str, Any]]) -> int:
    """Gives what is not planned yet to the lowest slots that have nothing; returns how many found a slot."""
    planned: dict[str, Any] = dict(study.user_attrs.get("plan", {}))
    slots = Budget(study, trials).look()
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
        point = space.inside({**PRESETS[DEFAULT], **fixed, **trial.params}, spec.search)
        if point is not None:
            found.append({"params": point, "attributes": {"warm_start": f"{old.study_name} trial {trial.number}"}})
    return found, len(best_trainings(old)[:best]) - len(found)
