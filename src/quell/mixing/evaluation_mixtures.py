"""Fixed mixtures of unseen speakers and unseen noise: what every trial is scored on.

A set is a pure function of the decoded split, the number of mixtures, the SNRs and the seed. It is built once and kept
beside the corpus, so all workers and all trials see the same samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from quell.atomic import replacing
from quell.audio import FloatArray
from quell.audio.alignment import measured_snr_db, snr_row
from quell.corpus.memory_map import Clip, Corpus, Split
from quell.corpus.splits import SPLITS
from quell.errors import CorpusError
from quell.metrics import intrusive
from quell.metrics.scorer import Scorer, Scores
from quell.progress import Progress

T = TypeVar("T")

# A mixture is a whole utterance, cut after this time so that one long recording does not dominate.
LONGEST_S = 8.0
# Rows of the table by SNR: this many values from the lowest to the highest.
SNR_VALUES = 6
# A mixture that cannot be scored is drawn again this often.
DRAWS = 4
# Lowest and highest row of the table by SNR of pairs, whose SNRs are as they were recorded.
SNR_ROWS = (-10.0, 30.0)
# Version of the sets. Raise it when the same corpus would give other mixtures.
RECIPE = 1


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


def evaluation_set(
    corpus: Corpus,
    split: str,
    count: int,
    snr_db: tuple[float, float],
    seed: int,
    scorer: Scorer,
    progress: Progress | None = None,
) -> EvaluationSet:
    """`count` mixtures of a split, or at most so many of its pairs, built at the first call and opened from the
    corpus's store after it.

    Speakers, noise categories and SNRs are taken in turn, each round in a new order, so that the first few mixtures
    are a fair sample of all and no SNR has speakers or noises of its own. A mixture that PESQ or STOI cannot score,
    because its speech is too short or too silent, is replaced.

    Raises:
        CorpusError: too little of the speech can be scored.
    """
    key = json.dumps([RECIPE, corpus.fingerprint, split, count, snr_db, seed])
    path = corpus.folder / f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        _save(_build(corpus, split, count, snr_db, seed, scorer, progress), path)
    return _load(path, corpus.sample_rate)


def score_denoiser(
    scorer: Scorer,
    denoise: Callable[[torch.Tensor], torch.Tensor],
    mixtures: EvaluationSet,
    names: tuple[str, ...] | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Metrics of `denoise`, which maps (1, T) to (1, T), over a set.

    What `progress` raises ends the scoring and comes through.

    Args:
        names: of the metrics; all that the sample rate has if omitted.
        device: that `denoise` computes on.
    """
    names = intrusive.available(mixtures.sample_rate) if names is None else names
    with torch.inference_mode():
        estimates = (
            denoise(torch.from_numpy(noisy)[None].to(device))[0].float().cpu().numpy() for noisy in mixtures.noisy
        )
        clips = scorer.score_clips(estimates, mixtures.clean, mixtures.sample_rate, names, progress)
    return Scores.of(clips, mixtures.snr_db)


class _Mixture(NamedTuple):
    noisy: FloatArray
    clean: FloatArray
    label: str


def _build(
    corpus: Corpus,
    split: str,
    count: int,
    snr_db: tuple[float, float],
    seed: int,
    scorer: Scorer,
    progress: Progress | None,
) -> EvaluationSet:
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    data, longest = corpus.splits[split], round(LONGEST_S * corpus.sample_rate)
    pairs = data.pairs()
    if pairs:
        count = min(count, len(pairs))
        draw = _cuts(data, pairs, longest, rng)
        levels = np.zeros(count)  # measured below
    else:
        draw, levels = _draws(data, count, snr_db, longest, rng)
    names = intrusive.available(corpus.sample_rate)
    mixtures: dict[int, _Mixture] = {}
    scores: dict[int, intrusive.ClipScore] = {}
    for _ in range(DRAWS):
        missing = [place for place in range(count) if place not in scores or scores[place].failed]
        if not missing:
            break
        for place in missing:
            mixtures[place] = draw(place)
        drawn = [mixtures[place] for place in missing]
        noisy, clean = [mixture.noisy for mixture in drawn], [mixture.clean for mixture in drawn]
        clips = scorer.score_clips(noisy, clean, corpus.sample_rate, names, progress)
        scores.update(zip(missing, clips, strict=True))
    failed = sum(1 for clip in scores.values() if clip.failed)
    if failed:
        found = f"{count - failed} of {count} mixtures can be scored by {', '.join(names)} after {DRAWS} draws"
        raise CorpusError(f"{split} split: {found}, expected all; use recordings of speech of at least 1 s")
    if pairs:
        measured = [measured_snr_db(mixtures[place].noisy, mixtures[place].clean) for place in range(count)]
        levels = snr_row(np.clip(measured, *SNR_ROWS))
    return EvaluationSet(
        corpus.sample_rate,
        [mixtures[place].noisy for place in range(count)],
        [mixtures[place].clean for place in range(count)],
        [mixtures[place].label for place in range(count)],
        levels,
        Scores.of([scores[place] for place in range(count)], levels),
    )


