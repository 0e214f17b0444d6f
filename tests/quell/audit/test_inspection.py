"""What a recording is, measured over all of it, block after block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio import reader
from quell.audit.inspection import inspect
from quell.errors import AudioError

RATE = 16_000


@pytest.fixture
def inspected(tmp_path):
    def of(samples, rate=RATE, subtype="PCM_24", suffix="wav"):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, samples, rate, subtype=subtype)
        return inspect(path)

    return of


def test_length_rate_channels_and_levels_are_those_of_the_file(inspected):
    time = np.arange(RATE) / RATE
    wave = 0.01 + 0.5 * np.sin(2 * np.pi * 440 * time)
    found = inspected(np.stack([wave, wave], axis=1))
    assert (found.sample_rate, found.seconds) == (RATE, 1.0)
    assert found.peak == pytest.approx(0.51, abs=1e-3)
    assert found.offset == pytest.approx(0.01, abs=1e-4)
    assert found.rms == pytest.approx(np.sqrt(0.5**2 / 2 + 0.01**2), rel=1e-3)


def test_the_digest_is_that_of_the_samples_whatever_the_container(inspected, speech):
    samples = np.round(speech(1.0, RATE) * 32767) / 32767
    one, flac, other = inspected(samples), inspected(samples, suffix="flac", subtype="PCM_16"), inspected(0.9 * samples)
    assert one.digest == flac.digest != other.digest


def test_another_rate_is_another_recording(inspected, speech):
    samples = speech(1.0, RATE)
    assert inspected(samples).digest != inspected(samples, rate=8_000).digest


@pytest.mark.parametrize("gain", [1.3, 2.0, 8.0])
def test_the_share_of_clipped_samples_is_counted(inspected, gain):
    rng = np.random.default_rng(0)
    wave = gain * np.sin(2 * np.pi * 100 * np.arange(4 * RATE) / RATE) + 0.001 * rng.standard_normal(4 * RATE)
    share = float((np.abs(wave) >= 1).mean())
    clipped = np.clip(wave, -1, 1)
    assert inspected(clipped).clipped == pytest.approx(share, rel=0.1)
    assert inspected(0.4 * clipped).clipped == pytest.approx(share, rel=0.1)  # turned down after it was clipped
    assert (
        inspected(0.5 * np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE) + 0.02 * rng.standard_normal(RATE)).clipped
        == 0
    )


def test_a_louder_block_restarts_the_count(inspected):
    soft, loud = np.full(audio.READ_BLOCK, 0.3), np.sin(2 * np.pi * 100 * np.arange(audio.READ_BLOCK) / RATE)
    assert inspected(np.concatenate([soft, 0.9 * loud])).clipped < 1e-3


def test_pauses_are_the_share_of_silent_frames(inspected, noise):
    sound = noise(1.0, RATE)
    assert inspected(np.concatenate([sound, np.zeros(3 * RATE)])).pauses == pytest.approx(0.75, abs=0.01)
    assert inspected(sound).pauses == 0


@pytest.mark.parametrize("snr_db", [5, 10, 20, 40])
def test_the_range_of_a_voice_with_pauses_follows_its_snr(inspected, noise, snr_db):
    hiss = noise(4.0, RATE)
    voice = np.where(np.arange(4 * RATE) // (RATE // 2) % 2 == 0, noise(4.0, RATE, seed=1), 0)
    found = inspected(0.5 * (voice + hiss * 10 ** (-snr_db / 20)))
    # Loud frames hold voice and hiss; quantiles of frames of 20 ms are .5 dB wide.
    assert found.range_db == pytest.approx(10 * np.log10(1 + 10 ** (snr_db / 10)), abs=1.0)


def test_digital_silence_does_not_change_the_range(inspected, noise):
    sound = noise(2.0, RATE)
    assert inspected(np.concatenate([sound, np.zeros(RATE)])).range_db == pytest.approx(
        inspected(sound).range_db, abs=0.2
    )


@pytest.mark.parametrize(("lower", "rate"), [(8_000, 16_000), (8_000, 48_000), (16_000, 44_100), (22_050, 48_000)])
def test_an_upsampled_recording_is_found_with_its_former_rate(inspected, noise, lower, rate):
    # Of speech the loud part is below: white noise has as much at the edge as anywhere.
    assert inspected(0.3 * audio.resample(noise(2.0, lower), lower, rate), rate=rate).upsampled_hz == lower
    assert inspected(0.3 * noise(2.0, rate), rate=rate).upsampled_hz == 0


def test_sound_that_fades_out_towards_high_frequencies_was_not_upsampled(inspected, noise):
    assert inspected(noise(2.0, RATE, kind="rumble")).upsampled_hz == 0


def test_silence_and_single_samples_are_measured(inspected):
    for samples in (np.zeros(RATE), np.zeros(1), 0.5 * np.ones(1), np.zeros(5_000)):
        found = inspected(samples)
        assert found.range_db == found.upsampled_hz == found.clipped == 0
        assert found.seconds == len(samples) / RATE


def test_blocks_do_not_matter(inspected, speech, monkeypatch):
    samples = speech(3.0, RATE)
    whole = inspected(samples)
    monkeypatch.setattr(reader, "READ_BLOCK", 10_007)
    pieces = inspected(samples)
    assert pieces.digest == whole.digest and pieces.peak == whole.peak
    assert pieces.pauses == whole.pauses
    assert pieces.range_db == pytest.approx(whole.range_db)
    np.testing.assert_array_equal(pieces.fingerprint.audible, whole.fingerprint.audible)
    # The resampler's blocks differ by rounding: a bit or two may turn.
    assert np.bitwise_count(pieces.fingerprint.words ^ whole.fingerprint.words).mean() < 0.2
    assert replace(pieces, fingerprint=0, rms=0, offset=0, range_db=0) == replace(
        whole, fingerprint=0, rms=0, offset=0, range_db=0
    )


def test_a_damaged_recording_is_refused(tmp_path, speech):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1.0, RATE), RATE)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(AudioError, match=r"a\.wav: "):
        inspect(path)
