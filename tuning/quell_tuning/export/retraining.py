"""Trains a stored trial again: `quell reproduce` to compare its scores, `quell export --refit` on more recordings."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from quell.config import DenoiserConfig, TrainingConfig
from quell.errors import CheckpointError
from quell.metrics.scorer import Scorer
from quell.network.denoiser import Denoiser
from quell.processes import cores
from quell.progress import ignore
from quell.training.training_loop import Trained, train
from quell_tuning import progress
from quell_tuning.errors import StudyMismatch, StudyNotFound
from quell_tuning.study.stored_study import check_recipe, corpus_of, metric, spec_of
from quell_tuning.study.study_file import DROPPED, validation_set
from quell_tuning.trials.objective import machine
from quell_tuning.workspace.run_folder import RunFolder

# Largest difference of a metric's mean on a GPU, whose sums come in any order: not measured yet, an assumption.
GPU_TOLERANCE = {"pesq": 0.02, "stoi": 0.002, "estoi": 0.003, "si_sdr": 0.1}
# Validation mixtures that a refit is scored on at its end. The scores go nowhere: it was trained on these recordings.
REFIT_MIXTURES = 6


class _Pruned(Exception):
    """The training reached the rung that the trial was pruned at."""


def reproduce(study: optuna.Study, number: int, runs: RunFolder, device: str, console: Console, log: Console) -> int:
    """Trains a complete or pruned trial again and prints every score beside its old one; returns 0 when all are the
    same (on a GPU: within GPU_TOLERANCE), else 1.

    Raises:
        StudyNotFound: there is no such trial, or it was not trained.
        StudyMismatch: another version trained it, whose numbers are not ours.
        CorpusError: the decoded corpus is not among the runs.
    """
    trial = _trained(study, number)
    then = trial.user_attrs.get("machine", {})
    torch.set_num_threads(then.get("threads", torch.get_num_threads()))  # sums of floats depend on it
    now = machine(torch.device(device))
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            log.print(f"quell: {key} was {then.get(key)}, is {now.get(key)}: scores may differ", highlight=False)
    before = {_rung(study, step): score for step, score in sorted(trial.intermediate_values.items())}
    before |= trial.user_attrs.get("metrics", {})
    again = _scores(study, trial, runs, torch.device(device), log)
    same = True
    for name, score in before.items():
        tolerance = 0.0 if device == "cpu" else GPU_TOLERANCE[name.split()[0]]
        same = same and abs(score - again[name]) <= tolerance
        verdict = "the same" if score == again[name] else f"differs by {again[name] - score:+.3g}"
        console.print(f"{name}: {score!r} then, {again[name]!r} now: {verdict}", highlight=False)
    return 0 if same else 1


def _trained(study: optuna.Study, number: int) -> FrozenTrial:
    """The trial, or the one with the same configuration whose scores it has."""
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        expected = f"0 to {len(trials) - 1}" if trials else "none, since it has no trials"
        raise StudyNotFound(f"trial {number}: not in study {study.study_name!r}, expected {expected}; choose another")
    trial = trials[number]
    if "same_as" in trial.user_attrs:
        return _trained(study, trial.user_attrs["same_as"])
    if trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and trial.intermediate_values):
        return trial
    state = trial.user_attrs.get("pruned", trial.state.name.lower())
    raise StudyNotFound(f"trial {number}: {state}, expected one that was trained and scored; choose another")


def _scores(
    study: optuna.Study, trial: FrozenTrial, runs: RunFolder, device: torch.device, log: Console
) -> dict[str, float]:
    """Scores at the rungs up to the trial's last, and at the end if the trial got there."""
    scores: dict[str, float] = {}

    def on_rung(hours: float, clips: NDArray[Any]) -> None:
        scores[_rung(study, round(hours * 3600))] = float(clips.mean())
        if trial.state == TrialState.PRUNED and len(scores) == len(trial.intermediate_values):
            raise _Pruned

    with suppress(_Pruned):
        scores |= _train(study, trial, runs, device, log, on_rung=on_rung).scores.means()
    return scores


def _rung(study: optuna.Study, step: int) -> str:
    return f"{metric(study)} at {step / 3600:g} h of audio"


def refit(study: optuna.Study, trial: FrozenTrial, runs: RunFolder, device: torch.device, console: Console) -> Denoiser:
    """Trains a trial's configuration again, with as much audio, on the recordings of train and validation together.

    An interrupted training continues from its checkpoint, a file of the study's runs that is removed at the end; one
    that cannot be used is removed now.

    Raises:
        StudyMismatch: another version trained it, whose numbers are not ours.
        CorpusError: the decoded corpus is not among the runs.
    """
    checkpoint = runs.study(study.study_name) / f"refit-{trial.number:05d}.checkpoint"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            trained = _train(study, trial, runs, device, console, refit_checkpoint=checkpoint)
        except CheckpointError as error:
            console.print(f"quell: {error}", highlight=False, markup=False, soft_wrap=True)
            checkpoint.unlink()
        else:
            checkpoint.unlink()
            return trained.denoiser


def _train(
    study: optuna.Study,
    trial: FrozenTrial,
    runs: RunFolder,
    device: torch.device,
    console: Console,
    *,
    on_rung: Callable[[float, NDArray[Any]], None] = ignore,
    refit_checkpoint: Path | None = None,
) -> Trained:
    """Trains as the trial did; for a refit without rungs before the last, and on train and validation together."""
    spec, corpus = spec_of(study), corpus_of(study, runs.corpora)
    check_recipe(study, corpus)
    (model, config), label = _configuration(trial), "training"
    hours = config.rungs_audio_hours[-1]
    with Scorer(cores()) as scorer, progress.Trainings(console) as bars:
        validation = validation_set(spec, corpus, scorer)
        if refit_checkpoint is not None:
            config, validation = replace(config, rungs_audio_hours=(hours,)), validation.first(REFIT_MIXTURES)
            corpus, label = corpus.with_validation_in_train(), "training on train and validation"
        return train(
            model,
            config,
            corpus,
            validation,
            scorer,
            metric=spec.study.metric,
            device=device,
            on_rung=on_rung,
            on_step=lambda done, loss: bars.step(label, done, hours, loss),
            checkpoint=refit_checkpoint,
        )


def _configuration(trial: FrozenTrial) -> tuple[DenoiserConfig, TrainingConfig]:
    """The configuration of a trained trial; options that are newer than the trial have their defaults."""
    stored = trial.user_attrs["training"].items()  # from JSON, which has no tuples
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in stored
        if key not in DROPPED["training"]  # the study's specification says that it did nothing
    }
    try:
        return DenoiserConfig(**trial.user_attrs["denoiser"]), TrainingConfig(**fields)
    except TypeError as error:
        problem = str(error).rpartition("() ")[2]  # "got an unexpected keyword argument 'x'"
        raise StudyMismatch(
            f"trial {trial.number}: {problem}, expected the options of this version; use the one that trained it"
        ) from None
