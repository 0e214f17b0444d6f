"""The same sound is found at another level, time, rate and codec, and no other sound is."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audit.audio_fingerprint import BITS, HOP, SAMPLE_RATE, Match, fingerprint, matches
from quell.audit.inspection import inspect

RATE = 16_000


@pytest.fixture(scope="module")
def voice():
    """3 s of noise whose bands come and go, as those of speech do."""
    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    swell = [np.interp(time, np.arange(0, 3.1, 0.12), rng.uniform(0, 1, 26)) for _ in range(12)]
    bands = [np.sin(2 * np.pi * 150 * (k + 2) * time + rng.uniform(0, 6)) * swell[k] for k in range(12)]
    return (0.05 * sum(bands) + 0.002 * rng.standard_normal(len(time))).astype(np.float32)


def of(samples, rate=RATE):
    return fingerprint(audio.resample(np.asarray(samples, np.float32), rate, SAMPLE_RATE))


def through(tmp_path, samples, suffix, subtype, rate=RATE):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, rate, subtype=subtype)
    return inspect(path).fingerprint


def test_a_recording_is_itself_from_end_to_end(voice):
    assert matches([of(voice), of(voice)]) == [Match(0, 1, pytest.approx(2.74, abs=0.02), 0.0, 0.0)]


@pytest.mark.parametrize("gain", [0.01, 0.3, -2.0])
def test_level_and_sign_do_not_matter(voice, gain):
    (match,) = matches([of(voice), of(gain * voice)])
    assert match.different < 0.01


@pytest.mark.parametrize("late_s", [0.1, 0.5004, 1.3])
def test_a_shift_is_found_with_its_lag(voice, late_s):
    late = np.concatenate([np.zeros(round(late_s * RATE), np.float32), voice])
    (match,) = matches([of(voice), of(late)])
    assert match.lag_s == pytest.approx(late_s, abs=HOP / SAMPLE_RATE)
    (match,) = matches([of(late), of(voice)])
    assert match.lag_s == pytest.approx(-late_s, abs=HOP / SAMPLE_RATE)


def test_a_piece_of_a_recording_is_found(voice):
    (match,) = matches([of(voice), of(voice[RATE : 2 * RATE + RATE // 2])])
    assert match.seconds == pytest.approx(1.24, abs=0.05)
    assert match.lag_s == pytest.approx(-1.0, abs=HOP / SAMPLE_RATE)


@pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("wav", "ULAW")])
def test_codecs_change_few_bits(voice, tmp_path, suffix, subtype):
    (match,) = matches([of(voice), through(tmp_path, voice, suffix, subtype)])
    assert match.different < 0.15


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_the_rate_does_not_matter(voice, tmp_path, rate):
    other = audio.resample(voice, RATE, rate)
    (match,) = matches([of(voice), through(tmp_path, other, "wav", "PCM_16", rate)])
    assert match.different < 0.05


def test_a_little_noise_does_not_prevent_a_match(voice):
    rng = np.random.default_rng(1)
    noisy = voice + rng.standard_normal(len(voice)).astype(np.float32) * voice.std() * 10 ** (-20 / 20)
    assert len(matches([of(voice), of(noisy)])) == 1


def test_other_recordings_do_not_match(voice, speech, noise):
    others = [speech(3.0, RATE, seed) for seed in range(8)]
    others += [noise(3.0, RATE, seed, kind) for seed in range(4) for kind in ("white", "rumble", "hum")]
    assert matches([of(samples) for samples in (voice, *others)]) == []


def test_silence_and_short_recordings_match_nothing(voice):
    silent, short = np.zeros(3 * RATE), voice[: RATE // 10]
    assert matches([of(samples) for samples in (silent, silent, short, short, voice)]) == []
    assert matches([]) == []


def test_a_word_has_a_bit_for_each_pair_of_bands(voice):
    words, audible = of(voice)
    assert words.dtype == np.uint32 and len(words) == len(audible)
    assert 0.4 < np.bitwise_count(words).mean() / BITS < 0.6
