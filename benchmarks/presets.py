"""Compares the presets at equal training audio, on the validation split and the best one on the test split.

    python benchmarks/presets.py --corpus FOLDER --audio-hours 1 [--presets compressed-unet recurrent-unet]

A preset may be followed by changed parameters or keys of a study's [training], as in phase-unet,phase=noisy,clean=0.05.
Each trains in its own process, on one CPU thread, one process per core at a time. The first table is of the validation
split; the second one compares the best there with all others on the test split. An interrupted run resumes from its
checkpoints.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from header import header
from quell_tuning.study.presets import PRESETS
from trainings import Outcome, Training, mixtures, train_all, variant

from quell.config import TrainingConfig
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.export.cost import real_time_factor
from quell.metrics.scorer import Scorer, Scores
from quell.mixing.evaluation_mixtures import EvaluationSet, score_denoiser
from quell.network.denoiser import load_weights
from quell.processes import cores

METRICS = ("pesq", "stoi", "si_sdr")


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


def show_test(best: Outcome, test: EvaluationSet, test_scores: dict[str, Scores]) -> None:
    scores = test_scores[best.name]
    print(f"\nBest on validation: {best.name}. On {len(test.noisy)} test mixtures:\n")
    print("| | PESQ | STOI | SI-SDR (dB) |\n|---|---|---|---|")
    print(f"| noisy | {_means(test.noisy_scores)} |\n| denoised | {_means(scores)} |")
    print("| gain, 95 % interval | " + _gains(scores, test.noisy_scores) + " |")
    worse = (f"{scores.worse_than(test.noisy_scores, name):.0%}" for name in METRICS)
    print("| clips made worse | " + " | ".join(worse) + " |")
    for name, other in test_scores.items():
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
    parser.add_argument("--audio-hours", type=float, required=True, help="hours of training audio per preset")
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
    with Scorer(cores()) as scorer:
        noisy = mixtures(store, "validation", scorer).noisy_scores
        recipes = [Training(recipe, recipe) for recipe in given.presets]
        outcomes = train_all(recipes, store, given.audio_hours, given.runs)
        print(header(f"python benchmarks/presets.py {' '.join(sys.argv[1:])}"))
        show_validation(outcomes, noisy)
        best = max(outcomes, key=lambda outcome: outcome.scores.mean("pesq"))
        test = mixtures(store, "test", scorer)
        scores = {outcome.name: score_denoiser(scorer, load_weights(outcome.weights), test) for outcome in outcomes}
        show_test(best, test, scores)


if __name__ == "__main__":
    main()
