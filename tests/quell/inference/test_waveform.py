"""quell.denoise refuses arrays, rates and models as files are refused, and keeps the type of the others."""

import re

import numpy as np
import pytest

import quell

RATE = 16_000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 1000), (1, 2), (3, 2, 1), (0,), (5, 0), ()])
def test_an_array_of_another_shape_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match=rf"waveform: shape {re.escape(str(shape))}, .*expected \(T"):
        quell.denoise(np.zeros(shape, np.float32), RATE)


@pytest.mark.parametrize("rate", [16, 48, 0, -16_000, 999, 2_000_000])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=f"1 channels at {rate} Hz, expected 1 to 256 channels at 1000 to 1000000 Hz"):
        quell.denoise(NOISE, rate)


@pytest.mark.parametrize("rate", [None, "16000", 16_000.5, True, float("nan"), float("inf"), [16_000]])
def test_a_rate_that_is_no_whole_number_is_refused(rate):
    with pytest.raises(ValueError, match=rf"sample_rate: {re.escape(repr(rate))}, expected a whole number of Hz"):
        quell.denoise(NOISE, rate)


@pytest.mark.parametrize("model", ["best.pt", 1, quell.load])
def test_a_model_that_was_not_loaded_is_refused(model):
    with pytest.raises(ValueError, match=rf"model: {re.escape(repr(model))}, expected what quell.load returns"):
        quell.denoise(NOISE, RATE, model)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int64", "bool", "complex64", "object", "U1"])
def test_samples_of_a_type_without_a_full_scale_are_refused(kind):
    with pytest.raises(ValueError, match=r"waveform: .* samples, expected floats of full scale 1, int16 or int32"):
        quell.denoise(np.zeros(100).astype(kind), RATE)


@pytest.mark.parametrize("worst", [np.nan, np.inf, 1e11, 1e300])
def test_samples_that_no_recording_has_are_refused(worst):
    noisy = NOISE.astype(np.float64)
    noisy[100] = worst
    with pytest.raises(ValueError, match=r"waveform: .*(are NaN or infinite|times full scale), expected numbers"):
        quell.denoise(noisy, RATE)


def test_more_channels_than_a_recording_has_are_refused():
    with pytest.raises(ValueError, match="257 channels at 16000 Hz, expected 1 to 256 channels"):
        quell.denoise(np.zeros((300, 257), np.float32), RATE)


@pytest.mark.parametrize(("kind", "scale"), [("int16", 2**15), ("int32", 2**31)])
def test_integers_come_back_in_their_type_and_scale(kind, scale):
    noisy = np.round(NOISE * scale).astype(kind)
    clean = quell.denoise(noisy, RATE)
    assert clean.dtype == noisy.dtype
    expected = quell.denoise((noisy / scale).astype(np.float32), RATE)
    np.testing.assert_allclose(clean / scale, expected, atol=0.51 * max(1 / scale, 2**-24))


def test_integers_are_limited_to_their_range():
    square = np.where(np.arange(RATE) % 160 < 80, 32_767, -32_768).astype(np.int16)
    clean = quell.denoise(square, RATE)
    as_floats = quell.denoise(square / np.float32(32_768), RATE)
    assert (np.sign(clean[as_floats > 0.1]) == 1).all()
    assert (np.sign(clean[as_floats < -0.1]) == -1).all()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_come_back_as_float32(kind):
    assert quell.denoise(NOISE.astype(kind), np.int64(RATE)).dtype == np.float32
    assert quell.denoise(NOISE.astype(kind), float(RATE)).shape == NOISE.shape
