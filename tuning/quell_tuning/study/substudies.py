"""The studies that one study file makes: the search itself, and beside it, outside its trials, the published presets
and the repetition of its best trials. Every part runs with the same workers, budget and rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quell_tuning.study import search_space
from quell_tuning.study.parameters import PARAMETERS, Value
from quell_tuning.study.presets import PRESETS
from quell_tuning.study.sections import LimitsSection
from quell_tuning.study.study_file import StudySpec

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
    return {name: point for name, point in PRESETS.items() if search_space.inside(point, spec.search) is None}


def preset_space() -> dict[str, search_space.Domain]:
    """Every parameter that the presets disagree on, with the values that they have."""
    values = {name: list(dict.fromkeys(point[name] for point in PRESETS.values())) for name in PARAMETERS}
    return {name: search_space.Choices(choices=found) for name, found in values.items() if len(found) > 1}


def starts(spec: StudySpec, name: str) -> list[dict[str, Any]]:
    """What the first slots of the search, or all slots of its presets, start from."""
    chosen, search = (PRESETS, spec.search) if name == "search" else (outside(spec), preset_space())
    points = {preset: search_space.inside(point, search) for preset, point in chosen.items()}
    return [
        {"params": point, "attributes": {"preset": preset}} for preset, point in points.items() if point is not None
    ]
