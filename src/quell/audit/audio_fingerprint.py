"""Audio fingerprints: finds recordings of the same sound at another level or rate, shifted, cut or coded.

After Haitsma and Kalker 2002 ("A highly robust audio fingerprinting system", ISMIR): each frame has 32 bits, whether
the power of a band, less that of the next one, rose or fell since the previous frame. In two recordings of one sound
few bits differ over long runs of frames; in others half of them do.

Departures: frames of 0.26 s instead of 0.37 s, to find recordings of a few seconds; frames far below the loudest ones
are left out, since their bits are those of silence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quell.audio import FloatArray

SAMPLE_RATE = 5_000  # Hz
FRAME, HOP = 1_280, 64  # samples: 256 ms every 12.8 ms
BANDS_HZ = (300.0, 2_000.0)
BITS = 32
QUIET_DB = 50.0  # below the loudest frame: inaudible
# Most share of bits that differ, over at least SHORTEST_S of frames audible in both recordings. Over one second it is
# .5 +- .06 between different recordings, and below .15 in Ogg and MP3 copies of low quality.
DIFFERENT = 0.2
SHORTEST_S = 1.0
# A word of 32 bits in more frames than this carries no information: hum, silence.
COMMON = 200


class Fingerprint(NamedTuple):
    """The frames of a recording, shape (N,), with N = 0 below two frames."""

    words: NDArray[np.uint32]  # 32 bits of each
    audible: NDArray[np.bool_]


def fingerprint(waveform: FloatArray) -> Fingerprint:
    """The fingerprint of a waveform (T,) at SAMPLE_RATE."""
    if len(waveform) < FRAME + HOP:
        return Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.bool_))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    bounds = np.ceil(np.geomspace(*BANDS_HZ, BITS + 2) * FRAME / SAMPLE_RATE).astype(int)
    power = np.concatenate([_powers(frames[at : at + 1024] * window, bounds) for at in range(0, len(frames), 1024)])
    level = power.sum(axis=1)
    tilt = power[:, :-1] - power[:, 1:]
    words = np.packbits(np.diff(tilt, axis=0) > 0, axis=1).view(">u4")[:, 0].astype(np.uint32)
    return Fingerprint(words, level[1:] > level.max() * 10 ** (-QUIET_DB / 10))


def _powers(frames: FloatArray, bounds: NDArray[np.int_]) -> FloatArray:
    spectra = np.fft.rfft(frames, axis=1)
    power = spectra.real**2 + spectra.imag**2
    bands = [power[:, low : max(high, low + 1)].sum(axis=1) for low, high in pairwise(bounds)]
    return np.stack(bands, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Match:
    """Two recordings with a common sound, by their indices."""

    one: int
    other: int
    seconds: float  # that they share
    lag_s: float  # by which the sound is later in `other`
    different: float  # share of bits


def matches(recordings: Sequence[Fingerprint]) -> list[Match]:
    """All pairs of recordings that share at least SHORTEST_S of sound, the best alignment of each pair."""
    best: dict[tuple[int, int], Match] = {}
    for one, other, lag in _candidates(recordings):
        match = _compare(recordings, one, other, lag)
        if match is not None and ((one, other) not in best or match.seconds > best[one, other].seconds):
            best[one, other] = match
    return [best[pair] for pair in sorted(best)]


def _candidates(recordings: Sequence[Fingerprint]) -> Iterator[tuple[int, int, int]]:
    """(recording, other recording, lag in frames) for each audible word that two recordings have in common."""
    if not recordings:
        return
    words = np.concatenate([one.words for one in recordings])
    lengths = [len(one.words) for one in recordings]
    owner = np.repeat(np.arange(len(recordings)), lengths)
    starts = np.cumsum([0, *lengths])
    frames = np.flatnonzero(np.concatenate([one.audible for one in recordings]))
    frames = frames[np.argsort(words[frames], kind="stable")]
    _, first, size = np.unique(words[frames], return_index=True, return_counts=True)
    shared = (size > 1) & (size <= COMMON)
    seen: set[tuple[int, int, int]] = set()
    for begin, count in zip(first[shared], size[shared], strict=True):
        same_word = frames[begin : begin + count]
        for index, frame in enumerate(same_word[:-1]):
            rest = same_word[index + 1 :]
            for later in rest[owner[rest] != owner[frame]]:
                one, other = int(owner[frame]), int(owner[later])
                lag = int(later - starts[other]) - int(frame - starts[one])
                if (one, other, lag) not in seen:
                    seen.add((one, other, lag))
                    yield one, other, lag


def _compare(recordings: Sequence[Fingerprint], one: int, other: int, lag: int) -> Match | None:
    """The match of two recordings at a lag in frames; None if it is not the same sound."""
    first, second = recordings[one], recordings[other]
    begin, end = max(0, -lag), min(len(first.words), len(second.words) - lag)
    audible = first.audible[begin:end] & second.audible[begin + lag : end + lag]
    shared = int(audible.sum())
    if shared * HOP < SHORTEST_S * SAMPLE_RATE:
        return None
    differences = np.bitwise_count(first.words[begin:end] ^ second.words[begin + lag : end + lag])[audible]
    different = float(differences.mean()) / BITS
    if different > DIFFERENT:
        return None
    return Match(one, other, shared * HOP / SAMPLE_RATE, lag * HOP / SAMPLE_RATE, different)
