"""Fixed mixtures that every trial is scored on, and the score.

The set is a pure function of the decoded split, the number of mixtures, the SNRs and the seed; it is built once and
kept beside the corpus, so all workers and all trials see the same samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quell import metrics
from quell.atomic import replacing
from quell.audio import FloatArray
from quell.corpus import Clip, Corpus
from quell.errors import CorpusError
from quell.processes import pool

# A mixture is a whole utterance, cut after this time so that one long recording does not dominate.
LONGEST_S = 8.0
# Rows of the table by SNR: this many values from the lowest to the highest, taken in turn.
SNR_VALUES = 6
# Version of the sets. Raise it when the same corpus would give other mixtures.
RECIPE = 1


@dataclass(frozen=True)
class Scores:
    """Metrics of every clip of a set, in its order."""

    values: dict[str, NDArray[np.float64]]
    snr_db: NDArray[np.float64]
    failures: int

    def mean(self, name: str) -> float:
        return float(self.values[name].mean())

    def means(self) -> dict[str, float]:
        return {name: self.mean(name) for name in self.values}

    def by_snr(self) -> dict[float, dict[str, float]]:
        """SNR in dB -> means of its clips, lowest SNR first."""
        rows = {}
        for snr_db in np.unique(self.snr_db):
            chosen = self.snr_db == snr_db
            rows[float(snr_db)] = {name: float(values[chosen].mean()) for name, values in self.values.items()}
        return rows

    def gain_over(self, other: Scores, name: str) -> tuple[float, float, float]:
        """Mean improvement over `other` on the same clips, with its 95 % interval: (mean, low, high).

        Paired bootstrap over clips, 2000 resamples, always the same ones.
        """
        gains = self.values[name] - other.values[name]
        draws = np.random.default_rng(0).integers(len(gains), size=(2000, len(gains)))
        low, high = np.quantile(gains[draws].mean(axis=1), [0.025, 0.975])
        return float(gains.mean()), float(low), float(high)

    def worse_than(self, other: Scores, name: str) -> float:
        """Share of clips that score lower than in `other`, 0 to 1."""
        return float((self.values[name] < other.values[name]).mean())


@dataclass(frozen=True)
class EvaluationSet:
    """Mixtures with their clean references, and how the mixtures themselves score."""

    sample_rate: int
    noisy: list[FloatArray]
    clean: list[FloatArray]
    labels: list[str]  # "speaker/utterance.flac + rain/1-2-A.ogg"
    snr_db: NDArray[np.float64]
    noisy_scores: Scores

    @cached_property
    def seconds(self) -> float:
        return sum(len(clip) for clip in self.clean) / self.sample_rate

    def first(self, count: int) -> EvaluationSet:
        """The set cut down to its first mixtures; every SNR is still there."""
        scores = Scores(
            {name: values[:count] for name, values in self.noisy_scores.values.items()},
            self.snr_db[:count],
            self.noisy_scores.failures,
        )
        lists = (self.noisy[:count], self.clean[:count], self.labels[:count])
        return EvaluationSet(self.sample_rate, *lists, self.snr_db[:count], scores)


class Scorer:
    """Computes metrics in processes of its own, which never import torch. Use it as a context, or `close` it.

    Args:
        processes: how many; they are started at the first clip.
    """

    def __init__(self, processes: int = 1) -> None:
        self._pool = pool(processes)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def score(
        self,
        denoise: Callable[[torch.Tensor], torch.Tensor],
        mixtures: EvaluationSet,
        names: tuple[str, ...] | None = None,
        device: torch.device | None = None,
    ) -> Scores:
        """Metrics of `denoise`, which maps (1, T) to (1, T), over a set; all available ones unless named."""
        names = metrics.available(mixtures.sample_rate) if names is None else names
        with torch.inference_mode():
            estimates = (
                denoise(torch.from_numpy(noisy)[None].to(device))[0].float().cpu().numpy() for noisy in mixtures.noisy
            )
            return self.score_waveforms(estimates, mixtures.clean, mixtures.snr_db, mixtures.sample_rate, names)

    def score_waveforms(
        self,
        estimates: Iterator[FloatArray],
        clean: list[FloatArray],
        snr_db: NDArray[np.float64],
        sample_rate: int,
        names: tuple[str, ...],
    ) -> Scores:
        """Metrics of waveforms against their references; clips are scored while the next are being made."""
        pending = [
            self._pool.submit(metrics.score_clip, estimate, target, sample_rate, names)
            for estimate, target in zip(estimates, clean, strict=True)
        ]
        done = [future.result() for future in pending]
        values = {name: np.array([clip.values[name] for clip in done]) for name in names}
        return Scores(values, snr_db, sum(len(clip.failed) for clip in done))


def evaluation_set(
    corpus: Corpus, split: str, count: int, snr_db: tuple[float, float], seed: int, scorer: Scorer
) -> EvaluationSet:
    """`count` mixtures of a split, built at the first call and opened from the corpus's store after it.

    Speakers, noise categories and SNRs are taken in turn, so that the first few mixtures are a fair sample of all. A
    mixture whose clean speech PESQ or STOI cannot score is replaced by the next.

    Raises:
        CorpusError: too little of the speech can be scored.
    """
    key = json.dumps([RECIPE, corpus.fingerprint, split, count, snr_db, seed])
    path = corpus.folder / f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        _save(_build(corpus, split, count, snr_db, seed, scorer), path)
    return _load(path, corpus.sample_rate)


def _build(
    corpus: Corpus, split: str, count: int, snr_db: tuple[float, float], seed: int, scorer: Scorer
) -> EvaluationSet:
    rng = np.random.default_rng([seed, ("train", "validation", "test").index(split)])
    data = corpus.splits[split]
    speech = _in_turn(data.of("clean"), lambda clip: clip.group, rng)
    noises = _in_turn(data.of("noise"), lambda clip: clip.category, rng)
    levels = np.linspace(*snr_db, SNR_VALUES)
    longest = round(LONGEST_S * corpus.sample_rate)
    names = metrics.available(corpus.sample_rate)
    needed = tuple(name for name in names if name in ("pesq", "stoi"))
    noisy: list[FloatArray] = []
    clean: list[FloatArray] = []
    labels: list[str] = []
    for _ in range(4 * count):
        if len(noisy) == count:
            break
        spoken, sound = next(speech), next(noises)
        target = data.waveform(spoken)[:longest]
        level_db = float(levels[len(noisy) % SNR_VALUES])
        start = int(rng.integers(sound.length))
        rolled = np.roll(data.waveform(sound), -start)
        if not rolled[: len(target)].any():  # a pause of digital silence has no SNR: begin where the sound comes back
            rolled = np.roll(rolled, -int(np.flatnonzero(rolled)[0]))
        noise = np.resize(rolled, len(target))  # repeats where it is too short
        mixture, target = _mix(target, noise, level_db)
        if metrics.score_clip(target, target, corpus.sample_rate, needed).failed:
            continue
        noisy.append(mixture)
        clean.append(target)
        labels.append(f"{spoken.path} + {sound.path}")
    if len(noisy) < count:
        raise CorpusError(
            f"{split} split: {len(noisy)} of {4 * count} utterances can be scored by {', '.join(needed)}, "
            f"expected {count}; use recordings of speech of at least 1 s"
        )
    order = np.array([levels[i % SNR_VALUES] for i in range(count)])
    scores = scorer.score_waveforms(iter(noisy), clean, order, corpus.sample_rate, names)
    return EvaluationSet(corpus.sample_rate, noisy, clean, labels, order, scores)


def _mix(target: FloatArray, noise: FloatArray, snr_db: float) -> tuple[FloatArray, FloatArray]:
    """(noisy, clean), both scaled so that the louder peak is half of full scale.

    In double precision and without torch, whose sums depend on the number of threads: the set must not.
    """
    clean, added = target.astype(np.float64), noise.astype(np.float64)
    gain = float(np.sqrt(np.mean(clean**2) / max(float(np.mean(added**2)), 1e-16))) * 10 ** (-snr_db / 20)
    noisy = clean + gain * added
    scale = 0.5 / max(float(np.abs(noisy).max()), float(np.abs(clean).max()), 1e-9)
    return (noisy * scale).astype(np.float32), (clean * scale).astype(np.float32)


def _in_turn(clips: list[Clip], part: Callable[[Clip], str], rng: np.random.Generator) -> Iterator[Clip]:
    """Endless shuffled clips, one of each part after the other; a clip comes again when its part is used up."""
    parts: dict[str, list[Clip]] = {}
    for clip in clips:
        parts.setdefault(part(clip), []).append(clip)
    names = list(rng.permutation(sorted(parts)))
    queues = {name: [parts[name][i] for i in rng.permutation(len(parts[name]))] for name in names}
    turn = 0
    while True:
        for name in names:
            yield queues[name][turn % len(queues[name])]
        turn += 1


def _save(mixtures: EvaluationSet, path: Path) -> None:
    arrays: dict[str, Any] = {
        "noisy": np.concatenate(mixtures.noisy),
        "clean": np.concatenate(mixtures.clean),
        "lengths": np.array([len(clip) for clip in mixtures.clean]),
        "labels": np.array(mixtures.labels),
        "snr_db": mixtures.snr_db,
        "failures": np.array(mixtures.noisy_scores.failures),
    }
    arrays |= {f"noisy_{name}": values for name, values in mixtures.noisy_scores.values.items()}
    with replacing(path) as partial:
        np.savez(partial, **arrays)


def _load(path: Path, sample_rate: int) -> EvaluationSet:
    with np.load(path) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        noisy_scores = Scores(
            {key.removeprefix("noisy_"): stored[key] for key in stored.files if key.startswith("noisy_")},
            stored["snr_db"],
            int(stored["failures"]),
        )
        return EvaluationSet(
            sample_rate,
            np.split(stored["noisy"], ends),
            np.split(stored["clean"], ends),
            [str(label) for label in stored["labels"]],
            stored["snr_db"],
            noisy_scores,
        )
