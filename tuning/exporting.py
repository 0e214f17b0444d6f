"""`quell export`: a trial's weights as one file with its history inside."""

from __future__ import annotations

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
from tuning.objective import best_trials
from tuning.storage import Runs


def export_best(
    study: optuna.Study, runs: Runs, path: Path, number: int | None = None
) -> tuple[FrozenTrial, Cost, float]:
    """Exports the best trial, or trial `number`; returns it, what it costs, and its measured real-time factor.

    Raises:
        StudyNotFound: there is no such trial, or its weights were not kept.
        ExportError: the file cannot be written, or would not run as the trial did.
    """
    ranked = best_trials(study)
    kept = [trial for trial in ranked if runs.weights(study.study_name, trial.number).exists()]
    if number is not None:
        chosen = next((trial for trial in kept if trial.number == number), None)
        if chosen is None:
            names = ", ".join(str(trial.number) for trial in kept) or "none yet"
            raise StudyNotFound(
                f"trial {number}: no weights, expected one of the best trials ({names}); choose among them"
            )
    elif not ranked:
        raise StudyNotFound(
            f"study {study.study_name!r}: no trial is complete and feasible, expected at least one; tune on"
        )
    else:
        chosen = ranked[0]
    denoiser = load_weights(runs.weights(study.study_name, chosen.number))
    costs, rtf = cost(denoiser), real_time_factor(denoiser)
    export(denoiser, path, _metadata(study, chosen) | {"cost": costs.record() | {"real_time_factor": rtf}})
    return chosen, costs, rtf


def _metadata(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "study": study.study_name,
        "spec_hash": study.user_attrs["spec_hash"],
        "corpus": study.user_attrs["corpus"],
        "trial": trial.number,
        "params": trial.params,
        "training": trial.user_attrs["training"],
        "validation": {"noisy": study.user_attrs["noisy"], "denoised": trial.user_attrs["metrics"]},
        "quell": quell.__version__,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
    }
