"""Resampling is the same sound."""

from __future__ import annotations

import numpy as np
import pytest

from quell import audio
from quell.audio.resampling import Resampler


def tone(frequency, rate, length):
    return np.sin(2 * np.pi * frequency / rate * np.arange(length)).astype(np.float32)


def level_db(signal, reference):
    return 20 * np.log10(np.sqrt(np.square(signal).mean()) / np.sqrt(np.square(reference).mean()))


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(8_000, 16_000), (44_100, 16_000), (16_000, 44_100), (48_000, 8_000)]
)
def test_a_tone_resampled_is_the_tone_at_the_other_rate_without_delay(from_rate, to_rate):
    found = audio.resample(tone(1_000, from_rate, from_rate), from_rate, to_rate)
    inner = slice(to_rate // 10, -to_rate // 10)  # the filter rings where the tone starts and stops
    assert np.abs(found[inner] - tone(1_000, to_rate, to_rate)[inner]).max() < 1e-4  # -80 dB; measured -110 dB


def test_what_lies_above_half_the_new_rate_is_gone():
    found = audio.resample(tone(5_000, 16_000, 16_000), 16_000, 8_000)[800:-800]
    assert level_db(found, tone(5_000, 16_000, 16_000)) < -100  # soxr VHQ promises more


@pytest.mark.parametrize("length", [1, 2, 3, 441, 10_007])
@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 44_100), (48_000, 8_000), (8_000, 8_000)]
)
def test_resampled_length_is_rounded_and_at_least_one(length, from_rate, to_rate):
    for shape in ((length,), (length, 2)):
        found = audio.resample(np.ones(shape, np.float32), from_rate, to_rate)
        assert found.shape == (max(1, round(length * to_rate / from_rate)), *shape[1:])
        assert found.dtype == np.float32


@pytest.mark.parametrize("size", [1, 480, 100_000])
@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 44_100), (48_000, 8_000), (8_000, 8_000)]
)
def test_pieces_are_resampled_to_the_digits_of_the_whole(size, from_rate, to_rate):
    samples = np.random.default_rng(0).standard_normal((9_999, 2)).astype(np.float32)
    resampler = Resampler(from_rate, to_rate, 2, len(samples))
    pieces = [resampler.push(samples[begin : begin + size]) for begin in range(0, len(samples), size)]
    found = np.concatenate([*pieces, resampler.finish()])
    np.testing.assert_array_equal(found, audio.resample(samples, from_rate, to_rate))
    assert len(found) == resampler.length
