"""`quell tune`: everything between a checked study file and its last trial."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import optuna
from rich.console import Console

from quell.config import weights_objection
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
from quell_tuning.study.stored_study import SKIPPED, TUNED, create_study
from quell_tuning.study.study_file import StudySpec, validation_set
from quell_tuning.trials import confirmation, starting_points
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import best_trainings
from quell_tuning.workers.live_view import LiveView
from quell_tuning.workers.local_pool import Pool
from quell_tuning.workers.ray_pool import RayCluster, RayPool
from quell_tuning.workers.ray_slot import WorkerSpec
from quell_tuning.workers.supervisor import Supervisor
from quell_tuning.workspace.workspace import Workspace


@dataclass(frozen=True)
class Tune:
    """A study file, and where and with what it is run.

    Args:
        devices: one for each worker; without any the study is made, and left to workers elsewhere.
        first: what slots start from besides the presets, as `quell_tuning.trials.starting_points.plan` takes it.
        cluster: where workers run instead of here.
        track: where else trials are logged, as `quell worker --track` takes it.
        skip_bad: recordings with errors are left out, and named on the study; without it they end the search.
    """

    spec: StudySpec
    study_file: Path
    place: Workspace
    devices: Sequence[str]
    console: Console
    first: Sequence[dict[str, Any]] = field(default=())
    track: str | None = None
    skip_bad: bool = False
    cluster: RayCluster | None = None

    def run(self, *, presets: bool = False) -> tuple[int, list[optuna.Study]]:
        """Creates or continues the study and runs it with local workers; returns (exit code, study and its presets).

        Args:
            presets: train the presets outside the search too.

        Raises:
            DenoiserError: the corpus cannot be used.
            StudyFileError: it weighs kinds of noise that are not there.
            TuningError: the study cannot be opened or its workers do not get anywhere.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.place.runs.check(write=True)  # before anything takes time
        open_artifacts(self.place.artifacts_url, self.place.runs)
        skipped = sorted(exclusions.checked(self.spec, self.place, self.console, skip_bad=self.skip_bad))
        corpus = self.place.open_corpus(self.spec, self.console, skipped)
        for split, minutes in _minutes(corpus).items():
            found = f"{minutes['clean']:.1f} min of speech, "
            if minutes["noisy"]:
                found += "each with a noisy version"
            else:
                found += f"{minutes['noise']:.1f} min of noise"
            self.console.print(f"{split}: {found}", highlight=False)
        self._check_weights(corpus)
        storage = self.place.open_storage(create=True)
        with (
            Scorer(cores()) as scorer,
            progress.bar("scoring the noisy mixtures", self.console) as move,
        ):
            noisy = validation_set(self.spec, corpus, scorer, move).noisy_scores
        study = self._study("search", corpus, storage, noisy, skipped)
        study.set_user_attr(TUNED, datetime.now(UTC).isoformat())
        code = self._pool("search", study, [*substudies.starts(self.spec, "search"), *self.first])
        studies = [study]
        if code == 0 and presets and substudies.outside(self.spec):
            studies.append(self._study("presets", corpus, storage, noisy, skipped))
            code = self._pool("presets", studies[-1], substudies.starts(self.spec, "presets"))
        if code == 0 and self.spec.study.confirm and best_trainings(study) and _over(study):
            code = self._confirm(study, self._study("confirm", corpus, storage, noisy, skipped))
        page_refresh.refresh(study, storage)
        return code, studies

    def _check_weights(self, corpus: Corpus) -> None:
        """Whether the study's noises are there, which its file alone cannot know."""
        weights = self.spec.training.noise_weights
        kinds = {clip.category for clip in corpus.splits["train"].of("noise")}
        if weights and (problem := weights_objection(weights, kinds)):
            raise StudyFileError(f"{self.study_file}: training.noise_weights: {problem}; mend it there")

    def _study(
        self, part: str, corpus: Corpus, storage: RetryingStorage, noisy: Scores, skipped: Sequence[str]
    ) -> optuna.Study:
        spec = substudies.part(self.spec, part)
        study = create_study(spec, corpus, storage)
        known = {
            "noisy": noisy.means(),
            "noisy_by_snr": {f"{snr_db:g}": means for snr_db, means in noisy.by_snr().items()},
            "folders": spec.corpus.model_dump(include=_folders(spec)),
            "minutes": _minutes(corpus),
            "trials": spec.study.trials,
            SKIPPED: list(skipped),
        }
        for key, value in known.items():
            study.set_user_attr(key, value)
        return study

    def _confirm(self, study: optuna.Study, repeated: optuna.Study) -> int:
        best = self.spec.study.confirm
        repeated.set_user_attr("leader", confirmation.leader(study))
        code = self._pool("confirm", repeated, starting_points.repetitions(study, best))
        rows = confirmation.ranking(study, repeated, best)
        if code == 0 and rows:
            confirmation.record(study, rows)
            given_up = min(best, len(best_trainings(study))) - len(rows)
            confirmation.show(study, rows, given_up, self.spec.study.metric, self.console)
        return code

    def _pool(self, part: str, study: optuna.Study, starts: Sequence[dict[str, Any]]) -> int:
        spec = substudies.part(self.spec, part)
        trials = spec.study.trials
        if part == "confirm":  # of fewer trials than asked for, and of those of an earlier winner
            trials = len({*map(str, study.user_attrs.get("plan", {}).values()), *map(str, starts)})
            study.set_user_attr("trials", trials)
        starting_points.plan(study, trials, starts)
        planned = study.user_attrs.get("plan", {}).values()
        left = sum(start not in planned for start in starts)
        if left:
            self.console.print(f"{left} known starts found no slot; more trials would have some", highlight=False)
        budget = Budget(study, trials)
        budget.ignore_past_failures()
        if not self.devices and self.cluster is None:
            found = f"study {spec.study.name}: {budget.reconcile().left} of {trials} trials left"
            self.console.print(f"{found}, for `quell worker`", highlight=False)
            return 0
        if part != "search":
            self.console.print(f"study {spec.study.name}: {trials} trials", highlight=False)
        return self._overseer(part, spec, budget).run()

    def _overseer(self, part: str, spec: StudySpec, budget: Budget) -> Supervisor:
        shown = LiveView(self.console, budget.trials, spec.training.audio_hours, spec.study.metric)
        if self.cluster is not None:
            job = partial(self._job, part, spec)
            return RayPool(budget=budget, shown=shown, job=job, cluster=self.cluster)
        return Pool(
            command=self._worker_command(part),
            environment=self._variables(),
            devices=self.devices,
            logs=self.place.runs.logs(spec.study.name),
            budget=budget,
            shown=shown,
        )

    def _job(self, part: str, spec: StudySpec, slot: int) -> WorkerSpec:
        """A worker on another machine, which may have its recordings and runs elsewhere, and no study file."""
        assert self.cluster is not None
        variables, defaults = self._variables(), {environment.RUNS.name: str(self.place.runs.folder.absolute())}
        folders: set[str] = set()
        if not self.spec.corpus.synthetic:
            root = str(self.place.corpus_root(self.spec).absolute())
            # What this machine's environment says is no order to the others.
            (defaults if environment.CORPUS.get() else variables)[environment.CORPUS.name] = root
            folders = {folder for side in _folders(spec) if (folder := getattr(spec.corpus, side))}
        track = [] if self.track is None else ["--track", self.track]
        return WorkerSpec(
            command=["-P", "-m", "quell_tuning.cli", "worker", "--part", part, *track],
            study=(self.study_file.name, self.study_file.read_text()),
            environment=variables,
            defaults=defaults,
            folders=sorted(folders),
            threads=self.cluster.threads,
            log=f"{spec.study.name}/logs/worker-{slot}.log",
        )

    def _variables(self) -> dict[str, str]:
        """Of a worker. URLs go this way, since that of a storage may hold a password."""
        artifacts = self.place.artifacts_url
        return {environment.STORAGE.name: self.place.storage_url} | (
            {} if artifacts is None else {environment.ARTIFACTS.name: artifacts}
        )

    def _worker_command(self, part: str) -> list[str]:
        command = [sys.executable, "-P", "-m", "quell_tuning.cli", "worker", str(self.study_file), "--part", part]
        root = self.place.corpus_root(self.spec)
        track = [] if self.track is None else ["--track", self.track]
        return [*command, "--corpus", str(root), "--runs", str(self.place.runs.folder), *track]


def _over(study: optuna.Study) -> bool:
    return Budget(study, study.user_attrs["trials"]).slots().left == 0


def _folders(spec: StudySpec) -> set[str]:
    return {"clean", "rooms", "noisy" if spec.corpus.noisy else "noise"}


def _minutes(corpus: Corpus) -> dict[str, dict[Kind, float]]:
    """Of speech and noise in each split."""
    return {split: {kind: round(corpus.minutes(split, kind), 2) for kind in get_args(Kind)} for split in corpus.splits}
