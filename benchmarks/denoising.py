"""Compares denoisers and baselines on pairs of recordings, or on the test mixtures of a corpus.

    python benchmarks/denoising.py --noisy FOLDER --clean FOLDER [--model FILE ...] [--baselines ...]
    python benchmarks/denoising.py --corpus FOLDER [--split test] [--snr-db -5 20] [--model FILE ...]

Recordings are paired, resampled and scored as by `quell evaluate`. A model is a file made by `quell export`, FILE@RATE
for third-party TorchScript or ONNX models (waveform in, waveform out), or quell for the included model, the default. On
a corpus, whose mixtures are those of `quell evaluate --study`, checks with target values follow; with 240 mixtures they
take 7 minutes of one core for three systems.
Needs `pip install 'quell-denoiser[baselines]'` for spectral-gate and rnnoise; those not installed are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from header import header
from quell_tuning import progress
from quell_tuning.cli.options import stderr
from quell_tuning.errors import TuningError
from quell_tuning.evaluation import evaluate
from quell_tuning.evaluation.systems import SHIPPED, named_systems
from quell_tuning.formatting import number
from rich.console import Console

from quell.audio import FloatArray
from quell.audio.alignment import BIN_DB
from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import CorpusConfig
from quell.corpus.splits import SPLITS
from quell.corpus.store import prepare
from quell.errors import DenoiserError, PackageError
from quell.evaluation import baselines, comparison
from quell.evaluation.baselines import System
from quell.evaluation.test_sets import MixtureSet, TestSet
from quell.metrics import intrusive
from quell.metrics.scorer import Scorer, ScoringJob
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set
from quell.processes import cores

BASELINES = ("spectral-gate", "rnnoise")
METRICS = {"pesq": "PESQ", "stoi": "STOI", "si_sdr": "SI-SDR (dB)"}
LEVELS_DB = (-40.0, -20.0, 6.0)  # relative to the mixtures, whose louder peak is half of full scale
CHECKED = 60  # mixtures whose levels are changed, ten at each SNR


class Check(NamedTuple):
    """A requirement on denoisers, with the value measured for each system."""

    name: str
    target: str
    values: dict[str, float]
    met: Callable[[float], bool]
    format: str  # of the values


def systems_of(models: list[str], names: list[str], corpus: Corpus | None, console: Console) -> dict[str, System]:
    """The models, then the baselines that are installed."""
    given = named_systems(models, None if corpus is None else corpus.sample_rate)
    if corpus is not None:
        evaluate.check_models(given, corpus, console)
    systems = {one.name: one.system for one in given}
    for name in names:
        try:
            systems[name] = baselines.system(name)
        except PackageError as error:
            console.print(f"left out: {error}")
    return systems


def show(state: dict[str, Any], split: str) -> None:
    """Prints Markdown: a row per system, then a row per SNR."""
    mixed = f"{split} mixtures" if state["kind"] == "mixtures" else "pairs of recordings"
    print(f"{state['mixtures']} {mixed}, {state['minutes']:.1f} minutes.\n")
    print_systems(state)
    if state["by_snr"]:
        print_by_snr(state)
    worst = (f"{row['system']}: {row['worst']['si_sdr']['file']}" for row in state["systems"][1:])
    print(f"\nWorst clips by SI-SDR: {'; '.join(worst)}.")


def print_systems(state: dict[str, Any]) -> None:
    gains = " | ".join(f"{head}, gain [95 %]" for head in METRICS.values())
    print(
        f"| system | {gains} | clips with less STOI | at the highest SNR | worst clip, SI-SDR (dB) | RTF, one thread |"
    )
    print("|---" * (len(METRICS) + 5) + "|")
    for row in state["systems"]:
        cells = [number(name, row["means"][name]) for name in METRICS]
        if "gain" not in row:
            print(f"| {row['system']} | {' | '.join(cells)} | | | | |")
            continue
        cells = [f"{mean}, {interval(name, row['gain'][name])}" for name, mean in zip(METRICS, cells, strict=True)]
        top = row["worse_at_highest_snr"]
        cells += [f"{row['worse']['stoi']:.0%}", "" if top is None else f"{top['stoi']:.0%}"]
        cells += [f"{row['worst']['si_sdr']['gain']:+.2f}", f"{row['rtf']:.4f}"]
        print(f"| {row['system']} | {' | '.join(cells)} |")


def interval(name: str, gain: list[float]) -> str:
    mean, low, high = (number(name, value, "+") for value in gain)
    return f"{mean} [{low}, {high}]"


def print_by_snr(state: dict[str, Any]) -> None:
    systems = state["systems"]
    snr = "SNR (dB)" if state["kind"] == "mixtures" else f"measured SNR (dB, ± {BIN_DB / 2:g})"
    print(f"\nPESQ / STOI / SI-SDR (dB):\n\n| {snr} | clips | {' | '.join(row['system'] for row in systems)} |")
    print("|---" * (len(systems) + 2) + "|")
    for place, at in enumerate(state["by_snr"]):
        cells = [" / ".join(number(name, row["by_snr"][place][name]) for name in METRICS) for row in systems]
        print(f"| {at['snr_db']:g} | {at['clips']} | {' | '.join(cells)} |")


def checks(mixtures: EvaluationSet, systems: dict[str, System], state: dict[str, Any], scorer: Scorer) -> list[Check]:
    """Requirements on denoisers beside their mean scores."""
    rows = {row["system"]: row for row in state["systems"] if row["system"] in systems}
    console = stderr()
    clean, level_changes = {}, {}
    for name, system in systems.items():
        clean[name] = scores_of_clean(name, system, mixtures, scorer, console)
        level_changes[name] = changes_by_level(name, system, mixtures.first(CHECKED), console)
    worst = {name: row["worst"]["si_sdr"]["gain"] for name, row in rows.items()}
    top = {name: row["worse_at_highest_snr"]["stoi"] for name, row in rows.items()}
    results = []
    for metric, head, least, form in (("si_sdr", "SI-SDR (dB)", 33.0, ".1f"), ("pesq", "PESQ", 4.0, ".2f")):
        means = {name: scores[metric] for name, scores in clean.items()}
        results.append(Check(f"clean speech in: {head}", f">= {least:g}", means, at_least(least), form))
    for level in LEVELS_DB:
        change = {name: by_level[level] for name, by_level in level_changes.items()}
        results.append(
            Check(f"input of {level:+g} dB: largest change of SI-SDR (dB)", "< 0.3", change, lambda x: x < 0.3, ".3f")
        )
    results.append(Check("worst clip: change of SI-SDR (dB)", ">= -3", worst, at_least(-3.0), "+.2f"))
    highest = state["by_snr"][-1]["snr_db"]
    results.append(Check(f"clips with less STOI at {highest:g} dB SNR", "<= 10%", top, lambda x: x <= 0.1, ".0%"))
    return results


def at_least(target: float) -> Callable[[float], bool]:
    return lambda value: value >= target


def scores_of_clean(
    name: str, system: System, mixtures: EvaluationSet, scorer: Scorer, console: Console
) -> dict[str, float]:
    """Mean scores of a system's output for speech without noise, each utterance once."""
    utterances = {label.partition(" + ")[0]: place for place, label in enumerate(mixtures.labels)}
    rate = mixtures.sample_rate

    def jobs() -> Iterator[ScoringJob]:
        for place in utterances.values():
            clip = mixtures.clean[place]
            yield partial(intrusive.score_clip, system(clip, rate), clip, rate, ("pesq", "si_sdr"))

    with progress.bar(f"clean speech through {name}", console) as move:
        scores = scorer.run(jobs(), len(utterances), move)
    return {metric: float(np.mean([score.values[metric] for score in scores])) for metric in ("pesq", "si_sdr")}


