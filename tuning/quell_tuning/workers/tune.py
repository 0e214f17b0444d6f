"""`quell tune`: runs a checked study file to its last trial."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import optuna
from rich.console import Console

from quell.config import weights_problem
from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import Kind
from quell.metrics.scorer import Scorer, Scores
from quell.processes import cores
from quell_tuning import environment, progress
from quell_tuning.artifacts.artifact_store import open_artifacts
from quell_tuning.dashboard import page_refresh
from quell_tuning.errors import StudyFileError
from quell_tuning.recordings import exclusions
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study import substudies
from quell_tuning.study.stored_study import SKIPPED, TUNED, create_study, there
from quell_tuning.study.study_file import StudySpec, validation_set
from quell_tuning.trials import confirmation, starting_points
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import best_trainings
from quell_tuning.trials.starting_points import slots_for
from quell_tuning.workers.live_view import LiveView
from quell_tuning.workers.local_pool import Pool
from quell_tuning.workers.ray_pool import RayCluster, RayPool
from quell_tuning.workers.ray_slot import WorkerSpec
from quell_tuning.workers.supervisor import Supervisor
from quell_tuning.workspace.workspace import Workspace


@dataclass(frozen=True)
class Tune:
    """A study file, and where and with which workers it is run.

    Args:
        devices: one for each worker; without any the study is only made, for workers elsewhere.
        first: what slots start from besides the presets, as `quell_tuning.trials.starting_points.plan` takes it.
        track: where else trials are logged, as `quell worker --track` takes it.
        skip_bad: recordings with errors are left out, and named on the study; otherwise they end the search.
        retry_failed: trials that failed because their workers were lost are run again.
        cluster: where workers run instead of on this machine.
    """

    spec: StudySpec
    study_file: Path
    workspace: Workspace
    devices: Sequence[str]
    console: Console
    first: Sequence[dict[str, Any]] = ()
    track: str | None = None
    skip_bad: bool = False
    retry_failed: bool = False
    cluster: RayCluster | None = None

    def run(self, *, presets: bool = False) -> tuple[int, list[optuna.Study]]:
        """Creates or continues the study and runs it; returns (exit code, the study and the one of its presets).

        Args:
            presets: train the presets outside the search too.

        Raises:
            DenoiserError: the corpus cannot be used.
            StudyFileError: the file weighs kinds of noise that the corpus does not have.
            TuningError: the study cannot be opened, or its workers end no trial.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.workspace.runs.check(write=True)  # before anything takes time
        open_artifacts(self.workspace.artifacts_url, self.workspace.runs)
        skipped = sorted(exclusions.exclusions(self.spec, self.workspace, self.console, skip_bad=self.skip_bad))
        corpus = self.workspace.open_corpus(self.spec, self.console, skipped)
        for split, minutes in _minutes(corpus).items():
            noise = "each with a noisy version" if minutes["noisy"] else f"{minutes['noise']:.1f} min of noise"
            self.console.print(f"{split}: {minutes['clean']:.1f} min of speech, {noise}", highlight=False)
        self._check_weights(corpus)
        storage = self.workspace.open_storage(create=True)
        with Scorer(cores()) as scorer, progress.bar("scoring the noisy mixtures", self.console) as move:
            noisy_scores = validation_set(self.spec, corpus, scorer, move).noisy_scores
        make_study = partial(self._make_study, corpus, storage, noisy_scores, skipped)
        study = make_study("search")
        study.set_user_attr(TUNED, datetime.now(UTC).isoformat())
        code = self._run_part("search", study, [*substudies.starts(self.spec, "search"), *self.first])
        studies = [study]
        if code == 0 and presets and substudies.outside(self.spec):
            studies.append(make_study("presets"))
            code = self._run_part("presets", studies[-1], substudies.starts(self.spec, "presets"))
        if code == 0 and self.spec.study.confirm and best_trainings(study) and _finished(study):
            code = self._confirm(study, make_study("confirm"))
        page_refresh.refresh(study, storage)
        return code, studies

    def _check_weights(self, corpus: Corpus) -> None:
        """Checks that the corpus has the kinds of noise that the study file weighs."""
        weights = self.spec.training.noise_weights
        kinds = {clip.category for clip in corpus.splits["train"].of("noise")}
        if weights and (problem := weights_problem(weights, kinds)):
            raise StudyFileError(f"{self.study_file}: training.noise_weights: {problem}; mend it there")

    def _make_study(
        self, corpus: Corpus, storage: RetryingStorage, noisy_scores: Scores, skipped: Sequence[str], part: str
    ) -> optuna.Study:
        spec = substudies.part(self.spec, part)
        study = create_study(spec, corpus, storage)
        attributes = {
            "noisy": noisy_scores.means(),
            "noisy_by_snr": {f"{snr_db:g}": means for snr_db, means in noisy_scores.by_snr().items()},
            "folders": spec.corpus.model_dump(include=_folders(spec)),
            "minutes": _minutes(corpus),
            "trials": spec.study.trials,
            SKIPPED: list(skipped),
        }
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        return study

    def _confirm(self, study: optuna.Study, repeated: optuna.Study) -> int:
        best = self.spec.study.confirm
        repeated.set_user_attr("leader", confirmation.leader(study))
        code = self._run_part("confirm", repeated, starting_points.repetitions(study, best))
        rows = confirmation.ranking(study, repeated, best)
        if code == 0 and rows:
            confirmation.record(study, rows)
            given_up = min(best, len(best_trainings(study))) - len(rows)
            confirmation.show(study, rows, given_up, self.spec.study.metric, self.console)
        return code

    def _run_part(self, part: str, study: optuna.Study, starts: Sequence[dict[str, Any]]) -> int:
        """Runs the search, its presets or its confirmation to the last trial; returns the exit code."""
        spec = substudies.part(self.spec, part)
        trials = spec.study.trials
        slots_needed = slots_for(starts, study.user_attrs.get("plan", {}))
        if part == "confirm":  # with fewer trials than asked for, or more: those of an earlier winner
            trials = slots_needed
            study.set_user_attr("trials", trials)
        starting_points.plan(study, trials, starts)
        if unassigned := slots_needed - len(study.user_attrs.get("plan", {})):
            text = f"{unassigned} starting points found no slot; more trials would try them"
            self.console.print(text, highlight=False)
        budget = Budget(study, trials)
        budget.ignore_past_failures()
        if self.retry_failed and (again := budget.retry_failed()):
            self.console.print(f"study {spec.study.name}: {again} failed trials are run again", highlight=False)
        if not self.devices and self.cluster is None:
            text = f"study {spec.study.name}: {budget.reconcile().left} of {trials} trials left, for `quell worker`"
            self.console.print(text, highlight=False)
            return 0
        if part != "search":
            self.console.print(f"study {spec.study.name}: {trials} trials", highlight=False)
        with there(study):
            return self._supervisor(part, spec, budget).run()

    def _supervisor(self, part: str, spec: StudySpec, budget: Budget) -> Supervisor:
        view = LiveView(self.console, budget.trials, spec.training.audio_hours, spec.study.metric)
        command = WorkerCommand(self.study_file, self.workspace, part, self.track)
        if self.cluster is not None:
            worker = partial(command.on_a_node, spec, self.cluster.threads)
            return RayPool(budget=budget, view=view, worker=worker, cluster=self.cluster)
        return Pool(
            command=command.here(spec),
            environment=command.variables(),
            devices=self.devices,
            logs=self.workspace.runs.logs(spec.study.name),
            budget=budget,
            view=view,
        )


