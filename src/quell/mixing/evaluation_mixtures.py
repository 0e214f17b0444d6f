"""Fixed validation and test mixtures of unseen speakers and noises, and scoring a denoiser on them.

A set is a pure function of the decoded split, the number of mixtures, the SNRs, the seed and the recipe. It is built
once and stored beside the corpus, so all workers and all trials are scored on the same samples.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from quell import check_sums
from quell.atomic import replacing
from quell.audio import FloatArray
from quell.audio.alignment import measured_snr_db, snr_row
from quell.corpus.memory_map import Clip, Corpus, Split
from quell.corpus.splits import SPLITS
from quell.errors import CorpusError
from quell.metrics import intrusive
from quell.metrics.scorer import Scorer, Scores
from quell.mixing.excerpts import LONGEST_S, excerpt_starts
from quell.mixing.recipe import recipe_of_scores
from quell.progress import Progress, ignore

T = TypeVar("T")

log = logging.getLogger("quell")

# Rows of the table by SNR: this many values from the lowest to the highest.
SNR_VALUES = 6
# A mixture that cannot be scored is drawn again this often.
DRAWS = 4
# Lowest and highest row of the table by SNR of pairs, whose SNRs are as they were recorded.
SNR_ROWS = (-10.0, 30.0)


@dataclass(frozen=True)
class EvaluationSet:
    """Mixtures with their clean references, and how the mixtures themselves score."""

    sample_rate: int
    noisy: list[FloatArray]
    clean: list[FloatArray]
    labels: list[str]  # "speaker/utterance.flac + rain/1-2-A.ogg"
    snr_db: NDArray[np.float64]
    noisy_scores: Scores

    def first(self, count: int) -> Self:
        """The first mixtures of the set. SNRs, speakers and noises are taken in turn, so they are a fair sample."""
        return replace(
            self,
            noisy=self.noisy[:count],
            clean=self.clean[:count],
            labels=self.labels[:count],
            snr_db=self.snr_db[:count],
            noisy_scores=self.noisy_scores.of_clips(slice(count)),
        )


def evaluation_set(
    corpus: Corpus,
    split: str,
    count: int,
    snr_db: tuple[float, float],
    seed: int,
    scorer: Scorer,
    progress: Progress = ignore,
) -> EvaluationSet:
    """`count` mixtures of a split, or at most that many of its pairs; built once, then loaded from the corpus's store.
    A damaged file is built again.

    Speakers, noise categories and SNRs are taken in turn, each round in a new order, so that the first few mixtures
    are a fair sample of all, and no SNR has speakers or noises of its own. A mixture that PESQ or STOI cannot score
    because its speech is too short or too quiet is drawn again; CorpusError if that happens DRAWS times.
    """
    recipe = recipe_of_scores(corpus.splits[split], corpus.sample_rate)
    key = json.dumps([recipe, corpus.fingerprint, split, count, snr_db, seed])
    path = corpus.folder / f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not path.exists() or not check_sums.is_intact(path):
        if path.exists():
            log.warning("%s: damaged; its mixtures are made again", path)
        _save(_build(corpus, split, count, snr_db, seed, scorer, progress), path)
    return _load(path, corpus.sample_rate)


def score_denoiser(
    scorer: Scorer,
    denoise: Callable[[torch.Tensor], torch.Tensor],
    mixtures: EvaluationSet,
    names: tuple[str, ...] | None = None,
    device: torch.device | None = None,
    progress: Progress = ignore,
) -> Scores:
    """Metrics of `denoise`, which maps (1, T) to (1, T), over a set; as `Scorer.run`.

    Args:
        names: metrics; if omitted, all that are defined at the sample rate.
        device: on which `denoise` computes.
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
    progress: Progress,
) -> EvaluationSet:
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    data, longest = corpus.splits[split], round(LONGEST_S * corpus.sample_rate)
    pairs = data.pairs()
    if pairs:
        count = min(count, len(pairs))
        draw = _cuts(data, pairs, _Excerpts(data, longest, corpus.sample_rate, rng), rng)
    else:
        draw, levels = _draws(data, count, snr_db, _Excerpts(data, longest, corpus.sample_rate, rng), rng)
    names = intrusive.available(corpus.sample_rate)
    mixtures: dict[int, _Mixture] = {}
    scores: dict[int, intrusive.ClipScore] = {}
    missing = list(range(count))
    for _ in range(DRAWS):
        mixtures |= {index: draw(index) for index in missing}
        noisy, clean = [mixtures[index].noisy for index in missing], [mixtures[index].clean for index in missing]
        scores |= zip(missing, scorer.score_clips(noisy, clean, corpus.sample_rate, names, progress), strict=True)
        missing = [index for index in missing if scores[index].failed]
        if not missing:
            break
    if missing:
        found = f"{count - len(missing)} of {count} mixtures can be scored by {', '.join(names)} after {DRAWS} draws"
        raise CorpusError(f"{split} split: {found}, expected all; use recordings of speech of at least 1 s")
    noisy, clean, labels = map(list, zip(*(mixtures[index] for index in range(count)), strict=True))
    if pairs:
        measured = [measured_snr_db(*sides) for sides in zip(noisy, clean, strict=True)]
        levels = snr_row(np.clip(measured, *SNR_ROWS))
    clips = [scores[index] for index in range(count)]
    return EvaluationSet(corpus.sample_rate, noisy, clean, labels, levels, Scores.of(clips, levels))


