"""`quell export`: a trial's weights as one file with its history inside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

import quell
from quell.cost import Cost, cost, real_time_factor
from quell.denoiser import load_weights
from quell.export import export
from tuning.errors import StudyNotFound
from tuning.outcome import best_trials
from tuning.runs import Runs


@dataclass(frozen=True)
class Chosen:
    """The training that is exported."""

    study: str
    trial: FrozenTrial
    label: str

    @property
    def value(self) -> float:
        return float(self.trial.values[0])


def export_best(study: optuna.Study, runs: Runs, path: Path, number: int | None = None) -> tuple[Chosen, Cost, float]:
    """Exports the best trial, or trial `number`; returns it, what it costs, and its measured real-time factor.

    Raises:
        StudyNotFound: there is no such trial, or its weights were not kept.
        ExportError: the file cannot be written, or would not run as the trial did.
    """
    chosen = choose(study, runs, number)
    denoiser = load_weights(runs.weights(chosen.study, _owner(chosen.trial)))
    costs, rtf = cost(denoiser.config), real_time_factor(denoiser)
    export(denoiser, path, _metadata(study, chosen) | {"cost": costs.record() | {"real_time_factor": rtf}})
    return chosen, costs, rtf


def choose(study: optuna.Study, runs: Runs, number: int | None = None) -> Chosen:
    """The trial that was asked for, else the confirmed one, else the best.

    Raises:
        StudyNotFound: none is complete and feasible, its weights were not kept, or there are several best ones.
    """
    ranked = best_trials(study)
    kept = [trial for trial in ranked if runs.weights(study.study_name, _owner(trial)).exists()]
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


def _confirmed(study: optuna.Study, runs: Runs, ranked: list[FrozenTrial]) -> Chosen | None:
    """The seed that is best on validation of the configuration that won over several; None when none was confirmed, or
    the search went on and found a better one."""
    confirmed = study.user_attrs.get("confirmed")
    if confirmed is None or _owner(ranked[0]) not in confirmed["of"]:
        return None
    name, number = confirmed["study"], confirmed["trial"]
    trials = optuna.load_study(study_name=name, storage=study._storage).get_trials(deepcopy=False)
    if not runs.weights(name, number).exists():
        return None
    of = "" if name == study.study_name else f", trial {confirmed['winner']} with another seed"
    return Chosen(name, trials[number], f"trial {number} of {name}{of}, the best seed of the confirmed winner")


def _owner(trial: FrozenTrial) -> int:
    """Whose weights are the trial's: of equal configurations only one was trained."""
    return int(trial.user_attrs.get("same_as", trial.number))


def _metadata(study: optuna.Study, chosen: Chosen) -> dict[str, Any]:
    trial = chosen.trial
    return {
        "study": chosen.study,
        "spec_hash": study.user_attrs["spec_hash"],
        "corpus": study.user_attrs["corpus"],
        "trial": trial.number,
        "params": trial.params,
        "training": trial.user_attrs["training"],
        "validation": {"noisy": study.user_attrs["noisy"], "denoised": trial.user_attrs["metrics"]},
        "quell": quell.__version__,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
    }
