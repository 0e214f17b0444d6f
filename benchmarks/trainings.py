"""Trains presets and variants of them side by side, each in its own process, on one CPU thread.

An interrupted run resumes from its checkpoints.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quell_tuning import progress
from quell_tuning.study import search_space
from quell_tuning.study.parameters import PARAMETERS
from quell_tuning.study.presets import PRESETS
from rich.console import Console

from quell.config import TrainingConfig
from quell.corpus.memory_map import Corpus, open_store
from quell.export.cost import Cost, cost
from quell.metrics.scorer import Scorer, Scores
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set
from quell.network.denoiser import save_weights
from quell.processes import cores
from quell.training.training_loop import train

SNR_DB = (-5.0, 20.0)
VALIDATION, TEST = 128, 240  # mixtures


@dataclass(frozen=True)
class Training:
    """A training to run: `recipe` is PRESET[,KEY=VALUE...]; kinds of noise in `without` are left out of its data."""

    name: str
    recipe: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of one training; scores are of the validation mixtures."""

    name: str
    weights: Path
    scores: Scores
    iou: float | None
    cost: Cost
    audio_hours: float
    cpu_minutes: float  # of the training process; another one computes PESQ and STOI


def variant(text: str, base: TrainingConfig) -> tuple[search_space.Point, TrainingConfig]:
    """The point and the training of `PRESET[,KEY=VALUE...]`.

    Raises:
        ValueError: an unknown preset or key, or a value that is not legal.
    """
    name, *changes = text.split(",")
    if name not in PRESETS:
        raise ValueError(f"{name!r}, expected one of {', '.join(PRESETS)}")
    point: search_space.Point = dict(PRESETS[name])
    for change in changes:
        key, _, value = change.partition("=")
        if key in point:
            point[key] = type(point[key])(value) if not isinstance(point[key], bool) else value == "true"
            if problem := PARAMETERS[key].problem(point[key]):
                raise ValueError(f"{key}: {problem}")
        elif key in {field.name for field in fields(TrainingConfig)}:
            base = replace(base, **{key: type(getattr(base, key))(value)})
        else:
            raise ValueError(f"{key!r} in {text!r}, expected a parameter of the search or of [training]")
    return point, base


def train_all(trainings: Sequence[Training], store: Path, audio_hours: float, folder: Path) -> list[Outcome]:
    """Trains all on equal audio, one process per core at a time; weights and checkpoints go to `folder`."""
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(cores(), mp_context=context) as pool,
        progress.Trainings(Console(stderr=True)) as bars,
    ):
        queue = manager.Queue()
        jobs = [pool.submit(_train, one, store, audio_hours, folder, queue) for one in trainings]
        while not all(job.done() for job in jobs):
            try:
                kind, *arguments = queue.get(timeout=0.5)
            except Empty:
                continue
            {"step": bars.step, "rung": bars.rung, "end": bars.end}[kind](*arguments)
        return [job.result() for job in jobs]


def mixtures(store: Path, split: str, scorer: Scorer, snr_db: tuple[float, float] = SNR_DB) -> EvaluationSet:
    """The validation or test mixtures of a decoded corpus."""
    return evaluation_set(open_store(store), split, {"validation": VALIDATION, "test": TEST}[split], snr_db, 0, scorer)


def _train(training: Training, store: Path, audio_hours: float, folder: Path, queue: Any) -> Outcome:
    torch.set_num_threads(1)
    corpus = _without(open_store(store), training.without)
    name = training.name
    rungs = tuple(round(audio_hours * share, 6) for share in (0.25, 0.5, 1.0))
    point, base = variant(training.recipe, TrainingConfig(rungs_audio_hours=rungs, snr_db=SNR_DB))
    model = search_space.denoiser_config(point, corpus.sample_rate)
    config = search_space.training_config(point, base, 0, model)
    weights = folder / f"{name}-{corpus.sample_rate}-{audio_hours:g}h.weights"
    checkpoint = weights.with_suffix(".checkpoint")
    reported = 0.0

    def on_step(hours: float, loss: float) -> None:
        nonlocal reported
        if time.monotonic() - reported > 1.0:
            queue.put(("step", name, hours, audio_hours, loss))
            reported = time.monotonic()

    def on_rung(hours: float, clips: NDArray[np.float64]) -> None:
        queue.put(("rung", name, "pesq", float(clips.mean())))

    with Scorer(1) as scorer:
        validation = mixtures(store, "validation", scorer)
        started = time.process_time()
        trained = train(
            model, config, corpus, validation, scorer, on_step=on_step, on_rung=on_rung, checkpoint=checkpoint
        )
        minutes = (time.process_time() - started) / 60
    save_weights(trained.denoiser, weights)
    checkpoint.unlink()
    queue.put(("end", name))
    hours = config.steps(audio_hours) * config.batch_size * config.segment_s / 3600
    return Outcome(name, weights, trained.scores, trained.iou, cost(model), hours, minutes)


def _without(corpus: Corpus, kinds: Sequence[str]) -> Corpus:
    """The corpus without some kinds of noise in its train split."""
    split = corpus.splits["train"]
    clips = [clip for clip in split.clips if clip.kind != "noise" or clip.category not in kinds]
    return replace(corpus, splits={**corpus.splits, "train": replace(split, clips=clips)})
