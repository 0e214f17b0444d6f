"""`quell export`: a trial's weights as one file with its history inside."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console

import quell
from quell.config import FORMATS
from quell.corpus.memory_map import Corpus, open_store
from quell.errors import CorpusError
from quell.export.cost import cost, measured
from quell.export.exported_model import Model, load
from quell.export.exporter import export
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import score_denoiser
from quell.network.denoiser import load_weights
from quell.processes import cores
from quell_tuning import progress
from quell_tuning.export import model_card
from quell_tuning.export.chosen_trial import Chosen, Made, Validation, _owner, choose
from quell_tuning.export.retraining import refit
from quell_tuning.study.stored_study import SKIPPED
from quell_tuning.study.study_file import restore, validation_set
from quell_tuning.workspace.run_folder import RunFolder


def export_best(
    study: optuna.Study,
    runs: RunFolder,
    path: Path,
    number: int | None = None,
    *,
    licence: str = "",
    again_on: str | None = None,
    console: Console,
) -> Made:
    """Exports the best trial, or trial `number`, in the format of the path's suffix, with a card beside it.

    Args:
        again_on: a device, on which the trial is trained again on train and validation before; its scores are then
            those of the trial.

    Raises:
        CorpusError: for that the decoded recordings are needed, and not there.
        StudyNotFound: there is no such trial, or its weights were not kept.
        ExportError: the file cannot be written, or would not run as the trial did.
    """
    chosen = choose(study, runs, number)
    denoiser = load_weights(runs.fetch_weights(chosen.study, _owner(chosen.trial)))
    model_card.check(path.with_suffix(".md"))
    if again_on is not None:
        whole = open_store(runs.corpora / study.user_attrs["corpus"])
        denoiser = refit(study, chosen.trial, whole, runs, torch.device(again_on), console)
    costs = cost(denoiser.config)
    metadata = _metadata(study, chosen) | {"licence": licence, "cost": costs.record(), "refit": again_on is not None}
    kind = next(kind for kind, suffix in FORMATS.items() if suffix == path.suffix)
    metadata |= export(denoiser, path, metadata, kind)
    corpus = _corpus(study, runs)
    rtf = validation = None
    if kind != "pt2":
        rtf = measured(lambda: load(path), denoiser.config.sample_rate)
        if corpus is not None and again_on is None:
            validation = _validation(study, corpus, load(path), console)
    made = Made(chosen, costs, rtf, metadata, corpus, validation)
    model_card.write(path, made)
    return made


def _corpus(study: optuna.Study, runs: RunFolder) -> Corpus | None:
    try:
        return open_store(runs.corpora / study.user_attrs["corpus"])
    except CorpusError:
        return None


def _validation(study: optuna.Study, corpus: Corpus, model: Model, console: Console) -> Validation:
    spec = restore(study.user_attrs["spec"], study.study_name)
    with Scorer(cores()) as scorer, progress.bar("scoring the exported file", console) as move:
        mixtures = validation_set(spec, corpus, scorer)
        scores = score_denoiser(scorer, model, mixtures, progress=move)
        return Validation(mixtures.noisy_scores, scores, mixtures.labels)


def commit() -> str:
    """The commit that this code was checked out from, with a + where it was changed since; "" where it was not."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, capture_output=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--exclude=*", "--dirty=+"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _metadata(study: optuna.Study, chosen: Chosen) -> dict[str, Any]:
    trial = chosen.trial
    return {
        "study": chosen.study,
        "spec_hash": study.user_attrs["spec_hash"],
        "corpus": study.user_attrs["corpus"],
        "skipped": len(study.user_attrs.get(SKIPPED, ())),
        "trial": trial.number,
        "params": trial.params,
        "training": trial.user_attrs["training"],
        "validation": {"noisy": study.user_attrs["noisy"], "denoised": trial.user_attrs["metrics"]},
        "quell": quell.__version__,
        "commit": commit(),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
    }
