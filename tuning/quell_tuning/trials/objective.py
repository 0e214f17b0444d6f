"""The objective: one trial from its parameters to its scores."""

import logging
import time
from dataclasses import asdict, dataclass

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

import quell
from quell.config import DenoiserConfig
from quell.corpus.memory_map import Corpus
from quell.errors import CheckpointError, TrainingError
from quell.export.cost import cost, real_time_factor
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import EvaluationSet
from quell.network.denoiser import Denoiser, save_weights
from quell.training.training_loop import Trained, train
from quell_tuning import progress, version
from quell_tuning.artifacts import gallery
from quell_tuning.artifacts.artifact_store import ArtifactStore
from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.study import search_space
from quell_tuning.study.sections import RTF_MARGIN, LimitsSection
from quell_tuning.study.study_file import StudySpec
from quell_tuning.trials import outcome
from quell_tuning.trials.confirmation import ClipScores, hopeless
from quell_tuning.trials.lease import DuplicateTrial, RunningTrial
from quell_tuning.trials.tracking import Tracker
from quell_tuning.workspace.run_folder import RunFolder

log = logging.getLogger("quell")

# How often a duplicate of a running trial is sampled again before both are run.
MAX_SAMPLES = 3


@dataclass(frozen=True)
class Task:
    """What all trials of a worker share."""

    spec: StudySpec
    corpus: Corpus
    validation: EvaluationSet
    scorer: Scorer
    device: torch.device
    runs: RunFolder
    bars: progress.Trainings
    artifacts: ArtifactStore | None = None  # for sounds and pictures of trials; none are made without
    tracker: Tracker | None = None


def run_trial(running: RunningTrial, task: Task) -> None:
    """Trains and scores the trial and ends it as complete, pruned, or failed by its own fault.

    Other exceptions, those of `running.step` included, leave the trial running, to be continued from its checkpoint.

    Raises:
        DuplicateTrial: a trial with the same configuration is running.
    """
    trial = running.trial
    attempt = _Attempt(running, task)
    training = _Training(attempt)
    try:
        if attempt.ended_untrained():
            return
        trained = training.train()
    except optuna.TrialPruned as reason:
        trial.set_user_attr("pruned", str(reason))
        trial.set_user_attr("seconds", attempt.seconds())
        trial.study.tell(trial, state=TrialState.PRUNED)
    except (TrainingError, torch.OutOfMemoryError) as error:
        trial.set_user_attr("failure", str(error))
        trial.study.tell(trial, state=TrialState.FAIL)
    else:
        attempt.complete(trained, training.clips)
    finally:
        task.bars.end(attempt.name)
    attempt.checkpoints.drop(attempt.slot)
    if task.tracker is not None:
        task.tracker.ended(attempt.stored())