@dataclass(frozen=True)
class WorkerCommand:
    """The command `quell worker` for a part of a study, on this machine or on another."""

    study_file: Path
    workspace: Workspace
    part: str
    track: str | None

    def variables(self) -> dict[str, str]:
        """Environment variables with the URLs, which may hold a password: commands are visible to all users."""
        artifacts = self.workspace.artifacts_url
        urls = {environment.STORAGE: self.workspace.storage_url, environment.ARTIFACTS: artifacts}
        return {variable.name: url for variable, url in urls.items() if url is not None}

    def here(self, spec: StudySpec) -> list[str]:
        corpus, runs = self.workspace.corpus_root(spec), self.workspace.runs.folder
        folders = ["--corpus", str(corpus), "--runs", str(runs)]
        return [sys.executable, *self._words(), str(self.study_file), *folders]

    def on_a_node(self, spec: StudySpec, threads: int, slot: int) -> WorkerSpec:
        """A worker on another machine, which may have its recordings and runs elsewhere, and no study file."""
        variables = self.variables()
        defaults = {environment.RUNS.name: str(self.workspace.runs.folder.absolute())}
        folders: set[str] = set()
        if not spec.corpus.synthetic:
            # A folder from this machine's environment is only a default for the others.
            given = defaults if environment.CORPUS.get() else variables
            given[environment.CORPUS.name] = str(self.workspace.corpus_root(spec).absolute())
            folders = {folder for side in _folders(spec) if (folder := getattr(spec.corpus, side))}
        return WorkerSpec(
            command=self._words(),
            study=(self.study_file.name, self.study_file.read_text()),
            environment=variables,
            defaults=defaults,
            folders=sorted(folders),
            threads=threads,
            log=f"{spec.study.name}/logs/worker-{slot}.log",
        )

    def _words(self) -> list[str]:
        track = [] if self.track is None else ["--track", self.track]
        return ["-P", "-m", "quell_tuning.cli", "worker", "--part", self.part, *track]


def _finished(study: optuna.Study) -> bool:
    return Budget(study, study.user_attrs["trials"]).slots().left == 0


def _folders(spec: StudySpec) -> set[str]:
    return {"clean", "rooms", "noisy" if spec.corpus.noisy else "noise"}


def _minutes(corpus: Corpus) -> dict[str, dict[Kind, float]]:
    """Minutes of speech and noise in each split."""
    return {split: {kind: round(corpus.minutes(split, kind), 2) for kind in get_args(Kind)} for split in corpus.splits}
