"""`quell worker`: joins a study that `quell tune` made, and runs its trials."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from rich.console import Console

from quell_tuning.artifacts.artifact_store import open_artifacts
from quell_tuning.errors import StorageError
from quell_tuning.storage.retrying import PATIENCE_S, RetryingStorage
from quell_tuning.study import samplers
from quell_tuning.study.stored_study import SKIPPED, check_same, load_study
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.lease import RunningTrial
from quell_tuning.trials.worker_id import worker_name
from quell_tuning.workers.worker import Objective, StopRequest, StopRequested, pool_process, work
from quell_tuning.workspace.workspace import Workspace

if TYPE_CHECKING:
    import optuna

    from quell.corpus.memory_map import Corpus
    from quell_tuning.study.study_file import StudySpec

log = logging.getLogger("quell")


def join(
    spec: StudySpec, part: str, workspace: Workspace, device: str, console: Console, track: str | None = None
) -> int:
    """Works on a part of a study until its budget is used up; returns the exit code.

    Args:
        track: where else trials are logged, one of `quell_tuning.trials.tracking.TRACKERS`.

    Raises:
        StudyNotFound: the study has not been made.
        StudyMismatch: it was made from another specification or corpus.
    """
    from quell_tuning.study import substudies

    spec = substudies.part(spec, part)
    if pool_process() is None:  # a pool's worker must survive a bucket that is away for a moment
        workspace.runs.check(write=True)
    stop = StopRequest()
    try:
        storage = open_patiently(workspace, stop)
        with storage.waiting(unless=stop.check):  # it may go away between any two calls
            study = load_study(spec.study.name, storage)
            corpus = workspace.open_corpus(spec, console, study.user_attrs.get(SKIPPED, ()))
            check_same(study, spec, corpus)
            trials = study.user_attrs["trials"]
    except StopRequested:
        return stop.exit_code or 0
    study.sampler = samplers.sampler(spec.study.sampler, spec.study.seed, worker_name())
    study.pruner = samplers.pruner(spec.study.pruner, spec.training.rungs_audio_hours)

    with ExitStack() as stack:
        stack.callback(workspace.runs.close)

        def begin() -> Objective:
            return _objective(study, spec, corpus, workspace, device, stop, console, track, stack)

        def drop(number: int) -> None:
            workspace.runs.remove_weights(spec.study.name, [number])

        return work(Budget(study, trials), stop, begin, drop)


def open_patiently(workspace: Workspace, stop: StopRequest) -> RetryingStorage:
    """The storage; a pool's worker waits for a database that is away, one that a user started raises StorageError."""
    began = time.monotonic()
    while True:
        try:
            return workspace.open_storage()
        except StorageError as error:
            if pool_process() is None or time.monotonic() - began > PATIENCE_S:
                raise
            log.warning("%s; trying again", error)
        for _ in range(10):
            stop.check()
            time.sleep(0.1)


def _objective(
    study: optuna.Study,
    spec: StudySpec,
    corpus: Corpus,
    workspace: Workspace,
    device: str,
    stop: StopRequest,
    console: Console,
    track: str | None,
    stack: ExitStack,
) -> Objective:
    import torch

    from quell.metrics.scorer import Scorer
    from quell_tuning import progress
    from quell_tuning.study import study_file
    from quell_tuning.trials import objective
    from quell_tuning.trials.tracking import Tracker

    log.info("on %s with %d threads", device, torch.get_num_threads())
    store = open_artifacts(workspace.artifacts_url, workspace.runs)
    scorer = stack.enter_context(Scorer(torch.get_num_threads()))
    bars = stack.enter_context(progress.Trainings(console))
    tracker = None
    if track is not None:
        tracker = stack.enter_context(closing(Tracker(study, workspace.runs.study(spec.study.name), store)))
    mixtures = study_file.validation_set(spec, corpus, scorer, lambda *_: stop.check())
    task = objective.Task(spec, corpus, mixtures, scorer, torch.device(device), workspace.runs, bars, store, tracker)

    def run(running: RunningTrial) -> None:
        objective.run_trial(running, task)

    return run