def _draws(
    data: Split, count: int, snr_db: tuple[float, float], longest: int, rng: np.random.Generator
) -> tuple[Callable[[int], _Mixture], NDArray[np.float64]]:
    """What draws a mixture for a place, and the SNRs of the places."""
    speech = _in_turn(data.of("clean"), lambda clip: clip.group, rng)
    noises = _in_turn(data.of("noise"), lambda clip: clip.category, rng)
    levels = _levels(snr_db, count, rng)
    return lambda place: _draw(data, next(speech), next(noises), float(levels[place]), longest, rng), levels


def _cuts(
    data: Split, pairs: list[tuple[Clip, Clip]], longest: int, rng: np.random.Generator
) -> Callable[[int], _Mixture]:
    """What takes the next pair, of each group in turn."""
    taken = _in_turn(pairs, lambda pair: pair[1].group, rng)
    return lambda place: _cut(data, *next(taken), longest)


def _draw(data: Split, spoken: Clip, sound: Clip, snr_db: float, longest: int, rng: np.random.Generator) -> _Mixture:
    target = data.waveform(spoken)[:longest]
    rolled = np.roll(data.waveform(sound), -int(rng.integers(sound.length)))
    if not rolled[: len(target)].any():  # a pause of digital silence has no SNR: begin where the sound comes back
        rolled = np.roll(rolled, -int(np.flatnonzero(rolled)[0]))
    noisy, clean = _mix(target, np.resize(rolled, len(target)), snr_db)  # resize repeats what is too short
    return _Mixture(noisy, clean, f"{spoken.path} + {sound.path}")


def _cut(data: Split, noisy: Clip, clean: Clip, longest: int) -> _Mixture:
    """A pair as it was recorded."""
    sides = (data.waveform(noisy)[:longest].astype(np.float64), data.waveform(clean)[:longest].astype(np.float64))
    return _Mixture(*_scaled(*sides), noisy.path)


def _scaled(noisy: NDArray[np.float64], clean: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    scale = 0.5 / max(float(np.abs(noisy).max()), float(np.abs(clean).max()), 1e-9)
    return (noisy * scale).astype(np.float32), (clean * scale).astype(np.float32)


def _mix(target: FloatArray, noise: FloatArray, snr_db: float) -> tuple[FloatArray, FloatArray]:
    """(noisy, clean), both scaled so that the louder peak is half of full scale.

    In double precision and without torch, whose sums depend on the number of threads: the set must not.
    """
    clean, added = target.astype(np.float64), noise.astype(np.float64)
    gain = float(np.sqrt(np.mean(clean**2) / max(float(np.mean(added**2)), 1e-16))) * 10 ** (-snr_db / 20)
    return _scaled(clean + gain * added, clean)


def _in_turn(clips: list[T], part: Callable[[T], str], rng: np.random.Generator) -> Iterator[T]:
    """Endless rounds of one clip of each part, each in a new order; a clip comes again when its part is used up."""
    parts: dict[str, list[T]] = {}
    for clip in clips:
        parts.setdefault(part(clip), []).append(clip)
    queues = {name: [parts[name][i] for i in rng.permutation(len(parts[name]))] for name in sorted(parts)}
    turn = 0
    while True:
        for name in rng.permutation(list(queues)):
            yield queues[name][turn % len(queues[name])]
        turn += 1


def _levels(snr_db: tuple[float, float], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rounds of all SNRs, each in a new order: with one order for all, ten categories of noise and six SNRs, half of
    the categories would never be heard at half of the SNRs."""
    values = np.linspace(*snr_db, SNR_VALUES)
    rounds = [rng.permutation(values) for _ in range(-(-count // SNR_VALUES))]
    return np.concatenate(rounds)[:count]


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
