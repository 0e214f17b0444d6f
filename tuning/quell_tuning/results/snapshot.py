"""A study read at one moment: its trials, best first, its presets, what is gained over them, and the worker-hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from quell_tuning.optuna_private import study_id_of, trial_id_of
from quell_tuning.results.trial_row import TrialRow, seconds
from quell_tuning.study.stored_study import SPEC, metric
from quell_tuning.trials.ranking import best_trials, counted


class StudySnapshot:
    """A study at one moment, read once.

    Args:
        others: studies whose presets are shown too.

    Attributes:
        attributes: the study's user attributes.
        metric: its first score.
        noisy: metric -> mean of the noisy mixtures; empty in a study that has not begun.
        ranked: complete and feasible trials, best first; of several scores the front.
        presets: best first, then those that are not complete and feasible.
    """

    def __init__(self, study: optuna.Study, *others: optuna.Study) -> None:
        self.study_id, self.name = study_id_of(study), study.study_name
        self.attributes, self.metric = study.user_attrs, metric(study)
        self.noisy: Mapping[str, float] = self.attributes.get("noisy", {})
        studies = {member.study_name: member.get_trials(deepcopy=False) for member in (study, *others)}
        self.trials = studies[self.name]
        self.ranked = [self.row(trial) for trial in best_trials(study)]
        self.presets = [
            TrialRow(name, trial, self.noisy)
            for name, trials in studies.items()
            for trial in counted(trials)
            if "preset" in trial.user_attrs
        ]
        self.presets.sort(key=lambda row: -row.metrics.get(self.metric, 0.0) if row.complete else float("inf"))

    @property
    def scores(self) -> list[str]:
        score: str | list[str] = self.attributes["spec"]["study"]["score"]
        return [score] if isinstance(score, str) else score

    @property
    def best_preset(self) -> TrialRow | None:
        return self.presets[0] if self.presets and self.presets[0].complete else None

    def rival(self, row: TrialRow) -> TrialRow | None:
        """The best preset, unless it is this trial."""
        best = self.best_preset
        return None if best is None or trial_id_of(best.trial) == trial_id_of(row.trial) else best

    def row(self, trial: FrozenTrial) -> TrialRow:
        """A trial of the study."""
        return TrialRow(self.name, trial, self.noisy)


def beside(study: optuna.Study, storage: BaseStorage) -> list[optuna.Study]:
    """The study of the presets that were trained outside of the search; empty where there is none."""
    try:
        other = optuna.load_study(study_name=f"{study.study_name}-presets", storage=storage)
    except KeyError:
        return []
    return [other] if SPEC in other.user_attrs else []  # another program's study may have the name


@dataclass(frozen=True)
class Hours:
    """Worker-hours of a study."""

    spent: float  # by the trials that ended, lost ones included
    mean: float | None  # of the trials that count; None until one of them ended
    left: float | None


def hours(trials: Sequence[FrozenTrial], planned: int) -> Hours:
    """Worker-hours spent, and those to come if each trial left takes the mean of the ended ones, pruned included."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    spent = sum(map(seconds, ended)) / 3600
    each = [seconds(trial) / 3600 for trial in counted(trials) if trial.state.is_finished()]
    if not each:
        return Hours(spent, None, None)
    mean = sum(each) / len(each)
    return Hours(spent, mean, mean * max(0, planned - len(each)))
