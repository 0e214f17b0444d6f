"""Where in a recording there is speech, by its level: for long recordings, most of which may be pauses."""

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
LOUD_FRAMES, LOUD_SHARE = 25, 0.05  # half a second of loud frames is speech, however long the recording; of a short one
SOFT = 0.1  # quantile of the frames' powers: the room
BELOW_LOUD_DB = 25.0  # frames further below hold no speech
ABOVE_SOFT_DB = 10.0  # nor do those so close to the room, unless they are within
NEAR_LOUD_DB = 10.0  # of the loudest
BLOCK = 1 << 14  # frames


def frame_powers(samples: NDArray[np.integer] | NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """Power of each whole frame of FRAME_S without its mean, of samples (T,); memory holds one block as floats."""
    frame = round(FRAME_S * sample_rate)
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    blocks = [frames[start : start + BLOCK].var(axis=1, dtype=np.float64) for start in range(0, len(frames), BLOCK)]
    return np.concatenate([*blocks, np.zeros(0)])


def has_speech(powers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which frames hold speech, by their powers; none of digital silence."""
    sounding = powers[powers > 0]
    if not len(sounding):
        return np.zeros(len(powers), bool)
    soft = np.quantile(sounding, SOFT)
    loudest = max(1, min(LOUD_FRAMES, round(LOUD_SHARE * len(sounding))))
    loud = np.partition(sounding, -loudest)[-loudest]
    above_room = min(soft * 10 ** (ABOVE_SOFT_DB / 10), loud * 10 ** (-NEAR_LOUD_DB / 10))
    active: NDArray[np.bool_] = powers >= max(loud * 10 ** (-BELOW_LOUD_DB / 10), above_room)
    return active


def stretches(active: NDArray[np.bool_], pause: int, margin: int) -> list[tuple[int, int]]:
    """Where speech begins and ends, in frames, without the pauses longer than `pause`, also at the ends.

    `margin` frames of such a pause are kept beside the speech.
    """
    frames = np.concatenate([[-1], np.flatnonzero(active), [len(active)]])  # speech, and both ends
    breaks = np.flatnonzero(np.diff(frames) > pause + 1)
    begins = np.concatenate([[0], frames[breaks + 1] - margin])
    ends = np.concatenate([frames[breaks] + 1 + margin, [len(active)]])
    kept = np.stack([begins, ends], axis=1)
    if len(breaks) and breaks[0] == 0:  # a pause at the beginning
        kept = kept[1:]
    if len(breaks) and breaks[-1] == len(frames) - 2:
        kept = kept[:-1]
    return [(int(begin), int(end)) for begin, end in kept]
