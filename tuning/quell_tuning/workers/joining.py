"""`quell worker`: joins a study that `quell tune` made, and runs its trials."""

import logging
import time
from contextlib import ExitStack, closing
from functools import partial

import optuna
from rich.console import Console

from quell.corpus.memory_map import Corpus
from quell.metrics.scorer import Scorer
from quell_tuning import progress
from quell_tuning.artifacts.artifact_store import open_artifacts
from quell_tuning.errors import StorageError
from quell_tuning.storage.retrying import PATIENCE_S, RetryingStorage
from quell_tuning.study import samplers, study_file, substudies
from quell_tuning.study.stored_study import SKIPPED, check_same, load_study
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.tracking import Tracker
from quell_tuning.trials.worker_id import worker_name
from quell_tuning.workers.worker import Objective, StopRequest, StopRequested, pool_process, work
from quell_tuning.workspace.workspace import Workspace

log = logging.getLogger("quell")


def join(
    spec: study_file.StudySpec, part: str, workspace: Workspace, device: str, console: Console, track: str | None = None
) -> int:
    """Works on a part of a study until its budget is used up; returns the exit code.

    Raises:
        StudyNotFound: the study has not been made.
        StudyMismatch: it was made from another specification or corpus.
    """
    spec, runs = substudies.part(spec, part), workspace.runs
    if pool_process() is None:  # a pool's worker must survive a bucket that is away for a moment
        runs.check(write=True)
    stop = StopRequest()
    try:
        with stop.at_once():
            study, corpus, trials = _load(spec, workspace, stop, console)
    except StopRequested:
        return stop.exit_code or 0

    with ExitStack() as stack:
        stack.callback(runs.close)

        def begin() -> Objective:
            import torch

            from quell_tuning.trials import objective

            # The first optimiser imports torch's compiler, for seconds in which a step would look for no request.
            torch.optim.SGD([torch.zeros(1)])
            log.info("on %s with %d threads", device, torch.get_num_threads())
            store = open_artifacts(workspace.artifacts_url, runs)
            scorer = stack.enter_context(Scorer(torch.get_num_threads()))
            bars = stack.enter_context(progress.Trainings(console))
            tracker = None
            if track is not None:
                tracker = stack.enter_context(closing(Tracker(study, runs.study(spec.study.name), store)))
            mixtures = study_file.validation_set(spec, corpus, scorer, lambda *_: stop.check())
            task = objective.Task(spec, corpus, mixtures, scorer, torch.device(device), runs, bars, store, tracker)
            return partial(objective.run_trial, task=task)

        def drop(number: int) -> None:
            runs.remove_weights(spec.study.name, [number])

        return work(Budget(study, trials), stop, begin, drop)


def _load(
    spec: study_file.StudySpec, workspace: Workspace, stop: StopRequest, console: Console
) -> tuple[optuna.Study, Corpus, int]:
    """The stored study, its corpus, and the number of its trials; waits where the database is away."""
    storage = open_patiently(workspace, stop)
    with storage.waiting(unless=stop.check):  # it may go away between any two calls
        study = load_study(spec.study.name, storage)
        corpus = workspace.open_corpus(spec, console, study.user_attrs.get(SKIPPED, ()), whole=("train",))
        check_same(study, spec, corpus)
        study.sampler = samplers.sampler(spec.study.sampler, spec.study.seed, worker_name())
        study.pruner = samplers.pruner(spec.study.pruner, spec.training.rungs_audio_hours)
        return study, corpus, study.user_attrs["trials"]


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
