"""Which trial is exported, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from quell.corpus.memory_map import Corpus
from quell.export.cost import Cost
from quell.metrics.scorer import Scores
from quell_tuning.errors import StudyNotFound
from quell_tuning.optuna_private import storage_of
from quell_tuning.trials.ranking import best_trials
from quell_tuning.workspace.run_folder import RunFolder


@dataclass(frozen=True)
class Chosen:
    """The training that is exported."""

    study: str
    trial: FrozenTrial
    label: str

    @property
    def value(self) -> float:
        return float(self.trial.values[0])


@dataclass(frozen=True)
class Validation:
    """Scores of the noisy mixtures and of what the exported file itself makes of them."""

    noisy: Scores
    denoised: Scores
    labels: list[str]  # "speaker/utterance.flac + rain/1-2-A.ogg"


@dataclass(frozen=True)
class Made:
    """An exported file and what is to be said about it."""

    chosen: Chosen
    costs: Cost
    rtf: float | None  # of the file itself; None for a format that Quell does not run
    metadata: dict[str, Any]
    corpus: Corpus | None  # None when the decoded recordings are not on this machine
    validation: Validation | None  # None without a corpus


def choose(study: optuna.Study, runs: RunFolder, number: int | None = None) -> Chosen:
    """The trial that was asked for, else the confirmed one, else the best.

    Raises:
        StudyNotFound: none is complete and feasible, its weights were not kept, or there are several best ones.
    """
    ranked = best_trials(study)
    there = runs.kept_weights(study.study_name)
    kept = [trial for trial in ranked if _owner(trial) in there]
    names = ", ".join(str(trial.number) for trial in kept) or "none yet"
    if not ranked:
        raise StudyNotFound(
            f"study {study.study_name!r}: no trial is complete and feasible, expected at least one; tune on"
        )
    if number is not None:
        for trial in kept:
            if trial.number == number:
                return Chosen(study.study_name, trial, f"trial {number} of {study.study_name}")
        raise StudyNotFound(f"trial {number}: no weights, expected one of the best trials ({names}); choose among them")
    if len(study.directions) > 1 and len(ranked) > 1:
        raise StudyNotFound(
            f"study {study.study_name!r}: a front of {len(ranked)} trials, expected --trial with one of {names}; "
            "`quell status` shows what each costs"
        )
    return _confirmed(study, runs, ranked) or Chosen(
        study.study_name, ranked[0], f"trial {ranked[0].number} of {study.study_name}"
    )


def _confirmed(study: optuna.Study, runs: RunFolder, ranked: list[FrozenTrial]) -> Chosen | None:
    """The seed that is best on validation of the configuration that won over several; None when none was confirmed, or
    the search went on and found a better one."""
    confirmed = study.user_attrs.get("confirmed")
    if confirmed is None or _owner(ranked[0]) not in confirmed["of"]:
        return None
    name, number = confirmed["study"], confirmed["trial"]
    trials = optuna.load_study(study_name=name, storage=storage_of(study)).get_trials(deepcopy=False)
    if number not in runs.kept_weights(name):
        return None
    of = "" if name == study.study_name else f", trial {confirmed['winner']} with another seed"
    return Chosen(name, trials[number], f"trial {number} of {name}{of}, the best seed of the confirmed winner")


def _owner(trial: FrozenTrial) -> int:
    """Whose weights are the trial's: of equal configurations only one was trained."""
    return int(trial.user_attrs.get("same_as", trial.number))
