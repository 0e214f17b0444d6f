"""The waveform that a recording is measured by has neither the recorder's offset nor channels that cancel in it."""

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio.alignment import measured_snr_db
from quell.audio.alignment import read as read_pair
from quell.audio.mono import mono, read_mono, without_offset
from quell.audit.inspection import inspect
from quell.corpus.decoding import decode

RATE = 16_000
RNG = np.random.default_rng(0)
VOICE = (0.1 * np.sin(np.arange(2 * RATE) / 7) * np.clip(np.sin(np.arange(2 * RATE) / 2_000), 0, None)).astype(
    np.float32
)
NOISE = (0.02 * RNG.standard_normal((2 * RATE, 2))).astype(np.float32)
INVERTED = VOICE[:, None] * np.float32([1, -0.9])


def write(path, samples):
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


@pytest.mark.parametrize("offset", [0.5, -0.2, 0.02])
def test_the_offset_of_a_recorder_is_taken_away(tmp_path, offset):
    waveform = read_mono(write(tmp_path / "a.wav", VOICE + np.float32(offset)), RATE)
    np.testing.assert_allclose(waveform, VOICE - VOICE.mean(), atol=1e-6)


def test_a_mean_without_an_offset_stays():
    np.testing.assert_array_equal(without_offset(VOICE, RATE), VOICE)
    short = np.full(RATE // 20, 0.3, np.float32)  # as well the half of a slow wave
    np.testing.assert_array_equal(without_offset(short, RATE), short)


def test_a_corpus_keeps_the_precision_of_a_recording_with_an_offset(tmp_path):
    plain = decode(write(tmp_path / "a.wav", VOICE), RATE, "clean")["clean"]
    offset = decode(write(tmp_path / "b.wav", VOICE + np.float32(0.8)), RATE, "clean")["clean"]
    assert np.corrcoef(plain, offset)[0, 1] > 0.99999
    assert np.abs(offset).max() == 32_767


def test_the_snr_of_a_pair_is_that_without_offsets(tmp_path):
    clean, noisy = write(tmp_path / "c.wav", VOICE + np.float32(0.3)), write(tmp_path / "n.wav", VOICE + NOISE[:, 0])
    expected = 20 * np.log10(np.std(VOICE) / np.std(NOISE[:, 0]))
    pair = read_pair(noisy, clean, RATE)
    assert measured_snr_db(pair.noisy, pair.clean) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("samples", [INVERTED, INVERTED[:, ::-1], np.concatenate([INVERTED, 0.1 * NOISE], axis=1)])
def test_of_channels_that_cancel_the_loudest_is_taken(tmp_path, samples):
    loudest = samples[:, np.square(samples).sum(axis=0).argmax()]
    np.testing.assert_allclose(read_mono(write(tmp_path / "a.wav", samples), RATE), loudest, atol=1e-6)
    assert inspect(tmp_path / "a.wav").rms == pytest.approx(np.sqrt(np.square(loudest).mean()), rel=1e-3)


@pytest.mark.parametrize(
    "samples", [VOICE[:, None] * np.float32([1, 0.25]), NOISE, VOICE[:, None] + NOISE, NOISE[:, :1]]
)
def test_of_channels_that_do_not_cancel_the_mean_is_taken(tmp_path, samples):
    np.testing.assert_allclose(read_mono(write(tmp_path / "a.wav", samples), RATE), samples.mean(axis=1), atol=1e-6)


def test_both_sides_of_a_pair_become_the_same_channel(tmp_path):
    noisy = INVERTED + 3 * NOISE  # whose mean is noise, and not near nothing
    pair = read_pair(write(tmp_path / "n.wav", noisy), write(tmp_path / "c.wav", INVERTED), RATE)
    np.testing.assert_allclose(pair.clean, INVERTED[:, 0], atol=1e-6)
    np.testing.assert_allclose(pair.noisy, noisy[:, 0], atol=1e-6)
    for found, expected in zip(mono(noisy, INVERTED, sample_rate=RATE), (noisy, INVERTED), strict=True):
        np.testing.assert_array_equal(found, expected[:, 0])


def test_silence_of_two_channels_is_silence(tmp_path):
    assert not read_mono(write(tmp_path / "a.wav", np.zeros((RATE, 2))), RATE).any()
    assert not audio.mono(np.zeros((RATE, 2), np.float32), sample_rate=RATE)[0].any()
