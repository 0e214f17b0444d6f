"""Which recordings are the same sound: at another level or rate, shifted, cut out, or from another codec.

Fingerprints after Haitsma and Kalker 2002 ("A highly robust audio fingerprinting system", ISMIR): for each frame 32
bits, whether the power of a band, less that of the next one, rose or fell since the frame before. Two recordings of one
sound have long runs of frames in which few bits differ; between others half of them do.

Departures: a quarter of a second a frame instead of 0.37 s, since recordings of some seconds shall be found; frames
that are far below the loudest ones are left out, since their bits are those of silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quell.audio import FloatArray

SAMPLE_RATE = 5_000  # Hz
FRAME, HOP = 1_280, 64  # samples: 256 ms every 12.8 ms
BANDS_HZ = (300.0, 2_000.0)
BITS = 32
QUIET_DB = 50.0  # below the loudest frame: not heard
# Share of bits that differ, at most, over at least so many frames that are heard on both sides. In other recordings
# that overlap by a second the share is .5 +- .06; in Ogg and MP3 copies of low quality it stays under .15.
DIFFERENT = 0.2
SHORTEST_S = 1.0
# A word of 32 bits that is heard in more places than this says nothing: hum, silence.
COMMON = 200

Marks = NDArray[np.uint32]


def marks(waveform: FloatArray) -> tuple[Marks, NDArray[np.bool_]]:
    """32 bits for each frame of a waveform (T,) at SAMPLE_RATE, and which frames can be heard.

    Both have shape (N,), N = 0 for what is shorter than two frames.
    """
    count = (len(waveform) - FRAME) // HOP + 1
    if count < 2:
        return np.zeros(0, np.uint32), np.zeros(0, np.bool_)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    edges = np.geomspace(*BANDS_HZ, BITS + 2) * FRAME / SAMPLE_RATE
    bounds = np.ceil(edges).astype(int)
    power = np.concatenate([_powers(frames[at : at + 1024] * window, bounds) for at in range(0, len(frames), 1024)])
    level = power.sum(axis=1)
    tilt = power[:, :-1] - power[:, 1:]
    rose = np.diff(tilt, axis=0) > 0
    words = np.packbits(rose, axis=1).view(">u4")[:, 0].astype(np.uint32)
    return words, level[1:] > level.max() * 10 ** (-QUIET_DB / 10)


def _powers(frames: FloatArray, bounds: NDArray[np.int_]) -> FloatArray:
    spectra = np.fft.rfft(frames, axis=1)
    power = spectra.real**2 + spectra.imag**2
    bands = [power[:, low : max(high, low + 1)].sum(axis=1) for low, high in pairwise(bounds)]
    return np.stack(bands, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Match:
    """Two recordings that hold the same sound, by their places in what was compared."""

    one: int
    other: int
    seconds: float  # that they share
    lag_s: float  # the sound comes so much later in `other`
    different: float  # share of bits


def matches(recordings: Sequence[tuple[Marks, NDArray[np.bool_]]]) -> list[Match]:
    """All pairs of recordings that share at least SHORTEST_S of sound, the best alignment of each pair."""
    words = np.concatenate([words for words, _ in recordings]) if recordings else np.zeros(0, np.uint32)
    heard = np.concatenate([heard for _, heard in recordings]) if recordings else np.zeros(0, np.bool_)
    lengths = [len(words) for words, _ in recordings]
    owner = np.repeat(np.arange(len(recordings)), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    best: dict[tuple[int, int], Match] = {}
    for one, other, lag in _candidates(words, heard, owner, starts):
        found = _compare(recordings[one], recordings[other], lag)
        if found is None:
            continue
        shared, different = found
        known = best.get((one, other))
        if known is None or shared * HOP / SAMPLE_RATE > known.seconds:
            best[one, other] = Match(one, other, shared * HOP / SAMPLE_RATE, lag * HOP / SAMPLE_RATE, different)
    return [best[pair] for pair in sorted(best)]


def _candidates(
    words: Marks, heard: NDArray[np.bool_], owner: NDArray[np.int_], starts: NDArray[np.int_]
) -> Iterator[tuple[int, int, int]]:
    """(recording, other recording, frames that the sound comes later there), wherever a word is heard in both."""
    places = np.flatnonzero(heard)
    places = places[np.argsort(words[places], kind="stable")]
    ordered = words[places]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.zeros(0, int)
    size = np.diff(np.concatenate([first, [len(ordered)]]))
    seen: set[tuple[int, int, int]] = set()
    for begin, count in zip(first[(size > 1) & (size <= COMMON)], size[(size > 1) & (size <= COMMON)], strict=True):
        among = places[begin : begin + count]
        for index, place in enumerate(among[:-1]):
            rest = among[index + 1 :]
            for later in rest[owner[rest] != owner[place]]:
                one, other = int(owner[place]), int(owner[later])
                lag = int(later - starts[other]) - int(place - starts[one])
                if (one, other, lag) not in seen:
                    seen.add((one, other, lag))
                    yield one, other, lag


def _compare(
    one: tuple[Marks, NDArray[np.bool_]], other: tuple[Marks, NDArray[np.bool_]], lag: int
) -> tuple[int, float] | None:
    """(frames heard on both sides, share of bits that differ) at a lag; None where it is not the same sound."""
    begin, end = max(0, -lag), min(len(one[0]), len(other[0]) - lag)
    both = one[1][begin:end] & other[1][begin + lag : end + lag]
    shared = int(both.sum())
    if shared * HOP < SHORTEST_S * SAMPLE_RATE:
        return None
    apart = np.bitwise_count(one[0][begin:end] ^ other[0][begin + lag : end + lag])[both]
    different = float(apart.mean()) / BITS
    return (shared, different) if different <= DIFFERENT else None
