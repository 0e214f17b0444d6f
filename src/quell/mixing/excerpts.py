"""Excerpts of long recordings in which there is speech: to train and to score on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quell.audio.activity import FRAME_S, frame_powers, has_speech, stretches
from quell.corpus.memory_map import Clip, Split

# A mixture to score on is a whole utterance, or so much of a longer recording, which would dominate.
LONGEST_S = 8.0
LONG_S = 30.0  # recordings beyond are sessions, with pauses; shorter ones are utterances
PAUSE_S = 3.0  # longer pauses of sessions are not drawn in training: their room would be learnt as speech,
MARGIN_S = 1.0  # but for this much at either end of the speech
STEP_S = 0.5  # between two excerpts to choose from
LEAST = 0.5  # of the most speech that an excerpt of the recording has


def speech_only(split: Split, clips: Sequence[Clip], sample_rate: int) -> list[tuple[int, Clip]]:
    """Clips without pauses of more than PAUSE_S, as clips of what lies between, each with the number of its clip.

    Clips of at most LONG_S, and those without such pauses, stay as they are.
    """
    found = []
    frame = round(FRAME_S * sample_rate)
    for number, clip in enumerate(clips):
        parts: list[tuple[int, int]] = []
        if clip.length > LONG_S * sample_rate:
            active = has_speech(frame_powers(split.stored(clip), sample_rate))
            parts = stretches(active, round(PAUSE_S / FRAME_S), round(MARGIN_S / FRAME_S))
            if parts == [(0, len(active))]:
                parts = []
        for begin, end in parts:
            found.append((number, replace(clip, offset=clip.offset + begin * frame, length=(end - begin) * frame)))
        if not parts:
            found.append((number, clip))
    return found


def excerpt_starts(samples: NDArray[np.int16], length: int, sample_rate: int) -> NDArray[np.int64]:
    """Where excerpts of `length` samples may begin: those with at least half as much speech as the one that has most.

    0 alone for a recording that is no longer, and for one of at most LONG_S that begins with speech.
    """
    if len(samples) <= length:
        return np.zeros(1, np.int64)
    frame, step = round(FRAME_S * sample_rate), round(STEP_S * sample_rate)
    spoken = np.concatenate([[0], np.cumsum(has_speech(frame_powers(samples, sample_rate)))])
    starts = np.arange(0, len(samples) - length + 1, step)
    amount = spoken[np.minimum((starts + length) // frame, len(spoken) - 1)] - spoken[starts // frame]
    enough = amount >= LEAST * amount.max()
    return starts[:1] if enough[0] and len(samples) <= LONG_S * sample_rate else starts[enough]
