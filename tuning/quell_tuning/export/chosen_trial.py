"""The trial that is exported: the one asked for, else the confirmed one, else the best."""

from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from quell_tuning.errors import StudyNotFound
from quell_tuning.optuna_private import storage_of
from quell_tuning.trials.ranking import best_trials, feasible, least_bad
from quell_tuning.workspace.run_folder import RunFolder


@dataclass(frozen=True)
class ChosenTrial:
    """A trial to export."""

    study: str  # the study that it belongs to, which for a confirmed trial is another than the search
    trial: FrozenTrial
    label: str


def choose(study: optuna.Study, runs: RunFolder, number: int | None = None) -> ChosenTrial:
    """The trial `number`, else the confirmed one, else the best.

    Raises:
        StudyNotFound: no trial is complete and feasible, the weights of trial `number` were not kept, or there is a
            front of several best trials and no number.
    """
    ranked = best_trials(study)
    stored = runs.kept_weights(study.study_name)
    exportable = [trial for trial in (ranked or least_bad(study)) if weights_number(trial) in stored]
    names = ", ".join(str(trial.number) for trial in exportable) or "none yet"
    if number is not None:
        for trial in exportable:
            if trial.number == number:
                return ChosenTrial(study.study_name, trial, f"trial {number} of {study.study_name}")
        raise StudyNotFound(
            f"trial {number}: {_state(study, number)}, expected one with weights ({names}); choose among them"
        )
    if not ranked:
        found = "no trial is complete and feasible, expected at least one"
        advice = f"tune on, or export the least bad one, --trial {exportable[0].number}" if exportable else "tune on"
        raise StudyNotFound(f"study {study.study_name!r}: {found}; {advice}")
    if len(study.directions) > 1 and len(ranked) > 1:
        raise StudyNotFound(
            f"study {study.study_name!r}: a front of {len(ranked)} trials, expected --trial with one of {names}; "
            "`quell status` shows what each costs"
        )
    return _confirmed(study, runs, ranked) or ChosenTrial(
        study.study_name, ranked[0], f"trial {ranked[0].number} of {study.study_name}"
    )


def _state(study: optuna.Study, number: int) -> str:
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        return f"not in study {study.study_name!r}, which has {len(trials)} trials"
    trial = trials[number]
    if trial.state != TrialState.COMPLETE:
        return f"{trial.state.name.lower()}, without weights"
    return "no weights, which only the best trials keep" if feasible(trial) else "infeasible, and its weights not kept"


def _confirmed(study: optuna.Study, runs: RunFolder, ranked: list[FrozenTrial]) -> ChosenTrial | None:
    """Of the configuration that won over several seeds, the seed that is best on validation.

    None when no trial was confirmed, or when the search went on afterwards and found a better one.
    """
    confirmed = study.user_attrs.get("confirmed")
    if confirmed is None or weights_number(ranked[0]) not in confirmed["of"]:
        return None
    name, number = confirmed["study"], confirmed["trial"]
    trials = optuna.load_study(study_name=name, storage=storage_of(study)).get_trials(deepcopy=False)
    if number not in runs.kept_weights(name):
        return None
    of = "" if name == study.study_name else f", trial {confirmed['winner']} with another seed"
    return ChosenTrial(name, trials[number], f"trial {number} of {name}{of}, the best seed of the confirmed winner")


def weights_number(trial: FrozenTrial) -> int:
    """Number of the trial whose weights a trial has: of equal configurations only one was trained."""
    return int(trial.user_attrs.get("same_as", trial.number))
