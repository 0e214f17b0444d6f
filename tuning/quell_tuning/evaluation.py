"""`quell evaluate`: an exported denoiser and others on the same recordings, beside the noisy input."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from quell import dnsmos
from quell.atomic import replacing
from quell.audio import FloatArray
from quell.baselines import System
from quell.corpus import Corpus
from quell.heldout import evaluation_set
from quell.material import Material, Mixtures, Pairs, Recordings, pair_up
from quell.scoring import Job, Progress, Scorer, Scores
from quell_tuning import progress
from quell_tuning.errors import TuningError
from quell_tuning.study_file import StudySpec
from quell_tuning.systems import Contender

NOISY = "noisy"
OTHER_CORPUS = "trained on another corpus, whose training recordings may be in this test split"


@dataclass(frozen=True)
class Result:
    """How a system does on some material.

    `rtf` is processing time over audio time of each clip on one thread; None for the noisy input. It is that of the
    second time: a system's first call, and with TorchScript the first on each new length, builds what later ones use.
    `rtf_new` has those first times.
    """

    system: str
    scores: Scores
    rtf: NDArray[np.float64] | None = None
    rtf_new: NDArray[np.float64] | None = None


def check_models(contenders: Sequence[Contender], corpus: Corpus, console: Console) -> None:
    """Says which of our models may have heard the recordings that they are evaluated on.

    Raises:
        TuningError: one of them runs at another rate.
    """
    for name, model in ((one.name, one.model) for one in contenders if one.model is not None):
        if model.sample_rate != corpus.sample_rate:
            rates = f"{model.sample_rate} Hz, expected that of the study, {corpus.sample_rate} Hz"
            raise TuningError(f"{name}: sampled at {rates}; evaluate it on another study")
        if model.metadata.get("corpus") != corpus.fingerprint:
            console.print(f"quell: {name}: {OTHER_CORPUS}")


def of_study(spec: StudySpec, corpus: Corpus, mixtures: int, scorer: Scorer, console: Console) -> Material:
    """So many of the study's test mixtures."""
    with progress.bar("scoring the noisy mixtures", console) as move:
        return Mixtures(evaluation_set(corpus, "test", mixtures, spec.corpus.snr_db, spec.study.seed, scorer, move))


def of_folders(noisy: Path, clean: Path | None, console: Console) -> Material:
    """The recordings of a folder, with or without their clean versions; all are read once.

    Raises:
        AudioError, CorpusError: as `quell.material.pair_up` and `quell.material.Pairs`.
        PackageError: DNSMOS is not installed.
    """
    if clean is None:
        dnsmos.require()
    pairs = pair_up(noisy, clean)
    with progress.bar("reading the recordings", console) as move:
        return Recordings(pairs, move) if clean is None else Pairs(pairs, move)


def compare(material: Material, systems: dict[str, System], scorer: Scorer, console: Console) -> list[Result]:
    """Results of the noisy input, then of each system. CPU time is that of this thread: set torch to one."""
    known = material.noisy_scores
    results = [Result(NOISY, known)] if known is not None else []
    todo: dict[str, System | None] = {**({NOISY: None} if known is None else {}), **systems}
    for name, system in todo.items():
        with progress.bar(f"scoring {name}", console) as move:
            results.append(measure(name, system, material, scorer, move))
    return results


def measure(name: str, system: System | None, material: Material, scorer: Scorer, move: Progress) -> Result:
    """Scores and times of a system; without one, scores of the noisy input."""
    first: list[float] = []
    second: list[float] = []

    def jobs() -> Iterator[Job]:
        for place in range(len(material.labels)):
            samples, sample_rate = material.recording(place)
            if system is not None:
                for seconds in (first, second):
                    estimate, spent = _timed(system, samples, sample_rate)
                    seconds.append(spent)
                samples = estimate
            yield material.job(place, samples)

    clips = scorer.run(jobs(), len(material.labels), move)
    scores = Scores.of(clips, material.rows)
    if system is None:
        return Result(name, scores)
    return Result(name, scores, np.array(second) / material.seconds, np.array(first) / material.seconds)


def _timed(system: System, samples: FloatArray, sample_rate: int) -> tuple[FloatArray, float]:
    """What a system makes of (T, C), each channel by itself, and the CPU seconds that it took."""
    channels = np.ascontiguousarray(samples.T)
    begun = time.thread_time()
    done = [system(channel, sample_rate) for channel in channels]
    spent = time.thread_time() - begun
    return np.stack(done, axis=1), spent


