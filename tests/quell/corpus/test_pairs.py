"""A noisy recording belongs to its clean version: it is split, decoded, audited and scored with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quell.audio.alignment import align, measured_snr_db
from quell.audit.corpus_audit import audit, without
from quell.corpus.memory_map import open_store
from quell.corpus.recordings import CorpusConfig, Recording, partners
from quell.corpus.scan import find, unpaired
from quell.corpus.splits import SPLITS
from quell.corpus.store import prepare
from quell.errors import CorpusError
from quell.mixing.evaluation_mixtures import evaluation_set

RATE = 8_000


def white(length, seed):
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def test_partners_have_the_same_path_but_for_the_suffix():
    def recording(kind, path):
        return Recording(kind, path, "g", "", "train")

    listed = [recording("clean", "a/1.flac"), recording("clean", "a/2.wav"), recording("noisy", "a/1.wav")]
    assert partners(listed) == [(listed[2], listed[0])]
    config = CorpusConfig(Path("clean"), None, noisy=Path("noisy"))
    assert [problem.names for problem in unpaired(config, listed)] == [("clean/a/2.wav",)]
    assert list(unpaired(replace(config, noisy=None), listed[:2])) == []  # no pairs at all


@pytest.fixture
def config(tmp_path, speech):
    """12 speakers of two pairs, noisy 50 samples late; 8 kHz."""
    for speaker in range(12):
        for take in range(2):
            voice = speech(1.5 + 0.1 * take, RATE, seed=10 * speaker + take)
            noisy = np.roll(voice, 50) + 0.1 * np.float32(0.2) * white(len(voice), 100 + 10 * speaker + take)
            for side, samples, suffix in (("clean", voice, "flac"), ("noisy", noisy, "wav")):
                path = tmp_path / side / f"s{speaker}" / f"{take}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, RATE)
    return CorpusConfig(tmp_path / "clean", None, RATE, noisy=tmp_path / "noisy")


def test_a_noisy_recording_is_in_the_group_and_split_of_its_clean_one(config):
    found = find(config)
    assert len(found) == 48 and list(unpaired(config, found)) == []
    for noisy, clean in partners(found):
        assert (noisy.group, noisy.split) == (clean.group, clean.split)


def test_pairs_are_decoded_aligned_at_one_level_and_opened_again(config, tmp_path):
    built = prepare(config, tmp_path / "store")
    assert sum(len(split.pairs()) for split in built.splits.values()) == 24
    for split in built.splits.values():
        for noisy, clean in split.pairs():
            one, other = split.waveform(noisy), split.waveform(clean)
            assert len(one) == len(other)
            assert max(np.abs(one).max(), np.abs(other).max()) == pytest.approx(1.0, abs=1e-3)
            assert align(one, other, RATE).lag == 0
            assert measured_snr_db(one, other) > 10
        assert not split.of("noise")
    assert open_store(built.folder).fingerprint == built.fingerprint


def test_with_remix_the_difference_of_a_pair_is_noise(config, tmp_path):
    built = prepare(replace(config, remix=True), tmp_path / "store")
    assert built.fingerprint != prepare(config, tmp_path / "store").fingerprint
    for split in built.splits.values():
        noises = {clip.path: clip for clip in split.of("noise")}
        assert len(noises) == len(split.pairs()) > 0
        for noisy, clean in split.pairs():
            apart = split.waveform(noisy) - split.waveform(clean)
            noise = split.waveform(noises[noisy.path])
            shared = min(len(noise), len(apart))
            found = align(apart[:shared], noise[:shared], RATE)
            assert found.correlation > 0.99


def test_pairs_are_scored_at_their_recorded_snr(config, tmp_path, scorer):
    built = prepare(config, tmp_path / "store")
    pairs = built.splits["validation"].pairs()
    found = evaluation_set(built, "validation", 100, (-5.0, 20.0), 0, scorer)
    assert len(found.noisy) == len(pairs)
    assert sorted(found.labels) == sorted(noisy.path for noisy, _ in pairs)
    for noisy, clean, snr_db in zip(found.noisy, found.clean, found.snr_db, strict=True):
        assert abs(measured_snr_db(noisy, clean) - snr_db) <= 2.5
    assert set(found.snr_db) <= {10.0, 15.0, 20.0, 25.0}
    again = evaluation_set(built, "validation", 100, (-5.0, 20.0), 0, scorer)
    assert all(np.array_equal(one, other) for one, other in zip(found.noisy, again.noisy, strict=True))


def test_a_pair_without_partner_of_another_length_or_rate_is_an_error(config):
    (config.noisy / "s0" / "0.wav").unlink()
    samples, _ = soundfile.read(config.noisy / "s1" / "0.wav")
    soundfile.write(config.noisy / "s1" / "0.wav", samples[:-1], RATE)
    samples, _ = soundfile.read(config.noisy / "s2" / "0.wav")
    soundfile.write(config.noisy / "s2" / "0.wav", samples, 16_000)
    found = audit(config)
    errors = {error.names[0]: error for error in found.errors}
    assert {name: error.kind for name, error in errors.items()} == {
        "clean/s0/0.flac": "alone",
        "noisy/s1/0.wav": "unlike",
        "noisy/s2/0.wav": "unlike",
    }
    assert "no noisy partner, expected" in errors["clean/s0/0.flac"].text
    assert "as clean/s1/0.flac; cut them alike" in errors["noisy/s1/0.wav"].text
    assert "16000 Hz, expected 8000 Hz as clean/s2/0.flac" in errors["noisy/s2/0.wav"].text
    bad = {name for error in found.errors for name in error.names}
    assert without(found, bad).errors == []
    with pytest.raises(CorpusError, match=r"s0/0\.flac: no noisy partner, expected .*s0/0\.\*; add it or leave"):
        prepare(config, config.clean.parent / "store")


def test_a_noisy_recording_of_something_else_is_a_warning(config):
    path = config.noisy / "s3" / "1.wav"
    samples, _ = soundfile.read(path)
    soundfile.write(path, 0.1 * white(len(samples), 7), RATE)
    found = audit(config)
    assert found.errors == []
    assert [(one.kind, one.names[0]) for one in found.findings if one.kind == "unlike"] == [
        ("unlike", "noisy/s3/1.wav")
    ]
    assert found.pairings["noisy/s0/0.wav"].lag_s == pytest.approx(50 / RATE)


def test_every_split_has_pairs(config):
    found = find(config)
    assert {one.split for one in found if one.kind == "noisy"} == set(SPLITS)
