"""The winner once more, trained on the validation split too: what is shipped keeps nothing aside to choose by."""

from __future__ import annotations

from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial
from rich.console import Console

from quell.config import DenoiserConfig, TrainingConfig
from quell.corpus import Corpus
from quell.denoiser import Denoiser
from quell.processes import cores
from quell.scoring import Scorer
from quell.training import train
from quell_tuning import progress
from quell_tuning.objective import validation_set
from quell_tuning.runs import Runs
from quell_tuning.study_file import restore

FEW = 6  # validation mixtures that are scored at the end, for nothing: training has heard their recordings


def refit(
    study: optuna.Study, trial: FrozenTrial, corpus: Corpus, runs: Runs, device: torch.device, console: Console
) -> Denoiser:
    """Trains a trial's configuration again, with as much audio, on the recordings of train and validation.

    An interrupted training goes on from its checkpoint, which lies among the study's runs until the end.
    """
    spec = restore(study.user_attrs["spec"], study.study_name)
    training = training_of(trial)
    hours = training["rungs_audio_hours"][-1]
    config = TrainingConfig(**training | {"rungs_audio_hours": (hours,)})
    checkpoint = runs.study(study.study_name) / f"refit-{trial.number:05d}.checkpoint"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with Scorer(cores()) as scorer, progress.Trainings(console) as bars:
        trained = train(
            DenoiserConfig(**trial.user_attrs["denoiser"]),
            config,
            corpus.with_all_heard(),
            validation_set(spec, corpus, scorer).first(FEW),
            scorer,
            metric=spec.study.metric,
            device=device,
            on_step=lambda done, loss: bars.step("training on train and validation", done, hours, loss),
            checkpoint=checkpoint,
        )
    checkpoint.unlink()
    return trained.denoiser


def training_of(trial: FrozenTrial) -> dict[str, Any]:
    """The fields of a trial's TrainingConfig; JSON, which stores them, knows no tuples."""
    stored = trial.user_attrs["training"]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
