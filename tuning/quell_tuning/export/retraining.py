"""`quell reproduce`: a trial, trained again from what the study says of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import optuna
import torch
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from quell.config import DenoiserConfig, TrainingConfig
from quell.corpus.memory_map import Corpus
from quell.metrics.scorer import Scorer
from quell.network.denoiser import Denoiser
from quell.processes import cores
from quell.training.training_loop import train
from quell_tuning import progress
from quell_tuning.errors import StudyNotFound
from quell_tuning.study import study_file
from quell_tuning.study.stored_study import metric
from quell_tuning.study.study_file import restore, validation_set
from quell_tuning.workspace.run_folder import RunFolder

# Largest difference of a metric's mean on a GPU, whose sums come in any order: not measured yet, an assumption.
GPU_TOLERANCE = {"pesq": 0.02, "stoi": 0.002, "estoi": 0.003, "si_sdr": 0.1}


class _Pruned(Exception):
    """The training got to the rung that the trial was pruned at."""


def reproduce(study: optuna.Study, number: int, runs: RunFolder, device: str, console: Console, log: Console) -> int:
    """Trains a complete or pruned trial again and prints every score beside its old one; returns 0 when all are the
    same (on a GPU: within GPU_TOLERANCE), else 1.

    Raises:
        StudyNotFound: there is no such trial, or it did not train.
        CorpusError: the decoded corpus is not among the runs.
    """
    import torch

    from quell_tuning.trials.objective import machine

    trial = _trained(study, number)
    then = trial.user_attrs.get("machine", {})
    torch.set_num_threads(then.get("threads", torch.get_num_threads()))  # sums of floats depend on it
    now = machine(torch.device(device))
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            log.print(f"quell: {key} was {then.get(key)}, is {now.get(key)}: scores may differ", highlight=False)
    wanted = _scores(study, trial)
    found = _train_again(study, trial, runs, device, log)
    return _show({name: (value, found[name]) for name, value in wanted.items()}, device, console)


def _scores(study: optuna.Study, trial: FrozenTrial) -> dict[str, float]:
    """Every score that a trial left: at its rungs, and at the end if it came so far."""
    rungs = {_rung(study, step): value for step, value in sorted(trial.intermediate_values.items())}
    return {**rungs, **trial.user_attrs.get("metrics", {})}


def _rung(study: optuna.Study, step: int) -> str:
    return f"{metric(study)} at {step / 3600:g} h of audio"


def _train_again(
    study: optuna.Study, trial: FrozenTrial, runs: RunFolder, device: str, log: Console
) -> dict[str, float]:
    import torch

    from quell.config import DenoiserConfig, TrainingConfig
    from quell.corpus.memory_map import open_store
    from quell.metrics.scorer import Scorer
    from quell.training.training_loop import train
    from quell_tuning.study.study_file import validation_set

    spec = study_file.restore(study.user_attrs["spec"], study.study_name)
    corpus = open_store(runs.corpora / study.user_attrs["corpus"])
    found: dict[str, float] = {}

    def on_rung(hours: float, clips: NDArray[Any]) -> None:
        found[_rung(study, round(hours * 3600))] = float(clips.mean())
        if trial.state == TrialState.PRUNED and len(found) == len(trial.intermediate_values):
            raise _Pruned

    with Scorer(cores()) as scorer, progress.Trainings(log) as bars, suppress(_Pruned):
        trained = train(
            DenoiserConfig(**trial.user_attrs["denoiser"]),
            TrainingConfig(**training_of(trial)),
            corpus,
            validation_set(spec, corpus, scorer),
            scorer,
            metric=spec.study.metric,
            device=torch.device(device),
            on_rung=on_rung,
            on_step=lambda hours, loss: bars.step("training", hours, spec.training.audio_hours, loss),
        )
        found |= trained.scores.means()
    return found


def _trained(study: optuna.Study, number: int) -> FrozenTrial:
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        there = f"0 to {len(trials) - 1}" if trials else "none, since it has no trials"
        raise StudyNotFound(f"trial {number}: not in study {study.study_name!r}, expected {there}; choose another")
    trial = trials[number]
    if "same_as" in trial.user_attrs:
        return _trained(study, trial.user_attrs["same_as"])
    ended = trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and trial.intermediate_values)
    if not ended:
        found = trial.user_attrs.get("pruned", trial.state.name.lower())
        raise StudyNotFound(f"trial {number}: {found}, expected one that was trained and scored; choose another")
    return trial


def _show(pairs: dict[str, tuple[float, float]], device: str, console: Console) -> int:
    same = True
    for name, (before, again) in pairs.items():
        tolerance = 0.0 if device == "cpu" else GPU_TOLERANCE[name.split()[0]]
        equal = abs(before - again) <= tolerance
        same = same and equal
        verdict = "the same" if before == again else f"differs by {again - before:+.3g}"
        console.print(f"{name}: {before!r} then, {again!r} now: {verdict}", highlight=False)
    return 0 if same else 1


FEW = 6  # validation mixtures that are scored at the end, for nothing: training has heard their recordings


def refit(
    study: optuna.Study, trial: FrozenTrial, corpus: Corpus, runs: RunFolder, device: torch.device, console: Console
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
            corpus.with_validation_in_train(),
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
