"""Resampling keeps levels, phases and length, and agrees with librosa."""

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
def test_a_resampled_tone_is_the_tone_at_the_other_rate_without_delay(from_rate, to_rate):
    found = audio.resample(tone(1_000, from_rate, from_rate), from_rate, to_rate)
    inner = slice(to_rate // 10, -to_rate // 10)  # the filter rings where the tone starts and stops
    assert np.abs(found[inner] - tone(1_000, to_rate, to_rate)[inner]).max() < 1e-4  # -80 dB; measured -110 dB


def test_frequencies_above_half_the_new_rate_are_removed():
    found = audio.resample(tone(5_000, 16_000, 16_000), 16_000, 8_000)[800:-800]
    assert level_db(found, tone(5_000, 16_000, 16_000)) < -100  # soxr VHQ promises more


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 44_100), (48_000, 8_000)])
def test_it_equals_librosa_with_soxr(from_rate, to_rate):
    import librosa

    noise = np.random.default_rng(0).standard_normal(from_rate + 17).astype(np.float32)
    expected = librosa.resample(noise, orig_sr=from_rate, target_sr=to_rate, res_type="soxr_vhq")
    found = audio.resample(noise, from_rate, to_rate)
    shared = min(len(expected), len(found))  # librosa rounds the length up
    assert abs(len(expected) - len(found)) <= 1
    np.testing.assert_allclose(found[:shared], expected[:shared], atol=1e-6)  # float32; measured 0


@pytest.mark.parametrize("frequency", [50, 1_000, 3_500])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 44_100), (48_000, 8_000)])
def test_levels_of_tones_are_those_of_librosas_fourier_method(from_rate, to_rate, frequency):
    import librosa

    samples = tone(frequency, from_rate, from_rate)  # whole periods: the Fourier method is exact
    expected = librosa.resample(samples, orig_sr=from_rate, target_sr=to_rate, res_type="scipy")
    inner = slice(to_rate // 10, -to_rate // 10)  # soxr's filter rings where the tone starts and stops
    found = audio.resample(samples, from_rate, to_rate)
    assert level_db(found[inner], expected[inner]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 441, 10_007])
@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 44_100), (48_000, 8_000), (8_000, 8_000)]
)
def test_the_length_is_rounded_and_at_least_one(length, from_rate, to_rate):
    for shape in ((length,), (length, 2)):
        found = audio.resample(np.ones(shape, np.float32), from_rate, to_rate)
        assert found.shape == (max(1, round(length * to_rate / from_rate)), *shape[1:])
        assert found.dtype == np.float32


@pytest.mark.parametrize("size", [1, 480, 100_000])
@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 44_100), (48_000, 8_000), (8_000, 8_000)]
)
def test_blocks_are_resampled_to_the_same_numbers_as_the_whole(size, from_rate, to_rate):
    samples = np.random.default_rng(0).standard_normal((9_999, 2)).astype(np.float32)
    resampler = Resampler(from_rate, to_rate, 2, len(samples))
    pieces = [resampler.push(samples[begin : begin + size]) for begin in range(0, len(samples), size)]
    found = np.concatenate([*pieces, resampler.finish()])
    np.testing.assert_array_equal(found, audio.resample(samples, from_rate, to_rate))
    assert len(found) == resampler.length
