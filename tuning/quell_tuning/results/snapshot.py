"""A study read at one moment: its trials, best first, its presets, what is gained over them, and the worker-hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from quell_tuning.optuna_private import study_id_of, trial_id_of
from quell_tuning.study.stored_study import metric
from quell_tuning.trials.ranking import best_trials, feasible, is_lost


def state_name(trial: FrozenTrial) -> str:
    """A trial's state in lower case, or "infeasible", whatever its state, where it breaks a constraint."""
    return trial.state.name.lower() if feasible(trial) else "infeasible"


@dataclass(frozen=True)
class Preset:
    """A known design, trained in the study or in the one beside it."""

    name: str
    study: str
    trial: FrozenTrial

    @property
    def complete(self) -> bool:
        """Whether it is complete and feasible."""
        return state_name(self.trial) == "complete"

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.trial.user_attrs.get("metrics", {}))


@dataclass(frozen=True)
class StudySnapshot:
    """A study at one moment, read once.

    Args:
        attributes: the study's user attributes.
        metric: its first score.
        ranked: complete and feasible trials, best first; of several scores the front.
        presets: best first, then those that are not complete and feasible.
    """

    study_id: int
    name: str
    attributes: Mapping[str, Any]
    metric: str
    trials: Sequence[FrozenTrial]
    ranked: Sequence[FrozenTrial]
    presets: Sequence[Preset]

    @classmethod
    def of(cls, study: optuna.Study, *others: optuna.Study) -> StudySnapshot:
        """The study, with the presets of the others too."""
        score, trials = metric(study), study.get_trials(deepcopy=False)
        presets = _presets(study.study_name, trials)
        for other in others:
            presets += _presets(other.study_name, other.get_trials(deepcopy=False))
        presets.sort(key=lambda preset: -preset.metrics.get(score, 0.0) if preset.complete else float("inf"))
        return cls(study_id_of(study), study.study_name, study.user_attrs, score, trials, best_trials(study), presets)

    @property
    def scores(self) -> list[str]:
        score: str | list[str] = self.attributes["spec"]["study"]["score"]
        return [score] if isinstance(score, str) else score

    @property
    def noisy(self) -> Mapping[str, float]:
        """Metric -> mean of the noisy mixtures; empty in a study that has not begun."""
        return dict(self.attributes.get("noisy", {}))

    @property
    def best_preset(self) -> Preset | None:
        return self.presets[0] if self.presets and self.presets[0].complete else None

    def rival(self, trial: FrozenTrial) -> Preset | None:
        """The best preset, unless it is this trial."""
        best = self.best_preset
        return None if best is None or trial_id_of(best.trial) == trial_id_of(trial) else best


def _presets(study: str, trials: Sequence[FrozenTrial]) -> list[Preset]:
    presets = [trial for trial in trials if "preset" in trial.user_attrs and not is_lost(trial)]
    return [Preset(trial.user_attrs["preset"], study, trial) for trial in presets]


def beside(study: optuna.Study, storage: BaseStorage) -> list[optuna.Study]:
    """The study of the presets that were trained outside of the search; empty where there is none."""
    name = f"{study.study_name}-presets"
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return []
    return [optuna.load_study(study_name=name, storage=storage)]


def gains(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """How much better each metric is than in the reference, for the metrics that both have."""
    return {name: value - reference[name] for name, value in values.items() if name in reference}


@dataclass(frozen=True)
class Hours:
    """Worker-hours of a study."""

    spent: float  # by the trials that ended, lost ones included
    mean: float | None  # of the trials that count; None until one of them ended
    left: float | None


def hours(trials: Sequence[FrozenTrial], asked: int) -> Hours:
    """Worker-hours spent, and those to come if each trial left takes the mean of the ended ones, pruned ones included.

    Args:
        asked: trials that the study is to have.
    """
    ended = [trial for trial in trials if trial.state.is_finished()]
    spent = sum(map(seconds, ended)) / 3600
    counted = [seconds(trial) / 3600 for trial in ended if not is_lost(trial)]
    if not counted:
        return Hours(spent, None, None)
    mean = sum(counted) / len(counted)
    return Hours(spent, mean, mean * max(0, asked - len(counted)))


def seconds(trial: FrozenTrial) -> float:
    """Seconds that an ended trial took its worker; from its dates where it has not recorded them."""
    if "seconds" in trial.user_attrs:
        return float(trial.user_attrs["seconds"])
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return max(0.0, (trial.datetime_complete - trial.datetime_start).total_seconds())
