"""The presets at equal training audio, and the best of them on recordings that nobody chose by.

    python benchmarks/presets.py --corpus FOLDER --audio-hours 1 [--presets compressed-unet recurrent-unet]

A preset may be followed by changes, of parameters or of what a study's [training] holds:
phase-unet,phase=noisy,clean=0.05. Each trains in a process of its own, on one CPU thread, as many at once as there are
cores. The first table is of the validation split; the second one holds the best there against all others on the test
split. A run that is interrupted goes on from its checkpoints.
"""

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from header import header
from numpy.typing import NDArray
from rich.console import Console

from quell.config import TrainingConfig
from quell.corpus import CorpusConfig, open_store, prepare
from quell.cost import Cost, cost, real_time_factor
from quell.denoiser import load_weights, save_weights
from quell.heldout import EvaluationSet, evaluation_set
from quell.scoring import Scorer, Scores
from quell.training import train
from tuning import progress, space
from tuning.presets import PRESETS

SNR_DB = (-5.0, 20.0)
VALIDATION, TEST = 128, 240  # mixtures
METRICS = ("pesq", "stoi", "si_sdr")


@dataclass(frozen=True)
class Outcome:
    """One preset, trained."""

    name: str
    weights: Path
    scores: Scores
    iou: float | None
    cost: Cost
    audio_hours: float
    cpu_minutes: float  # of the training process; PESQ and STOI are computed beside it


def variant(text: str, base: TrainingConfig) -> tuple[space.Point, TrainingConfig]:
    """The point and the training of `PRESET[,KEY=VALUE...]`.

    Raises:
        ValueError: an unknown preset or key, or a value that is not legal.
    """
    name, *changes = text.split(",")
    if name not in PRESETS:
        raise ValueError(f"{name!r}, expected one of {', '.join(PRESETS)}")
    point: space.Point = dict(PRESETS[name])
    for change in changes:
        key, _, given = change.partition("=")
        if key in point:
            point[key] = type(point[key])(given) if not isinstance(point[key], bool) else given == "true"
            if problem := space.PARAMETERS[key].objection(point[key]):
                raise ValueError(f"{key}: {problem}")
        elif key in {field.name for field in fields(TrainingConfig)}:
            base = replace(base, **{key: type(getattr(base, key))(given)})
        else:
            raise ValueError(f"{key!r} in {text!r}, expected a parameter of the search or of [training]")
    return point, base


def train_preset(name: str, store: Path, audio_hours: float, folder: Path, queue: Any) -> Outcome:
    """Trains one preset, on one thread of this process, and stores its weights."""
    torch.set_num_threads(1)
    corpus = open_store(store)
    rungs = tuple(round(audio_hours * share, 6) for share in (0.25, 0.5, 1.0))
    point, base = variant(name, TrainingConfig(rungs_audio_hours=rungs, snr_db=SNR_DB))
    model = space.denoiser_config(point, corpus.sample_rate)
    config = space.training_config(point, base, 0, model)
    weights = folder / f"{name}-{corpus.sample_rate}-{audio_hours:g}h.weights"
    checkpoint = weights.with_suffix(".checkpoint")
    said = 0.0

    def on_step(hours: float, loss: float) -> None:
        nonlocal said
        if time.monotonic() - said > 1.0:
            queue.put(("step", name, hours, audio_hours, loss))
            said = time.monotonic()

    def on_rung(hours: float, clips: NDArray[np.float64]) -> None:
        queue.put(("rung", name, "pesq", float(clips.mean())))

    with Scorer(1) as scorer:
        validation = _mixtures(store, "validation", VALIDATION, scorer)
        started = time.process_time()
        trained = train(
            model, config, corpus, validation, scorer, on_step=on_step, on_rung=on_rung, checkpoint=checkpoint
        )
        minutes = (time.process_time() - started) / 60
    save_weights(trained.denoiser, weights)
    checkpoint.unlink()
    queue.put(("end", name))
    heard = config.steps(audio_hours) * config.batch_size * config.segment_s / 3600
    return Outcome(name, weights, trained.scores, trained.iou, cost(model), heard, minutes)


