"""What systems are evaluated on: SNRs are measured ones, and an estimate is scored as its recording would be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio.alignment import BIN_DB, MOST_DB
from quell.errors import AudioError, CorpusError
from quell.evaluation.test_sets import MixtureSet, PairedSet, UnpairedSet, pair_up
from quell.metrics import dnsmos, intrusive


def still(done, of):
    pass


@pytest.fixture
def paired(tmp_path, speech, noise):
    """Writes pairs of given SNRs as floats and opens them."""

    def build(*snrs_db, rate=16_000, channels=1, seconds=1.2) -> PairedSet:
        for i, snr_db in enumerate(snrs_db):
            clean, added = speech(seconds, rate, seed=i), noise(seconds, rate, seed=i)
            added = added * np.sqrt(np.square(clean).sum() / np.square(added).sum()) * 10 ** (-snr_db / 20)
            write(tmp_path / "clean" / f"{i}.wav", clean, rate, channels)
            write(tmp_path / "noisy" / f"{i}.wav", clean + added, rate, channels)
        return PairedSet(pair_up(tmp_path / "noisy", tmp_path / "clean"), still)

    return build


def write(path: Path, signal, rate, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    gains = np.linspace(1, 0.5, channels)
    soundfile.write(path, signal[:, None] * gains, rate, subtype="FLOAT")


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (44_100, 1)])
def test_pairs_measure_the_snr_they_were_mixed_at(paired, rate, channels):
    snrs_db = [-7.6, -7.4, -0.1, 2.4, 2.6, 20.0]
    test_set = paired(*snrs_db, rate=rate, channels=channels)
    assert test_set.snr_db == pytest.approx(snrs_db, abs=1e-3)  # float32
    assert test_set.rows.tolist() == [-10, -5, 0, 0, 5, 20]
    assert set(test_set.rows % BIN_DB) == {0}
    assert test_set.seconds == pytest.approx([1.2] * 6)


def test_a_recording_without_noise_has_a_finite_snr(tmp_path, speech):
    for folder in ("noisy", "clean"):
        write(tmp_path / folder / "a.wav", speech(1.2, 16_000), 16_000)
    test_set = PairedSet(pair_up(tmp_path / "noisy", tmp_path / "clean"), still)
    assert test_set.snr_db.tolist() == test_set.rows.tolist() == [MOST_DB]


@pytest.mark.parametrize(("rate", "scored_at"), [(8_000, 8_000), (16_000, 16_000), (22_050, 16_000), (48_000, 16_000)])
def test_estimates_are_scored_at_16_khz_or_as_8_khz(paired, rate, scored_at):
    test_set = paired(5.0, rate=rate, channels=2)
    samples, found = test_set.recording(0)
    assert (samples.shape, found) == ((round(1.2 * rate), 2), rate)
    noisy, clean = (audio.read_mono(pair, scored_at) for pair in (test_set._pairs[0].noisy, test_set._pairs[0].clean))
    expected = intrusive.score_clip(noisy, clean, scored_at, intrusive.available(scored_at))
    assert test_set.job(0, samples)() == expected
    assert tuple(expected.values) == test_set.names == ("pesq", "stoi", "estoi", "si_sdr")


def test_8_khz_among_other_rates_is_refused_by_name(tmp_path, paired, speech):
    paired(5.0, rate=16_000)
    for folder in ("noisy", "clean"):
        write(tmp_path / folder / "narrow.wav", speech(1.2), 8_000)
    message = f"{tmp_path / 'noisy' / 'narrow.wav'}: sampled at 8000 Hz and others are not, expected either; "
    with pytest.raises(CorpusError, match=re.escape(message)):
        PairedSet(pair_up(tmp_path / "noisy", tmp_path / "clean"), still)


def test_a_silent_clean_recording_is_named(tmp_path, noise):
    write(tmp_path / "noisy" / "a.wav", noise(0.1), 8_000)
    write(tmp_path / "clean" / "a.wav", np.zeros(800), 8_000)
    with pytest.raises(CorpusError, match=re.escape(f"{tmp_path / 'clean' / 'a.wav'}: silence, expected speech; ")):
        PairedSet(pair_up(tmp_path / "noisy", tmp_path / "clean"), still)


def test_a_damaged_recording_is_named_before_anything_is_scored(tmp_path, noise):
    broken = noise(0.1)
    broken[5] = np.nan
    write(tmp_path / "a.wav", broken, 8_000)
    with pytest.raises(AudioError, match=r"a\.wav: 1 samples are NaN or infinite"):
        UnpairedSet(pair_up(tmp_path, None), still)


def test_recordings_without_a_clean_version_have_no_snr_and_are_scored_at_16_khz(tmp_path, noise):
    write(tmp_path / "a.wav", noise(0.5, 44_100), 44_100, channels=2)
    moved = []
    test_set = UnpairedSet(pair_up(tmp_path, None), lambda *done: moved.append(done))
    assert moved == [(1, 1)]
    assert np.isnan(test_set.snr_db).all()
    job = test_set.job(0, test_set.recording(0)[0])
    assert job.func is dnsmos.score_clip
    assert np.array_equal(job.args[0], audio.read_mono(tmp_path / "a.wav", 16_000))


def test_mixtures_of_a_study_have_the_same_scores_as_in_training(validation):
    test_set = MixtureSet(validation)
    assert test_set.noisy_scores is validation.noisy_scores
    for place in range(2):
        samples, rate = test_set.recording(place)
        assert rate == validation.sample_rate
        found = test_set.job(place, samples)()
        assert found.values == {name: values[place] for name, values in validation.noisy_scores.values.items()}