def summary(material: Material, results: list[Result]) -> dict[str, Any]:
    """The tables as a dictionary; everything is JSON. The first two results are those of the noisy input and of the
    model that the table by SNR is about."""
    noisy, model = results[0].scores, results[1].scores
    return {
        "mixtures": len(material.labels),
        "minutes": float(material.seconds.sum()) / 60,
        "kind": type(material).__name__.lower(),
        "failures": model.failures,
        "noisy": noisy.means(),
        "denoised": model.means(),
        "gain": {name: model.gain_over(noisy, name) for name in model.values},
        "worse": {name: model.worse_than(noisy, name) for name in model.values},
        "by_snr": _by_snr(noisy, model) if np.isfinite(material.rows).all() else [],
        "systems": [_system(result, noisy, material) for result in results],
    }


def _by_snr(noisy: Scores, model: Scores) -> list[dict[str, Any]]:
    before = noisy.by_snr()
    return [
        {"snr_db": snr_db, "clips": int((model.snr_db == snr_db).sum()), "noisy": before[snr_db], "denoised": means}
        for snr_db, means in model.by_snr().items()
    ]


def _system(result: Result, noisy: Scores, material: Material) -> dict[str, Any]:
    scores, by_snr = result.scores, bool(np.isfinite(material.rows).all())
    row: dict[str, Any] = {"system": result.system, "failures": scores.failures, "means": scores.means()}
    row["by_snr"] = [{"snr_db": snr_db, **means} for snr_db, means in scores.by_snr().items()] if by_snr else []
    if result.rtf is None or result.rtf_new is None:
        return row
    total = material.seconds.sum()
    return row | {
        "gain": {name: scores.gain_over(noisy, name) for name in scores.values},
        "worse": {name: scores.worse_than(noisy, name) for name in scores.values},
        "worse_at_highest_snr": _worse_on_top(scores, noisy) if by_snr else None,
        "worst": {name: _worst(scores, noisy, name, material) for name in scores.values},
        "rtf": float(result.rtf @ material.seconds / total),
        "rtf_new": float(result.rtf_new @ material.seconds / total),
        "first_call_s": float(result.rtf_new[0] * material.seconds[0]),
    }


def _worse_on_top(scores: Scores, noisy: Scores) -> dict[str, float]:
    """Shares of clips made worse among those with the least noise, where there is most to lose."""
    top = noisy.snr_db == noisy.snr_db.max()
    mine, before = scores.of_clips(top), noisy.of_clips(top)
    return {name: mine.worse_than(before, name) for name in mine.values}


def _worst(scores: Scores, noisy: Scores, name: str, material: Material) -> dict[str, Any]:
    """The clip that loses most, or gains least."""
    gains = scores.values[name] - noisy.values[name]
    place = int(gains.argmin())
    return {"file": material.labels[place], "gain": float(gains[place])}


def refuse_csv(path: Path, overwrite: bool) -> None:
    """Raises TuningError where `write_csv` must not or could not write."""
    if path.exists() and not overwrite:
        raise TuningError(f"{path}: exists already, expected a new file; remove it, or give --overwrite")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise TuningError(f"{path}: not a file in a folder that exists, expected one; give another --csv")


def write_csv(path: Path, material: Material, results: list[Result]) -> None:
    """A row for each clip and system, with all digits; what is not known stays empty.

    Raises:
        TuningError: the disk refuses.
    """
    try:
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "system", "snr_db", *material.names, "seconds", "rtf"])
            for result in results:
                writer.writerows(_rows(material, result))
    except OSError as error:
        reason = f"{error.strerror}, expected a file that can be written"
        raise TuningError(f"{path}: {reason}; give another --csv") from error


def _rows(material: Material, result: Result) -> Iterator[list[str | float]]:
    for place, label in enumerate(material.labels):
        snr_db = float(material.snr_db[place])
        values = [float(result.scores.values[name][place]) for name in material.names]
        rtf = "" if result.rtf is None else float(result.rtf[place])
        known = "" if np.isnan(snr_db) else snr_db
        yield [label, result.system, known, *values, float(material.seconds[place]), rtf]
