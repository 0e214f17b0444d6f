"""Metrics of many clips, computed in processes; their means, by SNR, and gains with confidence intervals."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quell.audio import FloatArray
from quell.child_processes.child_pool import ChildPool
from quell.metrics import intrusive
from quell.progress import Progress, ignore

ScoringJob = Callable[[], intrusive.ClipScore]  # sent to another process: a function of a module with its arguments
AHEAD = 64  # most clips that wait in memory
RESAMPLES = 2_000  # of the bootstrap


@dataclass(frozen=True)
class Scores:
    """Metrics of all clips of a set, in its order."""

    values: dict[str, NDArray[np.float64]]  # metric -> its value for each clip, (N,)
    snr_db: NDArray[np.float64]  # of each clip, (N,)
    failures: int  # values that could not be computed and are the metric's worst

    @classmethod
    def of(cls, clips: list[intrusive.ClipScore], snr_db: NDArray[np.float64]) -> Self:
        values = {name: np.array([clip.values[name] for clip in clips]) for name in clips[0].values}
        return cls(values, snr_db, sum(len(clip.failed) for clip in clips))

    def of_clips(self, chosen: NDArray[np.bool_] | slice) -> Self:
        """The scores of some clips, (N,) boolean; their failures count as 0."""
        values = {name: values[chosen] for name, values in self.values.items()}
        return replace(self, values=values, snr_db=self.snr_db[chosen], failures=0)

    def mean(self, name: str) -> float:
        return float(self.values[name].mean())

    def means(self) -> dict[str, float]:
        return {name: self.mean(name) for name in self.values}

    def by_snr(self) -> dict[float, dict[str, float]]:
        """SNR in dB -> means of its clips, lowest SNR first; without clips of unknown SNR, NaN."""
        rows = np.unique(self.snr_db[np.isfinite(self.snr_db)])
        return {float(snr_db): self.of_clips(self.snr_db == snr_db).means() for snr_db in rows}

    def gain_over(self, other: Self, name: str) -> tuple[float, float, float]:
        """Mean improvement over `other` on the same clips, with its 95 % interval: (mean, low, high)."""
        return paired_interval(self.values[name] - other.values[name])

    def worse_than(self, other: Self, name: str) -> float:
        """Share of clips that score lower than in `other`, 0 to 1."""
        return float((self.values[name] < other.values[name]).mean())

    def worse_at_highest_snr(self, other: Self) -> dict[str, float]:
        """`worse_than` for every metric, over the clips with the least noise only: there is most to lose."""
        top = self.snr_db == self.snr_db.max()
        mine, theirs = self.of_clips(top), other.of_clips(top)
        return {name: mine.worse_than(theirs, name) for name in mine.values}

    def worst_clip(self, other: Self, name: str) -> tuple[int, float]:
        """The clip that loses most against `other`, or gains least: (its index, its gain)."""
        gains = self.values[name] - other.values[name]
        index = int(gains.argmin())
        return index, float(gains[index])


def paired_interval(gains: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of the gains (N,) of at least one clip, with its 95 % interval: (mean, low, high).

    Paired bootstrap over clips, RESAMPLES times, always with the same draws.
    """
    draws = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.quantile(gains[draws].mean(axis=1), [0.025, 0.975])
    return float(gains.mean()), float(low), float(high)


class Scorer:
    """Computes metrics in processes that start at the first clip and never import torch. Use it as a context."""

    def __init__(self, processes: int = 1) -> None:
        # One thread each: sums of BLAS differ in the last digit with their number.
        self._children = ChildPool(processes, one_thread=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def score_clips(
        self,
        estimates: Iterable[FloatArray],
        clean: list[FloatArray],
        sample_rate: int,
        names: tuple[str, ...],
        progress: Progress = ignore,
    ) -> list[intrusive.ClipScore]:
        """Metrics of waveforms against their references, as `run`; meanwhile the iterator computes the next clips."""
        jobs = (
            partial(intrusive.score_clip, estimate, target, sample_rate, names)
            for estimate, target in zip(estimates, clean, strict=True)
        )
        return self.run(jobs, len(clean), progress)

    def run(self, jobs: Iterable[ScoringJob], count: int, progress: Progress = ignore) -> list[intrusive.ClipScore]:
        """The results of `count` jobs in their order; at most AHEAD jobs are taken before they can run.

        Exceptions of `progress` end the scoring and propagate.
        """
        pending: list[Future[intrusive.ClipScore]] = []
        try:
            for number, job in enumerate(jobs, 1):
                pending.append(self._children.submit(f"scoring clip {number} of {count}", job))
                progress(sum(future.done() for future in pending), count)
                while len(waiting := [future for future in pending if not future.done()]) > AHEAD:
                    wait(waiting, return_when=FIRST_COMPLETED)
            for _ in as_completed(pending):
                progress(sum(future.done() for future in pending), count)
        except BaseException:
            for future in pending:  # the pool stays for other callers
                future.cancel()
            raise
        return [future.result() for future in pending]
