"""Sound files are found, read, checked and written; what is read is what was written."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio import Format, writer
from quell.errors import AudioError

# Container, sub-format and the largest error of a sample: half a step of an integer format. Lossy ones are apart.
EXACT = [("WAV", "PCM_16", 2**-16), ("WAV", "PCM_24", 2**-24), ("WAV", "FLOAT", 0.0), ("FLAC", "PCM_16", 2**-16)]


def tone(frequency, rate, length):
    return np.sin(2 * np.pi * frequency / rate * np.arange(length)).astype(np.float32)


@pytest.mark.parametrize(("container", "subtype", "step"), EXACT)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_written_samples_are_read_back_within_half_a_step(tmp_path, container, subtype, step, channels):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (1_001, channels)).astype(np.float32)
    path = tmp_path / f"a.{container.lower()}"
    writer.write(path, samples, Format(44_100, container, subtype))
    samples_read, stored = audio.read(path)
    assert stored == Format(44_100, container, subtype)
    # libsndfile scales by 2 ** 15 - 1 on the way out and 2 ** 15 on the way in: one more step at full scale.
    assert np.abs(samples_read - samples).max() <= 3 * step
    assert samples_read.shape == (1_001, channels)


def test_samples_of_one_axis_are_one_channel(tmp_path):
    writer.write(tmp_path / "a.wav", tone(440, 8_000, 100), Format(8_000, "WAV", "FLOAT"))
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0], tone(440, 8_000, 100)[:, None])


def test_integer_formats_are_clipped_at_full_scale(tmp_path):
    writer.write(tmp_path / "a.wav", np.float32([2.0, -3.0, 0.5]), Format(8_000, "WAV", "PCM_16"))
    assert audio.read(tmp_path / "a.wav")[0][:, 0].tolist() == pytest.approx([1, -1, 0.5], abs=2**-14)


def test_ogg_of_a_minute_and_longer_is_written_whole(tmp_path):
    # In a process of its own: written in one call, 50 s at 48 kHz overflow libsndfile's stack and end the process.
    script = (
        "import sys, numpy as np; from pathlib import Path; from quell import audio\n"
        "samples = np.zeros((3_000_000, 1), np.float32); samples[-2000:] = 0.5\n"
        "audio.write(Path(sys.argv[1]), samples, audio.Format(48_000, 'OGG', 'VORBIS'))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.ogg")], check=True)
    samples, _ = soundfile.read(tmp_path / "a.ogg")
    assert len(samples) == 3_000_000
    assert samples[-1_900:-100].mean() == pytest.approx(0.5, abs=0.05)  # Vorbis keeps a constant to some per cent
    assert np.abs(samples[:-3_000]).max() < 0.05


def test_read_mono_is_the_mean_of_the_channels_at_the_given_rate(tmp_path):
    one, other = tone(200, 16_000, 8_000), tone(700, 16_000, 8_000)
    soundfile.write(tmp_path / "a.wav", np.stack([one, other], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read_mono(tmp_path / "a.wav", 16_000), (one + other) / 2, atol=1e-7)
    expected = audio.resample((one + other) / 2, 16_000, 8_000)
    np.testing.assert_allclose(audio.read_mono(tmp_path / "a.wav", 8_000), expected, atol=1e-6)  # float32


def test_find_gives_sound_files_at_any_depth_sorted_and_nothing_hidden(tmp_path):
    recordings = ["a/b/c.FLAC", "a/z.wav", "b.ogg", "d.mp3"]
    for name in [*recordings, "a/.hidden.wav", ".git/e.wav", "README", "notes.txt", "data.csv", "x.raw"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in audio.find(tmp_path)] == recordings


def test_find_lists_a_folder_inside_a_hidden_one(tmp_path):
    (tmp_path / ".cache" / "speech").mkdir(parents=True)
    (tmp_path / ".cache" / "speech" / "a.wav").touch()
    assert [path.name for path in audio.find(tmp_path / ".cache" / "speech")] == ["a.wav"]


def test_find_follows_links_but_no_circles_and_lists_broken_links(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/a/1.wav", "elsewhere/2.wav"):
        (tmp_path / name).touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "above").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "forth").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "gone.wav").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    found = [path.relative_to(tmp_path / "in").as_posix() for path in audio.find(tmp_path / "in")]
    assert found == [
        "a/1.wav",
        "a/forth/2.wav",
        "gone.wav",
        "linked/2.wav",
        "linked/back/1.wav",
        "twice/2.wav",
        "twice/back/1.wav",
    ]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):  # root may list any
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'locked'}: Permission denied, expected a folder")):
        audio.find(tmp_path)


def test_file_names_that_are_not_utf_8_are_read_and_written(tmp_path):
    path = tmp_path / os.fsdecode(b"not\xff\xfetext\n.wav")
    writer.write(path, tone(440, 8_000, 100), Format(8_000, "WAV", "FLOAT"))
    np.testing.assert_array_equal(audio.read(path)[0], tone(440, 8_000, 100)[:, None])


@pytest.mark.parametrize(
    ("name", "found"), [("pipe.wav", "not a file"), ("folder.wav", "not a file"), ("a.raw", "samp")]
)
def test_a_pipe_a_folder_and_a_headerless_file_are_refused_at_once(tmp_path, name, found):
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for a writer
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / name}: {found}") + ".*, expected a sound file"):
        audio.AudioFile(tmp_path / name)


@pytest.mark.parametrize(("channels", "rate"), [(257, 8_000), (1, 999), (1, 1_000_001)])
def test_a_rate_or_number_of_channels_out_of_range_is_refused(tmp_path, channels, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros((9, channels)), rate)
    with pytest.raises(AudioError, match=re.escape(f"a.wav: {channels} channels at {rate} Hz, expected 1 to 256")):
        audio.AudioFile(tmp_path / "a.wav")


def test_a_file_that_is_read_back_with_another_length_is_refused(tmp_path):
    # ADPCM fills up its last block: 500 samples of a file by others, whose blocks were shorter.
    with pytest.raises(AudioError, match=r"a\.wav: comes back as .* 1012, .* 500, .*, expected to write WAV/MS_ADPCM"):
        writer.write(tmp_path / "a.wav", np.zeros(500, np.float32), Format(22_050, "WAV", "MS_ADPCM"))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_while_writing_is_passed_on(tmp_path):
    with pytest.raises(ValueError, match="mine"), writer.writing(tmp_path / "a.wav", Format(8_000, "WAV", "FLOAT"), 1):
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_sound_is_an_error(tmp_path):
    (tmp_path / "a.wav").write_text("hello\n" * 100)
    (tmp_path / "half.flac").write_bytes(_half_a_flac(tmp_path))
    for name in ("a.wav", "half.flac", "missing.wav"):
        with pytest.raises(AudioError, match=re.escape(f"{tmp_path / name}: ") + ".*, expected a sound file"):
            audio.read(tmp_path / name)


def _half_a_flac(folder):
    soundfile.write(folder / "whole.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), 8_000)
    content = (folder / "whole.flac").read_bytes()
    return content[: len(content) // 2]


def test_a_file_without_samples_is_an_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 2)), 8_000)
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'a.wav'}: 0 samples, expected at least 1")):
        audio.read(tmp_path / "a.wav")


def test_samples_that_are_not_finite_are_counted_in_the_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([[0.1, np.nan], [np.inf, -np.inf]]), 8_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'a.wav'}: 3 samples are NaN or infinite")):
        audio.read(tmp_path / "a.wav")


def test_a_format_that_cannot_hold_the_rate_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'a.opus'}: ") + ".*OGG/OPUS at 44100 Hz"):
        writer.write(tmp_path / "a.opus", np.zeros(100, np.float32), Format(44_100, "OGG", "OPUS"))
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'none' / 'a.wav'}: ") + ".*WAV/PCM_16 at 8000 Hz"):
        writer.write(tmp_path / "none" / "a.wav", np.zeros(100, np.float32), Format(8_000, "WAV", "PCM_16"))
    assert list(tmp_path.iterdir()) == []
