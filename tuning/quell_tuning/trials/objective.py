"""One trial, from parameters to score."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
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
from quell_tuning import progress
from quell_tuning.artifacts import gallery
from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.study import search_space
from quell_tuning.study.sections import RTF_MARGIN, LimitsSection
from quell_tuning.study.study_file import StudySpec
from quell_tuning.trials import outcome
from quell_tuning.trials.confirmation import hopeless
from quell_tuning.trials.lease import DuplicateTrial, RunningTrial
from quell_tuning.workspace.run_folder import RunFolder

if TYPE_CHECKING:
    from quell_tuning.artifacts.artifact_store import ArtifactStore
    from quell_tuning.trials.tracking import Tracker

log = logging.getLogger("quell")

# A slot's trial is asked for again so often while another one with its configuration runs; then both run.
ASKS = 3

ClipScores = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What all trials of a worker share."""

    spec: StudySpec
    corpus: Corpus
    validation: EvaluationSet
    scorer: Scorer
    device: torch.device
    runs: RunFolder
    artifacts: ArtifactStore | None = None  # where trials are heard and seen; nowhere without one
    bars: progress.Trainings | None = None
    tracker: Tracker | None = None


def run_trial(running: RunningTrial, task: Task) -> None:
    """Trains and scores the trial and ends it as complete, pruned, or failed by its own fault.

    Whatever else is raised, by `running.step` too, comes through and leaves the trial running, to be gone on with from
    its checkpoint.

    Raises:
        Superseded: a trial with the same configuration is running.
    """
    trial = running.trial
    attempt = _Attempt(running, task)
    try:
        if attempt.decided():
            return
        trained = attempt.train()
    except optuna.TrialPruned as reason:
        trial.set_user_attr("pruned", str(reason))
        trial.set_user_attr("seconds", attempt.seconds())
        trial.study.tell(trial, state=TrialState.PRUNED)
    except (TrainingError, torch.OutOfMemoryError) as error:
        trial.set_user_attr("failure", str(error))
        trial.study.tell(trial, state=TrialState.FAIL)
    else:
        attempt.complete(trained)
    finally:
        if task.bars is not None:
            task.bars.end(attempt.name)
    attempt.checkpoints.drop(attempt.slot)
    if task.tracker is not None:
        task.tracker.ended(attempt.stored())


