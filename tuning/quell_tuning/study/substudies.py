"""The three studies of one study file: the search, its presets, and the confirmation of its best trials.

Presets and confirmation are studies of their own, outside the search's number of trials, run by the same workers.
"""

from collections.abc import Mapping
from typing import Any

from quell_tuning.study import search_space
from quell_tuning.study.parameters import PARAMETERS, Value
from quell_tuning.study.presets import PRESETS
from quell_tuning.study.sections import LimitsSection
from quell_tuning.study.study_file import StudySpec

PARTS = ("search", "presets", "confirm")
REPEATS = 2  # trainings of each confirmed trial beside its first one


def part(spec: StudySpec, name: str) -> StudySpec:
    """The specification of a part. Presets and confirmation have no pruner and no limits."""
    if name == "search":
        return spec
    trials = len(outside(spec)) if name == "presets" else spec.study.confirm * REPEATS
    update = {"name": f"{spec.study.name}-{name}", "pruner": "none", "confirm": 0, "trials": max(1, trials)}
    study = spec.study.model_copy(update=update)
    search = preset_space() if name == "presets" else spec.search
    return spec.model_copy(update={"study": study, "limits": LimitsSection(), "search": search})


def outside(spec: StudySpec) -> dict[str, Mapping[str, Value]]:
    """The presets that do not lie in the search; the others are its first trials."""
    return {name: point for name, point in PRESETS.items() if search_space.inside(point, spec.search) is None}


def preset_space() -> dict[str, search_space.Domain]:
    """The search space of the presets: every parameter in which they differ, with their values."""
    choices = {name: list(dict.fromkeys(point[name] for point in PRESETS.values())) for name in PARAMETERS}
    return {name: search_space.Choices(choices=values) for name, values in choices.items() if len(values) > 1}


def starts(spec: StudySpec, name: str) -> list[dict[str, Any]]:
    """Starting points of the first slots of the search, or of all slots of its presets."""
    presets, search = (PRESETS, spec.search) if name == "search" else (outside(spec), preset_space())
    points = {preset: search_space.inside(point, search) for preset, point in presets.items()}
    return [
        {"params": point, "attributes": {"preset": preset}} for preset, point in points.items() if point is not None
    ]
