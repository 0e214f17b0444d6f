"""Scores a recipe on kinds of noise absent from its training.

    python benchmarks/unseen_noises.py --corpus FOLDER --audio-hours 2 [--recipe phase-unet] [--folds 3]

The kinds of noise (the folders of noise/) are divided into folds. One training has all kinds, and one per fold has
those of the other folds. Then the test mixtures are denoised twice: by the model trained on all kinds, and by the one
trained without the mixture's kind. A recipe is PRESET[,KEY=VALUE...] as in presets.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from header import header
from numpy.typing import NDArray
from quell_tuning.cli.options import stderr
from quell_tuning.evaluation import evaluate
from quell_tuning.formatting import number
from rich.console import Console
from trainings import Training, mixtures, train_all, variant

from quell.config import TrainingConfig
from quell.corpus.memory_map import open_store
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.errors import PackageError
from quell.evaluation import baselines
from quell.evaluation.test_sets import MixtureSet
from quell.metrics.scorer import Scorer, Scores
from quell.mixing.evaluation_mixtures import EvaluationSet, score_denoiser
from quell.network.denoiser import load_weights
from quell.processes import cores

METRICS = {"pesq": "PESQ", "stoi": "STOI", "si_sdr": "SI-SDR (dB)"}
SEEN, UNSEEN = "noise seen in training", "noise not seen"


def folds_of(kinds: list[str], folds: int) -> list[tuple[str, ...]]:
    """The kinds distributed in turn: each is in one fold."""
    return [tuple(kinds[number::folds]) for number in range(folds)]


def merged(parts: list[tuple[NDArray[np.bool_], Scores]]) -> Scores:
    """Scores of a set, with the marked clips of each part taken from its scores."""
    whole = parts[0][1]
    values = {name: whole.values[name].copy() for name in whole.values}
    for mask, scores in parts:
        for name in values:
            values[name][mask] = scores.values[name][mask]
    return Scores(values, whole.snr_db, 0)


def show(test: EvaluationSet, kinds: NDArray[np.str_], results: dict[str, Scores]) -> None:
    """Prints Markdown: means by system with gains over the noisy input, then by kind of noise."""
    print(f"{len(test.noisy)} test mixtures, {sum(map(len, test.clean)) / test.sample_rate / 60:.1f} minutes.\n")
    print(f"| | {' | '.join(f'{head}, gain [95 %]' for head in METRICS.values())} |\n|---|---|---|---|")
    noisy = test.noisy_scores
    print(f"| noisy | {' | '.join(number(name, noisy.mean(name)) for name in METRICS)} |")
    for system, scores in results.items():
        cells = (f"{number(name, scores.mean(name))}, {_gain(scores, noisy, name)}" for name in METRICS)
        print(f"| {system} | {' | '.join(cells)} |")
    cells = (_gain(results[UNSEEN], results[SEEN], name) for name in METRICS)
    print(f"| {UNSEEN} against {SEEN} | {' | '.join(cells)} |")
    print(f"\nPESQ / STOI / SI-SDR (dB):\n\n| noise | clips | noisy | {' | '.join(results)} |")
    print("|---" * (len(results) + 3) + "|")
    for kind in sorted(set(kinds)):
        rows = [scores.of_clips(kinds == kind) for scores in (noisy, *results.values())]
        cells = (" / ".join(number(name, row.mean(name)) for name in METRICS) for row in rows)
        print(f"| {kind} | {(kinds == kind).sum()} | {' | '.join(cells)} |")


def _gain(scores: Scores, other: Scores, name: str) -> str:
    mean, low, high = (number(name, value, "+") for value in scores.gain_over(other, name))
    return f"{mean} [{low}, {high}]"


def of_rnnoise(test: EvaluationSet, scorer: Scorer, console: Console) -> dict[str, Scores]:
    """Scores of RNNoise, for which all recordings are new; none if it is not installed."""
    try:
        system = baselines.system("rnnoise")
    except PackageError as error:
        console.print(f"left out: {error}")
        return {}
    return {"rnnoise": evaluate.compare(MixtureSet(test), {"rnnoise": system}, scorer, console)[-1].scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--audio-hours", type=float, required=True, help="training audio of each model")
    parser.add_argument("--recipe", metavar="PRESET[,KEY=VALUE...]", default="phase-unet")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--snr-db", type=float, nargs=2, default=(0.0, 20.0), help="of the test mixtures")
    parser.add_argument("--sample-rate", type=int, choices=(8_000, 16_000), default=16_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/unseen"), help="for weights and the decoded corpus")
    given = parser.parse_args()
    try:
        variant(given.recipe, TrainingConfig())
    except ValueError as error:
        parser.error(f"--recipe: {error}")
    given.runs.mkdir(parents=True, exist_ok=True)
    config = CorpusConfig(given.corpus / "speech", given.corpus / "noise", group_noise=r"^\d-(\d+)-")
    store = prepare(replace(config, sample_rate=given.sample_rate), given.runs / "corpora").folder
    console = stderr()
    kinds = sorted({clip.category for clip in open_store(store).splits["train"].of("noise")})
    folds = folds_of(kinds, given.folds)
    partial = [Training(f"without {'+'.join(fold)}", given.recipe, fold) for fold in folds]
    outcomes = train_all([Training(given.recipe, given.recipe), *partial], store, given.audio_hours, given.runs)
    with Scorer(cores()) as scorer:
        test = mixtures(store, "test", scorer, tuple(given.snr_db))
        kind_of = np.array([label.partition(" + ")[2].partition("/")[0] for label in test.labels])
        seen, *unseen = (score_denoiser(scorer, load_weights(outcome.weights), test) for outcome in outcomes)
        parts = [(np.isin(kind_of, fold), scores) for fold, scores in zip(folds, unseen, strict=True)]
        results = {SEEN: seen, UNSEEN: merged(parts), **of_rnnoise(test, scorer, console)}
    print(header(f"python benchmarks/unseen_noises.py {' '.join(sys.argv[1:])}"))
    show(test, kind_of, results)


if __name__ == "__main__":
    main()