def changes_by_level(name: str, system: System, mixtures: EvaluationSet, console: Console) -> dict[float, float]:
    """The largest change of a clip's SI-SDR by the gain of the input in dB. Samples are float: none clips."""

    def si_sdr(noisy: FloatArray, clean: FloatArray) -> float:
        return intrusive.si_sdr(system(noisy, mixtures.sample_rate), clean)

    changes: dict[float, list[float]] = {level: [] for level in LEVELS_DB}
    with progress.bar(f"levels through {name}", console) as move:
        for place, (noisy, clean) in enumerate(zip(mixtures.noisy, mixtures.clean, strict=True)):
            usual = si_sdr(noisy, clean)
            for level in LEVELS_DB:
                gain = np.float32(10 ** (level / 20))
                changes[level].append(abs(si_sdr(gain * noisy, clean) - usual))
            move(place + 1, len(mixtures.noisy))
    return {level: max(values) for level, values in changes.items()}


def show_checks(results: list[Check], names: list[str]) -> None:
    print(f"\n| check | target | {' | '.join(names)} |\n" + "|---" * (len(names) + 2) + "|")
    for check in results:
        values = [check.values[name] for name in names]
        cells = [f"{value:{check.format}}" if check.met(value) else f"**{value:{check.format}}**" for value in values]
        print(f"| {check.name} | {check.target} | {' | '.join(cells)} |")
    print("\nBold: the target is missed.")


