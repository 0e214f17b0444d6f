"""Recordings are paired by their path, and what does not pair up is named before anything is denoised."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quell.errors import AudioError, CorpusError
from quell.evaluation.test_sets import pair_up


def write(path: Path, frames=800, rate=16_000, channels=1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((frames, channels), 0.1), rate)
    return path


def test_recordings_are_paired_by_path_in_any_format(tmp_path):
    for name in ("a", "room/a", "room/b.c"):
        write(tmp_path / "noisy" / f"{name}.flac", channels=2)
        write(tmp_path / "clean" / f"{name}.wav")
    (tmp_path / "clean" / "README.md").write_text("not a recording")
    pairs = pair_up(tmp_path / "noisy", tmp_path / "clean")
    assert [pair.label for pair in pairs] == ["a.flac", "room/a.flac", "room/b.c.flac"]
    for pair in pairs:
        assert pair.clean == tmp_path / "clean" / Path(pair.label).with_suffix(".wav")
        assert (pair.sample_rate, pair.seconds) == (16_000, 0.05)


def test_without_a_clean_folder_recordings_have_no_partner(tmp_path):
    write(tmp_path / "a.wav")
    assert [(pair.label, pair.clean) for pair in pair_up(tmp_path, None)] == [("a.wav", None)]


@pytest.mark.parametrize(("alone", "kind"), [("noisy", "clean"), ("clean", "noisy")])
def test_a_recording_without_a_partner_is_named(tmp_path, alone, kind):
    for folder in ("noisy", "clean"):
        write(tmp_path / folder / "a.wav")
    write(tmp_path / alone / "sub" / "b.wav")
    message = f"{tmp_path / alone / 'sub' / 'b.wav'}: no {kind} partner, expected {tmp_path / kind / 'sub' / 'b'}.*; "
    with pytest.raises(CorpusError, match=re.escape(message)):
        pair_up(tmp_path / "noisy", tmp_path / "clean")
    write(tmp_path / alone / "sub" / "c.wav")
    with pytest.raises(CorpusError, match=re.escape("b.wav: no " + kind + " partner (and 1 more like it), ")):
        pair_up(tmp_path / "noisy", tmp_path / "clean")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"frames": 801}, "b.wav: 801 samples, expected 800 as "),
        ({"rate": 8_000}, "b.wav: sampled at 8000 Hz, expected 16000 Hz as "),
    ],
)
def test_another_length_or_rate_is_named_with_its_partner(tmp_path, odd, message):
    for folder in ("noisy", "clean"):
        write(tmp_path / folder / "a.wav")
        write(tmp_path / folder / "b.wav")
    write(tmp_path / "noisy" / "b.wav", **odd)
    with pytest.raises(CorpusError, match=re.escape(f"{message}{tmp_path / 'clean' / 'b.wav'}; ")):
        pair_up(tmp_path / "noisy", tmp_path / "clean")


def test_two_recordings_of_one_stem_are_refused_with_both_names(tmp_path):
    write(tmp_path / "a.flac")
    write(tmp_path / "a.wav")
    with pytest.raises(CorpusError, match=r"a\.wav: same name as a\.flac, expected one recording each"):
        pair_up(tmp_path, None)


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(CorpusError, match="nowhere: no such folder, expected recordings"):
        pair_up(tmp_path / "nowhere", None)
    with pytest.raises(CorpusError, match=f"{tmp_path.name}: no sound files, expected recordings"):
        pair_up(tmp_path, None)


def test_a_file_that_is_no_recording_is_named(tmp_path):
    (tmp_path / "a.wav").write_text("not a sound")
    with pytest.raises(AudioError, match=r"a\.wav: "):
        pair_up(tmp_path, None)
