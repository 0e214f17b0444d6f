"""`quell evaluate`: scores exported denoisers and other systems on the same recordings, with the noisy input."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from quell import audio
from quell.atomic import EXISTS, WRITTEN_MEANWHILE, replacing
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
    """Warns of exported models that may have been trained on the recordings they are evaluated on; raises TuningError
    for a model of another sample rate than the study's."""
    for name, model in ((one.name, one.model) for one in named_systems if one.model is not None):
        if model.sample_rate != corpus.sample_rate:
            rates = f"{model.sample_rate} Hz, expected that of the study, {corpus.sample_rate} Hz"
            raise TuningError(f"{name}: a model of {rates}; evaluate it on another study")
        if model.metadata.get("corpus") != corpus.fingerprint:
            console.print(f"quell: {name}: {OTHER_CORPUS}")


def of_study(spec: StudySpec, corpus: Corpus, mixtures: int, scorer: Scorer, console: Console) -> TestSet:
    """The first `mixtures` test mixtures of a study."""
    with progress.bar("scoring the noisy mixtures", console) as update:
        return MixtureSet(evaluation_set(corpus, "test", mixtures, spec.corpus.snr_db, spec.study.seed, scorer, update))


def of_folders(noisy: Path, clean: Path | None, console: Console) -> TestSet:
    """The recordings of a folder, with or without their clean versions; reads each once. Says what it leaves out.

    Raises:
        AudioError, CorpusError: as `quell.evaluation.test_sets.pair_up` and `quell.evaluation.test_sets.PairedSet`.
        PackageError: DNSMOS is not installed.
    """
    if clean is None:
        dnsmos.require()
    pairs = pair_up(noisy, clean)
    for folder in (path for path in (noisy, clean) if path is not None and path.is_dir()):
        if counts := audio.unread([folder]):
            console.print(f"quell: {folder}: {audio.left_out(counts)}", highlight=False, markup=False, soft_wrap=True)
    with progress.bar("reading the recordings", console) as update:
        return UnpairedSet(pairs, update) if clean is None else PairedSet(pairs, update)


def compare(test_set: TestSet, systems: dict[str, System], scorer: Scorer, console: Console) -> list[Result]:
    """Results of the noisy input, then of each system.

    CPU time is measured in this thread, so torch should use no other (`torch.set_num_threads(1)`).
    """
    noisy_scores = test_set.noisy_scores
    results = [Result(NOISY, noisy_scores)] if noisy_scores is not None else []
    measured: dict[str, System | None] = {**({NOISY: None} if noisy_scores is None else {}), **systems}
    for name, system in measured.items():
        with progress.bar(f"scoring {name}", console) as update:
            results.append(measure(name, system, test_set, scorer, update))
    return results


def check_csv(path: Path, overwrite: bool) -> None:
    """Raises TuningError if `write_csv` could not write the file, or would replace it without `overwrite`."""
    if path.exists() and not overwrite:
        raise TuningError(f"{path}: {EXISTS}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise TuningError(f"{path}: not a file in an existing folder, expected one; give another --csv")


def write_csv(path: Path, test_set: TestSet, results: list[Result], overwrite: bool = False) -> None:
    """Writes a row per clip and system, with all digits, unknown values empty; TuningError if it cannot be written."""
    try:
        with replacing(path, overwrite=overwrite) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "system", "snr_db", *test_set.names, "seconds", "rtf"])
            for result in results:
                writer.writerows(_rows(test_set, result))
    except FileExistsError as error:
        raise TuningError(f"{path}: {WRITTEN_MEANWHILE}") from error
    except OSError as error:
        reason = f"{error.strerror}, expected a file that can be written"
        raise TuningError(f"{path}: {reason}; give another --csv") from error


def _rows(test_set: TestSet, result: Result) -> Iterator[list[str | float]]:
    for place, label in enumerate(test_set.labels):
        snr_db = float(test_set.snr_db[place])
        values = [float(result.scores.values[name][place]) for name in test_set.names]
        rtf = "" if result.rtf is None else float(result.rtf[place])
        yield [label, result.system, "" if np.isnan(snr_db) else snr_db, *values, float(test_set.seconds[place]), rtf]