class _Attempt:
    """A trial in the hands of one worker."""

    def __init__(self, running: RunningTrial, task: Task) -> None:
        self.running = running
        self.trial = running.trial
        self.task = task
        self.spec = task.spec
        self.name = f"trial {self.trial.number}"
        self.slot = self.trial.user_attrs.get("slot", self.trial.number)
        self.checkpoints = task.runs.checkpoints(self.spec.study.name)
        self.started = time.monotonic()
        # A trial that was handed back has a past.
        self.before = self.stored()
        self.clips: dict[str, list[float]] = {}  # at each rung: audio seconds -> the clips' scores
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

    def decided(self) -> bool:
        """Ends the trial where no training is needed: over a limit, or the same as one that ended."""
        trial = self.trial
        trial.set_user_attr("denoiser", asdict(self.model))
        trial.set_user_attr("training", asdict(self.config))
        same = outcome.find_duplicate(trial, self.config.seed)
        if same is not None and same.state.is_finished():
            gallery.copy_clips(trial, same)
            outcome.copy_result(trial, same)
            return True
        if same is not None and not self.before.system_attrs.get("fixed_params") and self._asked() < ASKS:
            raise DuplicateTrial(f"the same configuration as trial {same.number}, which is running")
        limits = self.spec.limits.by_name()
        known = {name: share for name, share in self.before.constraints.items() if name in limits}
        excess = known if len(known) == len(limits) else over_limits(self.model, self.spec.limits) | known
        for name in excess.keys() - known.keys():
            trial.set_constraint(name, excess[name])
        over = [name for name in limits if excess[name] > 0]
        if over:
            trial.set_user_attr("pruned", "over the limit of " + ", ".join(over))
            trial.study.tell(trial, state=TrialState.PRUNED)
        return bool(over)

    def _asked(self) -> int:
        return self.running.lease.budget.slots().asked.get(self.slot, 0)

    def train(self) -> Trained:
        """Trains from the checkpoint on; from the start when it cannot be used."""
        checkpoint = self.checkpoints.take_up(self.slot, self.trial.user_attrs.get("attempt", 1))
        self.trial.set_user_attr("machine", machine(self.task.device))
        if self.task.tracker is not None:
            self.task.tracker.started(self.stored())
        for _ in range(2):
            if checkpoint.exists():
                log.info("%s goes on from its checkpoint", self.name)
            try:
                with self.checkpoints.shared(checkpoint):
                    return train(
                        self.model,
                        self.config,
                        self.task.corpus,
                        self.task.validation,
                        self.task.scorer,
                        metric=self.spec.study.metric,
                        device=self.task.device,
                        on_rung=self._rung,
                        on_step=self._step,
                        on_score=self._scored,
                        checkpoint=checkpoint,
                    )
            except CheckpointError as error:
                log.warning("%s", error)
                checkpoint.unlink()
        raise AssertionError("a checkpoint that is not there was refused")

    def _step(self, audio_hours: float, loss: float) -> None:
        self.running.step(audio_hours)
        if self.task.tracker is not None:
            self.task.tracker.step(audio_hours, loss)
        if self.task.bars is not None:
            self.task.bars.step(self.name, audio_hours, self.spec.training.audio_hours, loss)

    def _scored(self, done: float, of: float) -> None:
        self.running.look_up()
        if self.task.bars is not None:
            self.task.bars.scored(self.name, done, of)

    def _rung(self, hours: float, clips: ClipScores) -> None:
        trial, score = self.trial, float(clips.mean())
        step = round(hours * 3600)  # Optuna's steps are whole numbers: seconds of training audio
        self.clips[str(step)] = [round(float(clip), 4) for clip in clips]
        if self.task.tracker is not None:
            self.task.tracker.rung(hours, self.spec.study.metric, score)
        if self.task.bars is not None:
            self.task.bars.rung(self.name, self.spec.study.metric, score)
        if len(self.spec.study.scores) > 1:  # Optuna prunes by a single score only
            return
        if step not in self.before.intermediate_values:
            trial.report(score, step)
        last = hours >= self.spec.training.audio_hours
        if not last and (trial.should_prune() or hopeless(trial, step, clips)):
            raise optuna.TrialPruned(f"{self.spec.study.metric} {score:.3f} after {hours:g} h of audio")

    def complete(self, trained: Trained) -> None:
        """Tells the trial's scores and keeps its weights when it is one of the best."""
        trial, task = self.trial, self.task
        scores, noisy = trained.scores, task.validation.noisy_scores
        costs = cost(self.model)
        found = {
            "seconds": self.seconds(),
            "cost": costs.record(),
            "data_share": round(trained.data_share, 5),
            "micro_batch": trained.micro_batch,
            "metrics": scores.means(),
            "by_snr": {f"{snr_db:g}": means for snr_db, means in scores.by_snr().items()},
            "failures": scores.failures,
            "worse": {name: scores.worse_than(noisy, name) for name in scores.values},
            "worst": outcome.worst(scores, task.validation, self.spec.study.metric),
            "clips": self.clips,
        }
        if trained.iou is not None:
            found["iou"] = trained.iou
        for key, value in found.items():
            trial.set_user_attr(key, value)
        outcome.add_quality_constraints(trial, scores, noisy)
        if task.artifacts is not None:
            shown = gallery.store_study_clips(trial.study, task.validation, task.artifacts)
            gallery.store_trial_clips(trial, shown, task.validation, trained.denoiser, scores, task.artifacts)
        path = task.runs.weights(self.spec.study.name, trial.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(trained.denoiser, path)
        task.runs.share_weights(self.spec.study.name, trial.number)
        trial.study.tell(trial, outcome.values(self.spec, scores, costs))
        if "of" not in trial.user_attrs:  # of repetitions the winner is known at the end only
            outcome.prune_weights(trial.study, task.runs, max(outcome.KEPT_WEIGHTS, self.spec.study.confirm))


def machine(device: torch.device) -> dict[str, str | int]:
    """What a score depends on besides the configuration."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "quell": quell.__version__,
    }


def over_limits(model: DenoiserConfig, limits: LimitsSection) -> dict[str, float]:
    """Cost over its limit, less 1, for every limit that is set: above 0 is too much.

    The measured real-time factor decides only above RTF_MARGIN times its limit: a busy machine is not the network's
    fault. It is not measured where a counted cost is too much.
    """
    allowed = limits.by_name()
    if not allowed:
        return {}
    counted = asdict(cost(model))
    excess = {name: counted[name] / limit - 1 for name, limit in allowed.items() if name in counted}
    limit = allowed.get("real_time_factor")
    if limit is not None:
        # Nobody waits for the measurement of what is refused anyhow: 0 is neither under nor over.
        refused = any(share > 0 for share in excess.values())
        excess["real_time_factor"] = 0.0 if refused else real_time_factor(Denoiser(model)) / RTF_MARGIN / limit - 1
    return {name: excess[name] for name in allowed}
