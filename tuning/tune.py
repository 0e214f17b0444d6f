"""`quell tune`: everything between a checked study file and its last trial."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from rich.console import Console

from quell.corpus import Corpus, prepare
from quell.errors import CorpusError
from quell.scoring import Scorer
from tuning import progress, space
from tuning.budget import Budget
from tuning.errors import UsageError
from tuning.objective import validation_set
from tuning.pool import Pool
from tuning.presets import PRESETS
from tuning.storage import Runs, create_study, open_storage
from tuning.study_file import StudySpec


@dataclass(frozen=True)
class Place:
    """Where a study's things are: flag, else environment, else default."""

    runs: Runs
    storage_url: str
    corpus: Path | None  # as given; None when nobody named one

    def corpus_root(self, spec: StudySpec) -> Path:
        """The folder that `clean` and `noise` are relative to; a synthetic corpus is made when it is absent."""
        if self.corpus is not None:
            return self.corpus
        if not spec.corpus.synthetic:
            return Path()
        root = self.runs.folder / "demo-corpus"
        if not root.exists():
            from quell.demo_corpus import make_demo_corpus

            try:
                make_demo_corpus(root)
            except (CorpusError, OSError):
                if not root.exists():  # else another process was faster, and its corpus is the same
                    raise
        return root

    def open_corpus(self, spec: StudySpec, console: Console) -> Corpus:
        """The decoded corpus of a study; decodes it with a progress bar where that was not done yet."""
        root = self.corpus_root(spec)
        with progress.bar("decoding recordings", console) as move:
            return prepare(spec.corpus_config(root), self.runs.corpora, move)


def check_devices(names: Sequence[str]) -> list[str]:
    """The devices to use; all GPUs, or the CPU where there is none, when no name is given.

    Raises:
        UsageError: a device that torch does not know or this machine does not have.
    """
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UsageError(f"--devices: {name!r}, expected cpu, cuda or cuda:<number>, separated by commas")
    if names and all(name == "cpu" for name in names):
        return list(names)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in names:
        number = int(name.partition(":")[2] or 0)
        if name != "cpu" and number >= count:
            raise UsageError(
                f"--devices: {name!r}, expected one of this machine's {count} GPUs; use cpu, or another number"
            )
    return list(names) or [f"cuda:{number}" for number in range(count)] or ["cpu"]


def tune(
    spec: StudySpec, study_file: Path, place: Place, workers: int, devices: Sequence[str], console: Console
) -> tuple[int, optuna.Study]:
    """Creates or continues the study and runs it with local workers; returns (exit code, study).

    Raises:
        DenoiserError: the corpus cannot be used.
        TuningError: the study cannot be opened or its workers do not get anywhere.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    corpus = place.open_corpus(spec, console)
    for split in corpus.splits:
        speech, noise = corpus.minutes(split, "clean"), corpus.minutes(split, "noise")
        console.print(f"{split}: {speech:.1f} min of speech, {noise:.1f} min of noise", highlight=False)
    storage = open_storage(place.storage_url, create=True)
    study = create_study(spec, corpus, storage)
    with (
        Scorer(len(os.sched_getaffinity(0))) as scorer,
        progress.bar("scoring the noisy mixtures", console) as move,
    ):
        mixtures = validation_set(spec, corpus, scorer, move)
    study.set_user_attr("noisy", mixtures.noisy_scores.means())
    study.set_user_attr("trials", spec.study.trials)
    inside = {name: space.inside(point, spec.search) for name, point in PRESETS.items()}
    first = {name: point for name, point in inside.items() if point is not None}
    pool = Pool(
        command=worker_command(study_file, spec, place),
        environment={"QUELL_STORAGE": place.storage_url},
        devices=devices,
        workers=workers,
        logs=place.runs.logs(spec.study.name),
        budget=Budget(study, storage, spec.study.trials, first),
        score=spec.study.score,
        audio_hours=spec.training.audio_hours,
        console=console,
    )
    return pool.run(), study


def worker_command(study_file: Path, spec: StudySpec, place: Place) -> list[str]:
    """The command line of a worker; the storage URL goes through the environment, since it may hold a password."""
    command = [sys.executable, "-m", "tuning.cli", "worker", str(study_file), "--trials", str(spec.study.trials)]
    return [*command, "--corpus", str(place.corpus_root(spec)), "--runs", str(place.runs.folder)]