def train_all(names: list[str], store: Path, audio_hours: float, folder: Path) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    console = Console(stderr=True)
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool,
        progress.Trainings(console) as bars,
    ):
        queue = manager.Queue()
        jobs = [pool.submit(train_preset, name, store, audio_hours, folder, queue) for name in names]
        while not all(job.done() for job in jobs):
            try:
                kind, *news = queue.get(timeout=0.5)
            except Empty:
                continue
            {"step": bars.step, "rung": bars.rung, "end": bars.end}[kind](*news)
        return [job.result() for job in jobs]


def _mixtures(store: Path, split: str, count: int, scorer: Scorer) -> EvaluationSet:
    return evaluation_set(open_store(store), split, count, SNR_DB, 0, scorer)


def show_validation(outcomes: list[Outcome], noisy: Scores) -> None:
    print("| preset | PESQ | STOI | SI-SDR (dB) | parameters | M MAC/s | RTF | audio (h) | CPU-min |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| noisy | {_means(noisy)} | | | | | |")
    for outcome in outcomes:
        rtf = real_time_factor(load_weights(outcome.weights))
        counts = f"{outcome.cost.parameters:,} | {outcome.cost.macs_per_s / 1e6:.0f} | {rtf:.4f}"
        spent = f"{outcome.audio_hours:.2f} | {outcome.cpu_minutes:.1f}"
        print(f"| {outcome.name} | {_means(outcome.scores)} | {counts} | {spent} |")
    for outcome in outcomes:
        if outcome.iou is not None:
            print(f"\n{outcome.name}: intersection over union of the binarised spectrograms {outcome.iou:.3f}")


def show_test(best: Outcome, mixtures: EvaluationSet, found: dict[str, Scores]) -> None:
    """Args: found: the trained ones' test scores, by name."""
    scores = found[best.name]
    print(f"\nBest on validation: {best.name}. On {len(mixtures.noisy)} test mixtures:\n")
    print("| | PESQ | STOI | SI-SDR (dB) |\n|---|---|---|---|")
    print(f"| noisy | {_means(mixtures.noisy_scores)} |\n| denoised | {_means(scores)} |")
    print("| gain, 95 % interval | " + _gains(scores, mixtures.noisy_scores) + " |")
    worse = (f"{scores.worse_than(mixtures.noisy_scores, name):.0%}" for name in METRICS)
    print("| clips made worse | " + " | ".join(worse) + " |")
    for name, other in found.items():
        if other is not scores:
            print(f"| gain over {name} | {_gains(scores, other)} |")


def _gains(scores: Scores, other: Scores) -> str:
    gains = [scores.gain_over(other, name) for name in METRICS]
    return " | ".join(f"{gain:+.3f} [{low:.3f}, {high:.3f}]" for gain, low, high in gains)


def _means(scores: Scores) -> str:
    return f"{scores.mean('pesq'):.3f} | {scores.mean('stoi'):.3f} | {scores.mean('si_sdr'):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--audio-hours", type=float, required=True, help="training audio of each preset")
    parser.add_argument("--presets", nargs="+", metavar="PRESET[,KEY=VALUE...]", default=list(PRESETS))
    parser.add_argument("--sample-rate", type=int, choices=(8_000, 16_000), default=16_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/presets"), help="for weights and the decoded corpus")
    given = parser.parse_args()
    for text in given.presets:
        try:
            variant(text, TrainingConfig())
        except ValueError as error:
            parser.error(f"--presets: {error}")
    given.runs.mkdir(parents=True, exist_ok=True)
    config = CorpusConfig(given.corpus / "speech", given.corpus / "noise", group_noise=r"^\d-(\d+)-")
    store = prepare(replace(config, sample_rate=given.sample_rate), given.runs / "corpora").folder
    with Scorer(len(os.sched_getaffinity(0))) as scorer:
        noisy = _mixtures(store, "validation", VALIDATION, scorer).noisy_scores
        outcomes = train_all(given.presets, store, given.audio_hours, given.runs)
        print(header(f"python benchmarks/presets.py {' '.join(sys.argv[1:])}"))
        show_validation(outcomes, noisy)
        best = max(outcomes, key=lambda outcome: outcome.scores.mean("pesq"))
        test = _mixtures(store, "test", TEST, scorer)
        found = {outcome.name: scorer.score(load_weights(outcome.weights), test) for outcome in outcomes}
        show_test(best, test, found)


if __name__ == "__main__":
    main()
