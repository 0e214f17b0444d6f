"""`quell evaluate`: an exported denoiser and others on the same recordings, beside the noisy input."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from quell.atomic import replacing
from quell.corpus.memory_map import Corpus
from quell.evaluation.baselines import System
from quell.evaluation.comparison import Result, measure
from quell.evaluation.test_sets import MixtureSet, PairedSet, TestSet, UnpairedSet, pair_up
from quell.metrics import dnsmos
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import evaluation_set
from quell_tuning import progress
from quell_tuning.errors import TuningError
from quell_tuning.evaluation.systems import NamedSystem
from quell_tuning.study.study_file import StudySpec

NOISY = "noisy"
OTHER_CORPUS = "trained on another corpus, whose training recordings may be in this test split"


def check_models(named_systems: Sequence[NamedSystem], corpus: Corpus, console: Console) -> None:
    """Says which of our models may have heard the recordings that they are evaluated on.

    Raises:
        TuningError: one of them runs at another rate.
    """
    for name, model in ((one.name, one.model) for one in named_systems if one.model is not None):
        if model.sample_rate != corpus.sample_rate:
            rates = f"{model.sample_rate} Hz, expected that of the study, {corpus.sample_rate} Hz"
            raise TuningError(f"{name}: sampled at {rates}; evaluate it on another study")
        if model.metadata.get("corpus") != corpus.fingerprint:
            console.print(f"quell: {name}: {OTHER_CORPUS}")


def of_study(spec: StudySpec, corpus: Corpus, mixtures: int, scorer: Scorer, console: Console) -> TestSet:
    """So many of the study's test mixtures."""
    with progress.bar("scoring the noisy mixtures", console) as move:
        return MixtureSet(evaluation_set(corpus, "test", mixtures, spec.corpus.snr_db, spec.study.seed, scorer, move))


def of_folders(noisy: Path, clean: Path | None, console: Console) -> TestSet:
    """The recordings of a folder, with or without their clean versions; all are read once.

    Raises:
        AudioError, CorpusError: as `quell.evaluation.test_sets.pair_up` and `quell.evaluation.test_sets.PairedSet`.
        PackageError: DNSMOS is not installed.
    """
    if clean is None:
        dnsmos.require()
    pairs = pair_up(noisy, clean)
    with progress.bar("reading the recordings", console) as move:
        return UnpairedSet(pairs, move) if clean is None else PairedSet(pairs, move)


def compare(test_set: TestSet, systems: dict[str, System], scorer: Scorer, console: Console) -> list[Result]:
    """Results of the noisy input, then of each system. CPU time is that of this thread: set torch to one."""
    known = test_set.noisy_scores
    results = [Result(NOISY, known)] if known is not None else []
    todo: dict[str, System | None] = {**({NOISY: None} if known is None else {}), **systems}
    for name, system in todo.items():
        with progress.bar(f"scoring {name}", console) as move:
            results.append(measure(name, system, test_set, scorer, move))
    return results


def refuse_csv(path: Path, overwrite: bool) -> None:
    """Raises TuningError where `write_csv` must not or could not write."""
    if path.exists() and not overwrite:
        raise TuningError(f"{path}: exists already, expected a new file; remove it, or give --overwrite")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise TuningError(f"{path}: not a file in a folder that exists, expected one; give another --csv")


def write_csv(path: Path, test_set: TestSet, results: list[Result]) -> None:
    """A row for each clip and system, with all digits; what is not known stays empty.

    Raises:
        TuningError: the disk refuses.
    """
    try:
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "system", "snr_db", *test_set.names, "seconds", "rtf"])
            for result in results:
                writer.writerows(_rows(test_set, result))
    except OSError as error:
        reason = f"{error.strerror}, expected a file that can be written"
        raise TuningError(f"{path}: {reason}; give another --csv") from error


def _rows(test_set: TestSet, result: Result) -> Iterator[list[str | float]]:
    for place, label in enumerate(test_set.labels):
        snr_db = float(test_set.snr_db[place])
        values = [float(result.scores.values[name][place]) for name in test_set.names]
        rtf = "" if result.rtf is None else float(result.rtf[place])
        known = "" if np.isnan(snr_db) else snr_db
        yield [label, result.system, known, *values, float(test_set.seconds[place]), rtf]