class _Attempt:
    """A trial run by one worker: its configuration, what ends it without a training, and its result."""

    def __init__(self, running: RunningTrial, task: Task) -> None:
        self.running = running
        self.trial = running.trial
        self.task = task
        self.spec = task.spec
        self.name = f"trial {self.trial.number}"
        self.slot = self.trial.user_attrs.get("slot", self.trial.number)
        self.checkpoints = task.runs.checkpoints(self.spec.study.name)
        self.started = time.monotonic()
        self.before = self.stored()  # as an earlier worker left it
        point = search_space.suggest(self.trial, self.spec.search)
        repeat = self.trial.user_attrs.get("repeat", 0)
        self.model = search_space.denoiser_config(point, self.spec.corpus.sample_rate)
        self.config = search_space.training_config(
            point, self.spec.training_config(), self.spec.study.seed, self.model, repeat
        )

    def stored(self) -> FrozenTrial:
        return storage_of(self.trial.study).get_trial(trial_id_of(self.trial))

    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 1)

    def ended_untrained(self) -> bool:
        """Ends a duplicate of an ended trial, or one over a limit; returns whether it did. Raises as `run_trial`."""
        trial = self.trial
        trial.set_user_attr("quell", version.record())
        trial.set_user_attr("denoiser", asdict(self.model))
        trial.set_user_attr("training", asdict(self.config))
        same = outcome.find_duplicate(trial, self.config.seed)
        if same is not None and same.state.is_finished():
            gallery.copy_clips(trial, same)
            outcome.copy_result(trial, same)
            return True
        planned = self.before.system_attrs.get("fixed_params")
        if same is not None and not planned and self.running.budget.slots().asked[self.slot] < MAX_SAMPLES:
            raise DuplicateTrial(f"the same configuration as trial {same.number}, which is running")
        return self._over_a_limit()

    def _over_a_limit(self) -> bool:
        """Constrains the trial by its costs, and prunes it when one is too high; returns whether it did."""
        trial, limits = self.trial, self.spec.limits.model_dump(exclude_none=True)
        stored = {name: share for name, share in self.before.constraints.items() if name in limits}
        excess = stored if len(stored) == len(limits) else over_limits(self.model, self.spec.limits) | stored
        for name in excess.keys() - stored.keys():
            trial.set_constraint(name, excess[name])
        over = [name for name in limits if excess[name] > 0]
        if over:
            trial.set_user_attr("pruned", "over the limit of " + ", ".join(over))
            trial.study.tell(trial, state=TrialState.PRUNED)
        return bool(over)

    def complete(self, trained: Trained, clips: dict[str, list[float]]) -> None:
        """Stores the trial's results, and its weights when it is one of the best; `clips` as of `_Training`."""
        trial, task = self.trial, self.task
        scores, noisy = trained.scores, task.validation.noisy_scores
        costs = cost(self.model)
        attributes = {
            "seconds": self.seconds(),
            "cost": costs.record(),
            "data_share": round(trained.data_share, 5),
            "micro_batch": trained.micro_batch,
            "metrics": scores.means(),
            "by_snr": {f"{snr_db:g}": means for snr_db, means in scores.by_snr().items()},
            "failures": scores.failures,
            "worse": {name: scores.worse_than(noisy, name) for name in scores.values},
            "worst": outcome.worst(scores, task.validation, self.spec.study.metric),
            "clips": clips,
        }
        if trained.iou is not None:
            attributes["iou"] = trained.iou
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        outcome.add_quality_constraints(trial, scores, noisy)
        if task.artifacts is not None:
            showcase = gallery.store_study_clips(trial.study, task.validation, task.artifacts)
            gallery.store_trial_clips(trial, showcase, task.validation, trained.denoiser, scores, task.artifacts)
        path = task.runs.weights(self.spec.study.name, trial.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(trained.denoiser, path)
        task.runs.share_weights(self.spec.study.name, trial.number)
        trial.study.tell(trial, outcome.values(self.spec, scores, costs))
        if "of" not in trial.user_attrs:  # the winner of repetitions is known only when all have ended
            outcome.prune_weights(trial.study, task.runs, max(outcome.KEPT_WEIGHTS, self.spec.study.confirm))


class _Training:
    """The training of an attempt, which is reported and pruned at its rungs."""

    def __init__(self, attempt: _Attempt) -> None:
        self.attempt = attempt
        self.task = attempt.task
        self.study = attempt.spec.study
        self.audio_hours = attempt.spec.training.audio_hours
        self.clips: dict[str, list[float]] = {}  # at each rung: audio seconds -> the clips' scores

    def train(self) -> Trained:
        """Continues from the checkpoint, or starts afresh where it cannot be used."""
        attempt, task = self.attempt, self.task
        checkpoint = attempt.checkpoints.take_up(attempt.slot, attempt.trial.user_attrs.get("attempt", 1))
        attempt.trial.set_user_attr("machine", machine(task.device))
        if task.tracker is not None:
            task.tracker.started(attempt.stored())
        while True:
            if checkpoint.exists():
                log.info("%s continues from its checkpoint", attempt.name)
            try:
                with attempt.checkpoints.shared(checkpoint):
                    return train(
                        attempt.model,
                        attempt.config,
                        task.corpus,
                        task.validation,
                        task.scorer,
                        metric=self.study.metric,
                        device=task.device,
                        on_rung=self._rung,
                        on_step=self._step,
                        on_score=self._scored,
                        on_checkpoint=attempt.running.note_checkpoint,
                        checkpoint=checkpoint,
                    )
            except CheckpointError as error:
                log.warning("%s", error)
                checkpoint.unlink()

    def _step(self, audio_hours: float, loss: float) -> None:
        self.attempt.running.step(audio_hours)
        if self.task.tracker is not None:
            self.task.tracker.step(audio_hours, loss)
        self.task.bars.step(self.attempt.name, audio_hours, self.audio_hours, loss)

    def _scored(self, done: float, of: float) -> None:
        self.attempt.running.look_up()
        self.task.bars.scored(self.attempt.name, done, of)

    def _rung(self, hours: float, clips: ClipScores) -> None:
        trial, score = self.attempt.trial, float(clips.mean())
        step = round(hours * 3600)  # Optuna's steps are whole numbers: seconds of training audio
        self.clips[str(step)] = [round(float(clip), 4) for clip in clips]
        if self.task.tracker is not None:
            self.task.tracker.rung(hours, self.study.metric, score)
        self.task.bars.rung(self.attempt.name, self.study.metric, score)
        if len(self.study.scores) > 1:  # Optuna prunes by a single score only
            return
        if step not in self.attempt.before.intermediate_values:
            trial.report(score, step)
        if hours < self.audio_hours and (trial.should_prune() or hopeless(trial, step, clips)):
            raise optuna.TrialPruned(f"{self.study.metric} {score:.3f} after {hours:g} h of audio")


def machine(device: torch.device) -> dict[str, str | int]:
    """Device, threads and versions: what a score depends on besides the configuration."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "quell": quell.__version__,
    }


def over_limits(model: DenoiserConfig, limits: LimitsSection) -> dict[str, float]:
    """Cost divided by its limit, less 1, for every limit that is set: above 0 is too much.

    The measured real-time factor counts only above RTF_MARGIN times its limit: a busy machine is not the network's
    fault. It is not measured where a counted cost is already too much.
    """
    allowed = limits.model_dump(exclude_none=True)
    if not allowed:
        return {}
    counted = asdict(cost(model))
    excess = {name: counted[name] / limit - 1 for name, limit in allowed.items() if name in counted}
    limit = allowed.get("real_time_factor")
    if limit is not None:
        # 0, neither under nor over: no measurement where the trial is refused anyway.
        refused = any(share > 0 for share in excess.values())
        excess["real_time_factor"] = 0.0 if refused else real_time_factor(Denoiser(model)) / RTF_MARGIN / limit - 1
    return excess
