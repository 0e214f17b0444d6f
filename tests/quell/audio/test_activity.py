"""Speech is found in a recording by its level, whatever the share and the level of the pauses."""

import numpy as np
import pytest

from quell.audio.activity import FRAME_S, frame_powers, has_speech, stretches

RATE = 8_000
FRAME = round(FRAME_S * RATE)


def session(pauses_s, speech_s, room_db, seed=0):
    """Pauses and speech in turn, and where speech is: the room is room_db below the speech."""
    rng = np.random.default_rng(seed)
    parts, spoken = [], []
    for pause, speech in zip(pauses_s, speech_s, strict=True):
        for length, loud in ((pause, False), (speech, True)):
            count = round(length * RATE)
            parts.append((0.1 if loud else 0.1 * 10 ** (room_db / 20)) * rng.standard_normal(count))
            spoken.append(np.full(count // FRAME, loud))
    return np.concatenate(parts), np.concatenate(spoken)


@pytest.mark.parametrize("room_db", [-70, -40, -20])
@pytest.mark.parametrize(("pauses_s", "speech_s"), [((10, 20), (2, 3)), ((0, 1), (10, 10)), ((100, 100), (1, 1))])
def test_frames_of_speech_are_found_and_those_of_the_room_are_not(pauses_s, speech_s, room_db):
    samples, spoken = session(pauses_s, speech_s, room_db)
    np.testing.assert_array_equal(has_speech(frame_powers(samples, RATE)), spoken)


def test_a_recording_without_pauses_is_speech_throughout():
    samples, _ = session([0], [20], 0)
    assert has_speech(frame_powers(samples, RATE)).all()


def test_digital_silence_holds_no_speech_and_does_not_count_as_the_room():
    samples, spoken = session([20], [2], -30)
    powers = frame_powers(np.concatenate([np.zeros(100 * RATE), samples]), RATE)
    np.testing.assert_array_equal(has_speech(powers), np.concatenate([np.zeros(5_000, bool), spoken]))
    assert not has_speech(frame_powers(np.zeros(RATE), RATE)).any()
    assert not len(has_speech(frame_powers(np.zeros(10), RATE)))


def test_gain_and_offset_change_nothing():
    samples, spoken = session([3, 4], [2, 2], -40)
    for changed in (0.01 * samples, samples + 0.5, np.round(20_000 * samples).astype(np.int16)):
        np.testing.assert_array_equal(has_speech(frame_powers(changed, RATE)), spoken)


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        ("1111111111", [(0, 10)]),
        ("0011111100", [(0, 10)]),  # pauses of 2 are kept
        ("0001111000", [(2, 8)]),  # of 3, one frame on either side
        ("1100011000", [(0, 3), (4, 8)]),
        ("1100110011", [(0, 10)]),
        ("0000000000", []),
    ],
)
def test_long_pauses_are_left_out_but_for_a_margin(active, expected):
    assert stretches(np.array([letter == "1" for letter in active]), pause=2, margin=1) == expected
