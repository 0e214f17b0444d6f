"""Test sets: mixtures of a study, pairs of recordings, and recordings without a clean version."""

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quell import audio
from quell.audio import FloatArray
from quell.audio.alignment import measured_snr_db, snr_row
from quell.errors import CorpusError
from quell.metrics import dnsmos, intrusive
from quell.metrics.scorer import Scores, ScoringJob
from quell.mixing.evaluation_mixtures import EvaluationSet
from quell.progress import Progress


class TestSet(ABC):
    """Clips to denoise and score, by index."""

    __test__ = False  # not a class of tests, for pytest
    kind: ClassVar[str]  # "mixtures", "pairs" or "recordings", as in JSON
    names: tuple[str, ...]  # of metrics
    labels: list[str]  # of the clips
    seconds: NDArray[np.float64]  # of audio in each clip
    snr_db: NDArray[np.float64]  # of each clip; NaN without a clean version
    rows: NDArray[np.float64]  # SNR of the table's row in which each clip counts
    noisy_scores: Scores | None = None  # of the noisy clips, where they are known in advance

    @abstractmethod
    def recording(self, clip: int) -> tuple[FloatArray, int]:
        """Noisy samples (T, C) and their rate in Hz."""

    @abstractmethod
    def job(self, clip: int, estimate: FloatArray) -> ScoringJob:
        """The job that computes the metrics of an estimate (T, C) at the recording's rate."""


class MixtureSet(TestSet):
    """Test mixtures of a study, at known SNRs."""

    kind = "mixtures"

    def __init__(self, mixtures: EvaluationSet) -> None:
        self._set = mixtures
        self.names = tuple(mixtures.noisy_scores.values)
        self.labels = mixtures.labels
        self.seconds = np.array([len(clip) for clip in mixtures.clean]) / mixtures.sample_rate
        self.snr_db = self.rows = mixtures.snr_db
        self.noisy_scores = mixtures.noisy_scores

    def recording(self, clip: int) -> tuple[FloatArray, int]:
        return self._set.noisy[clip][:, None], self._set.sample_rate

    def job(self, clip: int, estimate: FloatArray) -> ScoringJob:
        clean, rate = self._set.clean[clip], self._set.sample_rate
        return partial(intrusive.score_clip, estimate.mean(axis=1), clean, rate, self.names)


class Pair(NamedTuple):
    """A noisy recording and, where there is one, its clean version."""

    label: str  # the noisy file's path inside its folder
    noisy: Path
    clean: Path | None
    sample_rate: int  # Hz, of both
    seconds: float


class UnpairedSet(TestSet):
    """Recordings without a clean version, scored by DNSMOS."""

    kind = "recordings"
    names = dnsmos.NAMES

    def __init__(self, pairs: list[Pair], progress: Progress) -> None:
        self._pairs = pairs
        self.labels = [pair.label for pair in pairs]
        self.seconds = np.array([pair.seconds for pair in pairs])
        levels = []
        for done, pair in enumerate(pairs, 1):
            levels.append(self._snr_db(pair))
            progress(done, len(pairs))
        self.snr_db = np.array(levels)
        self.rows = snr_row(self.snr_db)

    def _snr_db(self, pair: Pair) -> float:
        audio.read(pair.noisy)  # raises for a damaged file before anything is denoised
        return np.nan

    def recording(self, clip: int) -> tuple[FloatArray, int]:
        samples, stored = audio.read(self._pairs[clip].noisy)
        return samples, stored.sample_rate

    def job(self, clip: int, estimate: FloatArray) -> ScoringJob:
        rate = self._pairs[clip].sample_rate
        (waveform,) = audio.mono(estimate, sample_rate=rate)
        return partial(dnsmos.score_clip, audio.resample(waveform, rate, dnsmos.SAMPLE_RATE))


