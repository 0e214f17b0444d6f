"""How a study stands: its trials, best first, its presets, what is gained over them, and the worker-hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from quell_tuning.optuna_private import study_id_of, trial_id_of
from quell_tuning.study.stored_study import metric
from quell_tuning.trials.ranking import best_trials, feasible, is_lost


@dataclass(frozen=True)
class Preset:
    """A known design, trained in a study or beside it."""

    name: str
    study: str
    trial: FrozenTrial

    @property
    def complete(self) -> bool:
        return self.trial.state == TrialState.COMPLETE and feasible(self.trial)

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.trial.user_attrs.get("metrics", {}))


@dataclass(frozen=True)
class StudySnapshot:
    """A study as it is at one moment, read once.

    Args:
        known: its attributes.
        metric: its first score.
        ranked: complete and feasible trials, best first; of several scores the front.
        presets: best first, then those that are not complete and feasible.
    """

    study_id: int
    name: str
    known: Mapping[str, Any]
    metric: str
    trials: Sequence[FrozenTrial]
    ranked: Sequence[FrozenTrial]
    presets: Sequence[Preset]

    @classmethod
    def of(cls, study: optuna.Study, *others: optuna.Study) -> StudySnapshot:
        """With the presets of the others, too."""
        score, trials = metric(study), study.get_trials(deepcopy=False)
        found = _presets(study.study_name, trials)
        for other in others:
            found += _presets(other.study_name, other.get_trials(deepcopy=False))
        found.sort(key=lambda preset: -preset.metrics.get(score, 0.0) if preset.complete else float("inf"))
        return cls(study_id_of(study), study.study_name, study.user_attrs, score, trials, best_trials(study), found)

    @property
    def scores(self) -> list[str]:
        score: str | list[str] = self.known["spec"]["study"]["score"]
        return [score] if isinstance(score, str) else score

    @property
    def best_preset(self) -> Preset | None:
        return self.presets[0] if self.presets and self.presets[0].complete else None

    def rival(self, trial: FrozenTrial) -> Preset | None:
        """The best preset, unless the trial is it."""
        best = self.best_preset
        return None if best is None or trial_id_of(best.trial) == trial_id_of(trial) else best


def _presets(study: str, trials: Sequence[FrozenTrial]) -> list[Preset]:
    known = [trial for trial in trials if "preset" in trial.user_attrs and not is_lost(trial)]
    return [Preset(trial.user_attrs["preset"], study, trial) for trial in known]


def beside(study: optuna.Study, storage: BaseStorage) -> list[optuna.Study]:
    """The study of the presets outside the search, if somebody trained them."""
    name = f"{study.study_name}-presets"
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return []
    return [optuna.load_study(study_name=name, storage=storage)]


def gains(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """How much better each metric is than in the reference, for those that both know."""
    return {name: value - reference[name] for name, value in values.items() if name in reference}


@dataclass(frozen=True)
class Hours:
    """Worker-hours of a study."""

    spent: float  # by the trials that ended, lost ones included
    mean: float | None  # of the trials that count, None until one of them ended
    left: float | None


def hours(trials: Sequence[FrozenTrial], wanted: int) -> Hours:
    """Worker-hours spent, and those to come if the trials left cost as much as the ended ones, pruned ones included."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    spent = sum(map(seconds, ended)) / 3600
    counted = [seconds(trial) / 3600 for trial in ended if not is_lost(trial)]
    if not counted:
        return Hours(spent, None, None)
    mean = sum(counted) / len(counted)
    return Hours(spent, mean, mean * max(0, wanted - len(counted)))


def seconds(trial: FrozenTrial) -> float:
    """What a trial that ended cost its worker; from the clock where it did not say."""
    if "seconds" in trial.user_attrs:
        return float(trial.user_attrs["seconds"])
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return max(0.0, (trial.datetime_complete - trial.datetime_start).total_seconds())
