"""One trial, from parameters to score."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from quell.corpus import Corpus
from quell.cost import cost, real_time_factor
from quell.denoiser import Denoiser, DenoiserConfig, save_weights
from quell.errors import CheckpointError, TrainingError
from quell.heldout import EvaluationSet, evaluation_set
from quell.scoring import Scorer, Scores
from quell.trainer import TrainingConfig
from quell.training import Trained, train
from tuning import space
from tuning.storage import Runs
from tuning.study_file import LimitsSection, StudySpec

log = logging.getLogger("quell")

# Weights are kept for so many of the best trials.
KEPT_WEIGHTS = 3
RTF_MARGIN = 1.5


@dataclass(frozen=True)
class Task:
    """What all trials of a worker share."""

    spec: StudySpec
    corpus: Corpus
    validation: EvaluationSet
    scorer: Scorer
    device: torch.device
    runs: Runs


def validation_set(
    spec: StudySpec, corpus: Corpus, scorer: Scorer, move: Callable[[int, int], None] | None = None
) -> EvaluationSet:
    """What the study's trials are scored on."""
    count, seed = spec.training.validation_mixtures, spec.study.seed
    return evaluation_set(corpus, "validation", count, spec.corpus.snr_db, seed, scorer, move)


def run_trial(
    trial: optuna.Trial,
    task: Task,
    on_step: Callable[[float, float], None],
    on_score: Callable[[float], None] = lambda score: None,
) -> None:
    """Trains and scores the trial and ends it as complete, pruned, or failed by its own fault.

    Whatever else is raised, by `on_step` (audio hours, loss) too, comes through and leaves the trial running, to be
    gone on with from its checkpoint.
    """
    checkpoints = task.runs.checkpoints(task.spec.study.name)
    slot = trial.user_attrs.get("slot", trial.number)
    path = checkpoints.take_up(slot, trial.user_attrs.get("attempt", 1))
    _run(trial, task, on_step, on_score, path)
    checkpoints.drop(slot)


def _run(
    trial: optuna.Trial,
    task: Task,
    on_step: Callable[[float, float], None],
    on_score: Callable[[float], None],
    checkpoint: Path,
) -> None:
    study, spec = trial.study, task.spec
    started = time.monotonic()
    point = space.suggest(trial, spec.search)
    model = space.denoiser_config(point, spec.corpus.sample_rate)
    config = space.training_config(point, spec.training_config(), spec.study.seed, model)
    trial.set_user_attr("denoiser", asdict(model))
    trial.set_user_attr("training", asdict(config))

    before = study._storage.get_trial(trial._trial_id)  # a trial that was handed back has a past
    excess = before.constraints or over_limits(model, spec.limits)
    for name, share in excess.items():
        if name not in before.constraints:
            trial.set_constraint(name, share)
    if any(share > 0 for share in excess.values()):
        trial.set_user_attr("pruned", "over the limit of " + ", ".join(name for name in excess if excess[name] > 0))
        study.tell(trial, state=TrialState.PRUNED)
        return

    def on_rung(hours: float, score: float) -> None:
        on_score(score)
        step = round(hours * 3600)  # Optuna's steps are whole numbers: seconds of training audio
        if step not in before.intermediate_values:
            trial.report(score, step)
        if hours < spec.training.audio_hours and trial.should_prune():
            raise optuna.TrialPruned(f"{spec.study.score} {score:.3f} after {hours:g} h of audio")

    if checkpoint.exists():
        log.info("trial %d goes on from its checkpoint", trial.number)
    try:
        trained = _train(model, config, task, checkpoint, on_rung, on_step)
    except optuna.TrialPruned as reason:
        trial.set_user_attr("pruned", str(reason))
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        study.tell(trial, state=TrialState.PRUNED)
        return
    except (TrainingError, torch.OutOfMemoryError) as error:
        trial.set_user_attr("failure", str(error))
        study.tell(trial, state=TrialState.FAIL)
        return
    trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
    _complete(trial, task, trained)


def _train(
    model: DenoiserConfig,
    config: TrainingConfig,
    task: Task,
    checkpoint: Path,
    on_rung: Callable[[float, float], None],
    on_step: Callable[[float, float], None],
) -> Trained:
    """Trains from the checkpoint on; from the start when it cannot be used."""
    for _ in range(2):
        try:
            return train(
                model,
                config,
                task.corpus,
                task.validation,
                task.scorer,
                metric=task.spec.study.score,
                device=task.device,
                on_rung=on_rung,
                on_step=on_step,
                checkpoint=checkpoint,
            )
        except CheckpointError as error:
            log.warning("%s", error)
            checkpoint.unlink()
    raise AssertionError("a checkpoint that is not there was refused")


def over_limits(model: DenoiserConfig, limits: LimitsSection) -> dict[str, float]:
    """Cost over its limit, less 1, for every limit that is set: above 0 is too much.

    The measured real-time factor decides only above RTF_MARGIN times its limit: a busy machine is not the network's
    fault.
    """
    allowed = limits.given()
    if not allowed:
        return {}
    denoiser = Denoiser(model)
    found = asdict(cost(denoiser))
    if "real_time_factor" in allowed:
        found["real_time_factor"] = real_time_factor(denoiser) / RTF_MARGIN
    return {name: found[name] / limit - 1 for name, limit in allowed.items()}


def _complete(trial: optuna.Trial, task: Task, trained: Trained) -> None:
    scores, noisy = trained.scores, task.validation.noisy_scores
    trial.set_user_attr("cost", cost(trained.denoiser).record())
    trial.set_user_attr("data_share", round(trained.data_share, 5))
    trial.set_user_attr("micro_batch", trained.micro_batch)
    if trained.iou is not None:
        trial.set_user_attr("iou", trained.iou)
    trial.set_user_attr("metrics", scores.means())
    trial.set_user_attr("by_snr", {f"{snr_db:g}": means for snr_db, means in scores.by_snr().items()})
    trial.set_user_attr("failures", scores.failures)
    trial.set_user_attr("worse", {name: scores.worse_than(noisy, name) for name in scores.values})
    forbid_losses(trial, scores, noisy)
    name = task.spec.study.name
    path = task.runs.weights(name, trial.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(trained.denoiser, path)
    trial.study.tell(trial, scores.mean(task.spec.study.score))
    keep = {best.number for best in best_trials(trial.study)[:KEPT_WEIGHTS]}
    for frozen in trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if frozen.number not in keep:
            task.runs.weights(name, frozen.number).unlink(missing_ok=True)


def forbid_losses(trial: optuna.Trial, scores: Scores, noisy: Scores) -> None:
    """PESQ can be bought with SI-SDR: a trial whose mean SI-SDR or STOI is under the noisy input's is infeasible."""
    for name in ("si_sdr", "stoi"):
        trial.set_constraint(name, noisy.mean(name) - scores.mean(name))


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete, feasible trials, best first; of equal ones the earlier."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    return sorted(feasible, key=lambda trial: (-(trial.value or 0.0), trial.number))
