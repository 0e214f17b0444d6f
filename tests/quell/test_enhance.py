"""Enhanced files are like the files they came from, and no file is lost on the way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from quell import audio, export
from quell.enhance import Job, enhance, enhance_file, plan, run
from quell.errors import AudioError
from quell.export import Exported

IDENTITY = Exported(torch.nn.Identity(), 8_000, {})


@pytest.fixture(scope="module")
def model(tiny_denoiser, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    export.export(tiny_denoiser(), path, {})
    return export.load(path)


def write(path: Path, samples=None, rate=8_000, subtype="PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).standard_normal(500) if samples is None else samples
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def stored(path):
    info = soundfile.info(path)
    return info.samplerate, info.channels, info.frames, info.format, info.subtype


FORMATS = [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("flac", "PCM_24")]


@pytest.mark.parametrize(("suffix", "subtype"), [*FORMATS, ("ogg", "VORBIS")])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_rate_channels_length_and_format_are_kept(tmp_path, model, suffix, subtype, rate):
    for channels in (1, 2, 6):
        for length in (1, rate // 10 + 1):
            samples = 0.1 * np.random.default_rng(1).standard_normal((length, channels))
            source = write(tmp_path / f"in.{suffix}", samples, rate, subtype)
            target = tmp_path / "new" / f"{channels}-{length}.{suffix}"
            enhance_file(source, target, model)
            assert stored(target) == stored(source)
            assert stored(target)[:3] == (rate, channels, length)


def test_a_file_at_the_models_rate_becomes_what_the_model_answers(tmp_path, model):
    samples = np.random.default_rng(2).standard_normal((1_501, 2)).astype(np.float32)
    enhance_file(write(tmp_path / "a.wav", samples, subtype="FLOAT"), tmp_path / "b.wav", model)
    answers = np.stack([model(torch.from_numpy(samples[:, i].copy())).numpy() for i in (0, 1)], axis=1)
    np.testing.assert_allclose(audio.read(tmp_path / "b.wav")[0], answers, atol=1e-5)  # float32, another batch


def test_channels_do_not_hear_each_other(model):
    samples = np.random.default_rng(3).standard_normal((1_501, 6)).astype(np.float32)
    together = enhance(samples, 16_000, model)
    for i in range(6):
        np.testing.assert_allclose(enhance(samples[:, [i]], 16_000, model), together[:, [i]], atol=1e-5)  # as above


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_the_way_to_the_models_rate_and_back_neither_delays_nor_colours(rate):
    samples = np.sin(2 * np.pi * 1_000 / rate * np.arange(rate)).astype(np.float32)[:, None]
    inner = slice(rate // 10, -rate // 10)  # soxr rings where the tone starts and stops
    assert np.abs(enhance(samples, rate, IDENTITY) - samples)[inner].max() < 1e-4  # -80 dB


def test_nothing_above_half_the_models_rate_comes_back():
    samples = np.sin(2 * np.pi * 6_000 / 48_000 * np.arange(48_000)).astype(np.float32)[:, None]
    assert np.abs(enhance(samples, 48_000, IDENTITY))[4_800:-4_800].max() < 1e-4  # -80 dB


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_every_short_length_is_kept(rate):
    for length in (1, 2, 3, 5, 10, 99):
        assert enhance(np.ones((length, 2), np.float32), rate, IDENTITY).shape == (length, 2)


def test_silence_stays_silence(tmp_path, model):
    enhance_file(write(tmp_path / "a.wav", np.zeros(900), 44_100), tmp_path / "b.wav", model)
    assert not audio.read(tmp_path / "b.wav")[0].any()


def test_a_folder_keeps_its_tree(tmp_path, model):
    for name in ("a.wav", "x/b.flac", "x/y/c.wav", "x/.hidden/d.wav", "x/notes.txt"):
        path = tmp_path / "in" / name
        write(path) if path.suffix != ".txt" else path.write_text("notes")
    done = []
    assert list(run(plan([tmp_path / "in"], tmp_path / "out"), model, lambda *at: done.append(at))) == []
    made = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert made == ["a.wav", "x/b.flac", "x/y/c.wav"]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path):
    source = write(tmp_path / "a.wav")
    (tmp_path / "there.wav").mkdir()
    for output, target in [("b.wav", "b.wav"), ("new", "new/a.wav"), ("there.wav", "there.wav/a.wav")]:
        assert plan([source], tmp_path / output) == [Job(source, tmp_path / target)]
    other = write(tmp_path / "x" / "b.wav")
    assert [job.target for job in plan([source, other], tmp_path / "o.wav")] == [
        tmp_path / "o.wav" / "a.wav",
        tmp_path / "o.wav" / "b.wav",
    ]


def test_a_corrupt_file_is_reported_and_the_others_are_done(tmp_path, model):
    for name in "abc":
        write(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "in" / "b.wav").write_text("no sound\n" * 50)
    done = []
    (error,) = run(plan([tmp_path / "in"], tmp_path / "out"), model, lambda *at: done.append(at))
    assert str(error).startswith(f"{tmp_path / 'in' / 'b.wav'}: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "c.wav"]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_an_output_that_exists_is_refused_unless_it_may_be_overwritten(tmp_path, model):
    source, target = write(tmp_path / "a.wav"), write(tmp_path / "b.wav", np.zeros(3))
    with pytest.raises(AudioError, match=re.escape(f"{target}: exists already")):
        plan([source], target)
    assert list(run(plan([source], target, overwrite=True), model)) == []
    assert stored(target) == stored(source)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_itself_is_refused(tmp_path, overwrite):
    source = write(tmp_path / "in" / "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for given, output in [(source, source), (source, tmp_path / "in"), (tmp_path / "in", tmp_path / "link")]:
        with pytest.raises(AudioError, match=r"a\.wav: is the input itself"):
            plan([given], output, overwrite=overwrite)


def test_an_output_that_is_another_input_is_refused(tmp_path):
    write(tmp_path / "in" / "a.wav")
    lost = write(tmp_path / "in" / "x" / "a.wav")  # would be overwritten before it is read
    with pytest.raises(AudioError, match=re.escape(f"{lost}: is an input, too")):
        plan([tmp_path / "in"], tmp_path / "in" / "x", overwrite=True)


def test_two_inputs_for_one_output_are_refused(tmp_path):
    one, other = write(tmp_path / "1" / "a.wav"), write(tmp_path / "2" / "a.wav")
    target = tmp_path / "out" / "a.wav"
    with pytest.raises(AudioError, match=re.escape(f"{target}: wanted by {one} and {other}")):
        plan([one, other], tmp_path / "out")


def test_missing_and_empty_inputs_are_named(tmp_path):
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'none.wav'}: no such file or folder")):
        plan([tmp_path / "none.wav"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'empty'}: no sound files")):
        plan([tmp_path / "empty"], tmp_path / "out")


def test_another_format_is_refused_by_both_names(tmp_path):
    source, target = write(tmp_path / "a.wav"), tmp_path / "b.flac"
    with pytest.raises(AudioError, match=re.escape(f"{target}: another format than a.wav, expected .wav")):
        enhance_file(source, target, IDENTITY)
    assert not target.exists()


def test_an_output_folder_that_cannot_be_made_is_reported(tmp_path):
    source, blocked = write(tmp_path / "a.wav"), tmp_path / "out"
    jobs = plan([source], blocked)
    blocked.write_text("a file where the folder should be")
    (error,) = run(jobs, IDENTITY)
    assert isinstance(error, AudioError) and str(error).startswith(f"{blocked / 'a.wav'}: ")
