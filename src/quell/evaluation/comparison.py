"""Denoisers on one test set: scores, real-time factor, summary."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quell.audio import FloatArray
from quell.evaluation.baselines import System
from quell.evaluation.test_sets import TestSet
from quell.metrics.scorer import Scorer, Scores, ScoringJob
from quell.progress import Progress


@dataclass(frozen=True)
class Result:
    """Scores and real-time factors of a system on a test set."""

    system: str
    scores: Scores
    # Processing time over audio time of each clip on one thread, at the second call; None for the noisy input. A
    # system's first call, and with TorchScript the first on each new length, prepares later ones.
    rtf: NDArray[np.float64] | None = None
    rtf_new: NDArray[np.float64] | None = None  # the same at the first call


def measure(name: str, system: System | None, test_set: TestSet, scorer: Scorer, progress: Progress) -> Result:
    """The result of a system; without one, that of the noisy input."""
    first: list[float] = []
    second: list[float] = []

    def jobs() -> Iterator[ScoringJob]:
        for clip in range(len(test_set.labels)):
            samples, sample_rate = test_set.recording(clip)
            if system is not None:
                for seconds in (first, second):
                    estimate, cpu_s = _timed(system, samples, sample_rate)
                    seconds.append(cpu_s)
                samples = estimate
            yield test_set.job(clip, samples)

    clips = scorer.run(jobs(), len(test_set.labels), progress)
    scores = Scores.of(clips, test_set.rows)
    if system is None:
        return Result(name, scores)
    return Result(name, scores, np.array(second) / test_set.seconds, np.array(first) / test_set.seconds)


def _timed(system: System, samples: FloatArray, sample_rate: int) -> tuple[FloatArray, float]:
    """The output of a system for (T, C), each channel independently, and its CPU time in seconds."""
    channels = np.ascontiguousarray(samples.T)
    clock = getattr(system, "clock", time.thread_time)  # a system in another process has its own
    begin = clock()
    outputs = [system(channel, sample_rate) for channel in channels]
    cpu_s = clock() - begin
    return np.stack(outputs, axis=1), cpu_s


def summary(test_set: TestSet, results: list[Result]) -> dict[str, Any]:
    """All results as a dictionary for JSON. The first is that of the noisy input, the second is compared by SNR."""
    noisy, model = results[0].scores, results[1].scores
    systems = [_system(result, noisy, test_set) for result in results]
    before = noisy.by_snr()
    return {
        "mixtures": len(test_set.labels),
        "minutes": float(test_set.seconds.sum()) / 60,
        "kind": test_set.kind,
        "failures": model.failures,
        "noisy": systems[0]["means"],
        "denoised": systems[1]["means"],
        "gain": systems[1]["gain"],
        "worse": systems[1]["worse"],
        "by_snr": [
            {"snr_db": snr_db, "clips": int((model.snr_db == snr_db).sum()), "noisy": before[snr_db], "denoised": means}
            for snr_db, means in model.by_snr().items()
        ],
        "systems": systems,
    }


def _system(result: Result, noisy: Scores, test_set: TestSet) -> dict[str, Any]:
    scores = result.scores
    row: dict[str, Any] = {
        "system": result.system,
        "failures": scores.failures,
        "means": scores.means(),
        "by_snr": [{"snr_db": snr_db, **means} for snr_db, means in scores.by_snr().items()],
    }
    if result.rtf is None or result.rtf_new is None:
        return row
    total = test_set.seconds.sum()
    return row | {
        "gain": {name: scores.gain_over(noisy, name) for name in scores.values},
        "worse": {name: scores.worse_than(noisy, name) for name in scores.values},
        "worse_at_highest_snr": scores.worse_at_highest_snr(noisy) if row["by_snr"] else None,
        "worst": {name: _worst(scores, noisy, name, test_set) for name in scores.values},
        "rtf": float(result.rtf @ test_set.seconds / total),
        "rtf_new": float(result.rtf_new @ test_set.seconds / total),
        "first_call_s": float(result.rtf_new[0] * test_set.seconds[0]),
    }


def _worst(scores: Scores, noisy: Scores, name: str, test_set: TestSet) -> dict[str, Any]:
    clip, gain = scores.worst_clip(noisy, name)
    return {"file": test_set.labels[clip], "gain": gain}