def open_corpus(given: argparse.Namespace, console: Console) -> Corpus | None:
    if given.corpus is None:
        return None
    config = CorpusConfig(
        given.corpus / "speech", given.corpus / "noise", given.sample_rate, group_noise=given.group_noise
    )
    with progress.bar("decoding the corpus", console) as move:
        return prepare(config, given.runs / "corpora", move)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noisy", type=Path, help="a folder of noisy recordings")
    parser.add_argument("--clean", type=Path, help="their clean versions, by the same paths")
    parser.add_argument("--corpus", type=Path, help="instead: a folder with speech/ and noise/")
    parser.add_argument("--split", choices=SPLITS, default="test", help="of the corpus")
    parser.add_argument("--mixtures", type=int, default=240, help="of the corpus, at six SNRs in turn")
    parser.add_argument("--snr-db", type=float, nargs=2, default=(-5.0, 20.0), help="lowest and highest, of mixtures")
    parser.add_argument("--sample-rate", type=int, choices=(8_000, 16_000), default=16_000, help="of the corpus, Hz")
    parser.add_argument(
        "--group-noise", default=r"^\d-(\d+)-", help="regular expression whose groups name the source of a noise"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="for the decoded corpus")
    parser.add_argument("--model", nargs="+", default=[SHIPPED], help="FILE, third-party FILE@RATE, or quell")
    parser.add_argument("--baselines", nargs="*", choices=BASELINES, default=list(BASELINES))
    given = parser.parse_args()
    if (given.corpus is None) == (given.noisy is None) or (given.noisy is None) != (given.clean is None):
        parser.error("expected either --noisy and --clean, or --corpus")
    torch.set_num_threads(1)  # the real-time factor is that of one thread; scoring takes the other cores
    console = stderr()
    corpus = open_corpus(given, console)
    systems = systems_of(given.model, given.baselines, corpus, console)
    with Scorer(cores()) as scorer:
        mixtures, test_set = test_set_of(given, corpus, scorer, console)
        state = comparison.summary(test_set, evaluate.compare(test_set, systems, scorer, console))
        further = [] if mixtures is None else checks(mixtures, systems, state, scorer)
    print(header(f"python benchmarks/denoising.py {' '.join(sys.argv[1:])}"))
    show(state, given.split)
    if further:
        show_checks(further, list(systems))


def test_set_of(
    given: argparse.Namespace, corpus: Corpus | None, scorer: Scorer, console: Console
) -> tuple[EvaluationSet | None, TestSet]:
    if corpus is None:
        return None, evaluate.of_folders(given.noisy, given.clean, console)
    with progress.bar("scoring the noisy mixtures", console) as move:
        mixtures = evaluation_set(corpus, given.split, given.mixtures, tuple(given.snr_db), 0, scorer, move)
    return mixtures, MixtureSet(mixtures)


if __name__ == "__main__":
    try:
        main()
    except (DenoiserError, TuningError) as error:
        sys.exit(f"denoising.py: {error}")