class PairedSet(UnpairedSet):
    """Recordings with their clean versions, scored as the mean of their channels at 16 kHz, or 8 kHz if all are.

    Raises:
        AudioError: a recording is damaged.
        CorpusError: some recordings but not all are at 8 kHz, a clean recording is silent, or lengths differ.
    """

    kind = "pairs"

    def __init__(self, pairs: list[Pair], progress: Progress) -> None:
        narrow = [pair for pair in pairs if pair.sample_rate == 8_000]
        if narrow and len(narrow) < len(pairs):
            raise CorpusError(
                f"{narrow[0].noisy}: sampled at 8000 Hz and others are not, expected either; PESQ of narrow and wide "
                "band are two scales, evaluate them apart"
            )
        self._rate = 8_000 if narrow else 16_000
        self.names = intrusive.available(self._rate)
        super().__init__(pairs, progress)

    def _snr_db(self, pair: Pair) -> float:
        assert pair.clean is not None
        signals = (audio.read(path)[0] for path in (pair.noisy, pair.clean))
        noisy, clean = audio.mono(*signals, sample_rate=pair.sample_rate)
        _refuse_length(pair.noisy, len(noisy), pair.clean, len(clean))  # headers of MP3 files may be wrong
        if not clean.any():
            raise CorpusError(f"{pair.clean}: silence, expected speech; remove it and its noisy partner")
        return measured_snr_db(noisy, clean)

    def job(self, clip: int, estimate: FloatArray) -> ScoringJob:
        pair = self._pairs[clip]
        assert pair.clean is not None
        waveforms = audio.mono(estimate, audio.read(pair.clean)[0], sample_rate=pair.sample_rate)
        estimate, target = (audio.resample(one, pair.sample_rate, self._rate) for one in waveforms)
        return partial(intrusive.score_clip, estimate, target, self._rate, self.names)


def pair_up(noisy: Path, clean: Path | None) -> list[Pair]:
    """The recordings of a folder, each with its clean version, which has the same path but for the suffix.

    Reads headers only.

    Raises:
        AudioError: a file cannot be read.
        CorpusError: a folder has no recordings, a recording has no partner, or one of another length or rate.
    """
    recordings = _by_stem(noisy)
    partners: dict[str, Path | None] = dict.fromkeys(recordings)
    if clean is not None:
        references = _by_stem(clean)
        _refuse_unpaired(recordings, references, clean, "clean")
        _refuse_unpaired(references, recordings, noisy, "noisy")
        partners |= references
    return [_pair(path, partners[name], str(path.relative_to(noisy))) for name, path in recordings.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Recordings by their path without suffix."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder, expected recordings; check the path")
    paths: dict[str, Path] = {}
    for path in audio.find(folder):
        name = str(path.relative_to(folder).with_suffix(""))
        if name in paths:
            raise CorpusError(f"{path}: same name as {paths[name].name}, expected one recording each; remove one")
        paths[name] = path
    if not paths:
        raise CorpusError(f"{folder}: no sound files, expected recordings; check the path")
    return paths


def _refuse_unpaired(paths: dict[str, Path], partners: dict[str, Path], folder: Path, kind: str) -> None:
    names = [name for name in paths if name not in partners]
    if names:
        more = f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""
        needed = f"expected {folder / names[0]}.*; add it or remove this one"
        raise CorpusError(f"{paths[names[0]]}: no {kind} partner{more}, {needed}")


def _pair(noisy: Path, clean: Path | None, label: str) -> Pair:
    recording = audio.AudioFile(noisy)
    rate, frames = recording.stored.sample_rate, recording.frames
    if clean is not None:
        reference = audio.AudioFile(clean)
        theirs = reference.stored.sample_rate
        if rate != theirs:
            raise CorpusError(f"{noisy}: sampled at {rate} Hz, expected {theirs} Hz as {clean}; resample one of them")
        _refuse_length(noisy, frames, clean, reference.frames)
    return Pair(label, noisy, clean, rate, frames / rate)


def _refuse_length(noisy: Path, frames: int, clean: Path, needed: int) -> None:
    """Raises CorpusError when two recordings differ in length."""
    if frames != needed:
        raise CorpusError(f"{noisy}: {frames} samples, expected {needed} as {clean}; cut them alike")
