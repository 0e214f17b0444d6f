"""One process on one device: claims trials, trains them, leaves politely when asked."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

import optuna
import torch
from rich.console import Console

from quell.corpus import Corpus
from quell.scoring import Scorer
from tuning import objective, progress, samplers
from tuning.budget import Budget, worker_name
from tuning.lease import Lease
from tuning.storage import Runs
from tuning.study_file import StudySpec

log = logging.getLogger("quell")

POOL = "QUELL_POOL"  # process id of the pool that started the worker
SAY_S = 5.0  # between two notes of a trial's progress


class Leave(BaseException):
    """The worker was asked to leave; not an Exception, so that nothing on the way takes it for a failure."""


class Notice:
    """Remembers SIGINT and SIGTERM, and that the pool which started the worker died.

    A second SIGINT ends the process at once. A worker that a person started stays when their shell goes.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._pool = int(os.environ[POOL]) if POOL in os.environ else None
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code is not None and number == signal.SIGINT:
            os._exit(130)
        self.exit_code = 128 + number

    def check(self) -> None:
        """Raises Leave when it is time to go."""
        if self.exit_code is None and self._pool is not None and os.getppid() != self._pool:
            self.exit_code = 143
        if self.exit_code is not None:
            raise Leave


class _Watch:
    """During a trial: leave if asked to, and say how far it got, on the trial now and then and on the terminal."""

    def __init__(self, trial: optuna.Trial, task: objective.Task, notice: Notice, bars: progress.Trainings) -> None:
        self.trial = trial
        self.training = task.spec.training
        self.metric = task.spec.study.score
        self.notice = notice
        self.bars = bars
        self.name = f"trial {trial.number}"
        self.said = time.monotonic()

    def step(self, audio_hours: float, loss: float) -> None:
        self.notice.check()
        self.bars.step(self.name, audio_hours, self.training.audio_hours, loss)
        if time.monotonic() - self.said > SAY_S:
            self.trial.set_user_attr("audio_hours", round(audio_hours, 4))
            self.said = time.monotonic()

    def score(self, value: float) -> None:
        self.bars.rung(self.name, self.metric, value)


def work(
    spec: StudySpec,
    corpus: Corpus,
    study: optuna.Study,
    storage: optuna.storages.BaseStorage,
    runs: Runs,
    device: str,
    console: Console,
) -> int:
    """Runs trials of the study until none waits; returns the exit code: 0, or 130 or 143 when asked to leave.

    A trial that fails by its own fault ends alone. One that the worker leaves behind goes back in line. Anything else
    that is raised is a bug and ends the worker.
    """
    notice = Notice()
    study.sampler = samplers.sampler(spec.study.sampler, spec.study.seed, worker_name())
    study.pruner = samplers.pruner(spec.study.pruner, spec.training.rungs_audio_hours)
    budget = Budget(study, storage, spec.study.trials)
    with Scorer(torch.get_num_threads()) as scorer, progress.Trainings(console) as bars:
        task = objective.Task(
            spec, corpus, objective.validation_set(spec, corpus, scorer), scorer, torch.device(device), runs
        )
        while (trial := budget.claim()) is not None:
            log.info("trial %d starts on %s with %d threads", trial.number, device, torch.get_num_threads())
            watch = _Watch(trial, task, notice, bars)
            lease = Lease(trial, Budget(study, storage, spec.study.trials))
            try:
                with lease:
                    objective.run_trial(trial, task, watch.step, watch.score)
            except Leave:
                budget.hand_back(trial)
                log.info("trial %d handed back", trial.number)
                break
            except Exception:
                if not lease.taken():
                    raise
                runs.weights(spec.study.name, trial.number).unlink(missing_ok=True)
                log.warning("trial %d dropped: another worker has it, since nothing was heard of us", trial.number)
                continue
            finally:
                bars.end(watch.name)
            log.info("trial %d ended", trial.number)
    return notice.exit_code or 0