class _Excerpts:
    """Chooses which part of a recording is used: all of it, or one of the excerpts with speech, each time another."""

    def __init__(self, data: Split, longest: int, sample_rate: int, rng: np.random.Generator) -> None:
        self._data, self._longest, self._sample_rate, self._rng = data, longest, sample_rate, rng
        self._starts: dict[Clip, list[int]] = {}  # that are left, of long recordings

    def of(self, clip: Clip) -> slice:
        if clip.length <= self._longest:
            return slice(0, clip.length)
        if not self._starts.get(clip):
            starts = excerpt_starts(self._data.stored(clip), self._longest, self._sample_rate)
            # The generator is not asked where there is no choice: sets of utterances stay what they were.
            self._starts[clip] = (self._rng.permutation(starts) if len(starts) > 1 else starts).tolist()
        start = self._starts[clip].pop()
        return slice(start, start + self._longest)


def _draws(
    data: Split, count: int, snr_db: tuple[float, float], excerpts: _Excerpts, rng: np.random.Generator
) -> tuple[Callable[[int], _Mixture], NDArray[np.float64]]:
    """A function that draws the mixture of an index, and the SNRs of all indices."""
    speech = _in_turn(data.of("clean"), lambda clip: clip.group, rng)
    noises = _in_turn(data.of("noise"), lambda clip: clip.category, rng)
    levels = _levels(snr_db, count, rng)

    def draw(index: int) -> _Mixture:
        clip, noise = next(speech), next(noises)
        target = data.waveform(clip, excerpts.of(clip))
        rolled = np.roll(data.waveform(noise), -int(rng.integers(noise.length)))
        if not rolled[: len(target)].any():  # digital silence has no SNR: begin at the next sample that is not 0
            rolled = np.roll(rolled, -int(np.flatnonzero(rolled)[0]))
        added = np.resize(rolled, len(target))  # repeats noise that is too short
        return _Mixture(*_mix(target, added, float(levels[index])), f"{clip.path} + {noise.path}")

    return draw, levels


def _cuts(
    data: Split, pairs: list[tuple[Clip, Clip]], excerpts: _Excerpts, rng: np.random.Generator
) -> Callable[[int], _Mixture]:
    """A function that cuts the next pair, at its recorded SNR, the groups in turn."""
    turns = _in_turn(pairs, lambda pair: pair[1].group, rng)

    def cut(_: int) -> _Mixture:
        noisy, clean = next(turns)
        part = excerpts.of(clean)
        sides = (data.waveform(clip, part).astype(np.float64) for clip in (noisy, clean))
        return _Mixture(*_scaled(*sides), noisy.path)

    return cut


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
    """Endless rounds of one clip of each part, each round in a new order; a part that is used up begins again."""
    parts: dict[str, list[T]] = {}
    for clip in clips:
        parts.setdefault(part(clip), []).append(clip)
    queues = {name: [parts[name][i] for i in rng.permutation(len(parts[name]))] for name in sorted(parts)}
    for turn in itertools.count():
        for name in rng.permutation(list(queues)):
            yield queues[name][turn % len(queues[name])]


def _levels(snr_db: tuple[float, float], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rounds of all SNRs, each in a new order: with the same order in each round, ten categories of noise and six SNRs,
    half of the categories would never be mixed at half of the SNRs."""
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
        check_sums.seal(partial)


def _load(path: Path, sample_rate: int) -> EvaluationSet:
    with np.load(path) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        values = {key.removeprefix("noisy_"): stored[key] for key in stored.files if key.startswith("noisy_")}
        return EvaluationSet(
            sample_rate,
            np.split(stored["noisy"], ends),
            np.split(stored["clean"], ends),
            stored["labels"].tolist(),
            stored["snr_db"],
            Scores(values, stored["snr_db"], int(stored["failures"])),
        )
