"""The length of an MPEG audio file is known, whether its first frame says so or not."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio import integrity
from quell.errors import AudioError


def mp3(path, rate=44_100, channels=1, mode="CONSTANT", seconds=2, loud_first=True, counted=True):
    """Noise in one half, so that a variable bit rate varies."""
    samples = 0.3 * np.random.default_rng(0).standard_normal((seconds * rate, channels))
    samples[slice(len(samples) // 2, None) if loud_first else slice(0, len(samples) // 2)] = 0
    soundfile.write(path, samples, rate, bitrate_mode=mode, compression_level=0.5)
    if not counted:
        content = path.read_bytes()
        first = next(at for at in range(4, len(content)) if content[at : at + 2] == content[:2])
        path.write_bytes(content[first:])
    return path


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_frames_are_counted_as_they_are_decoded(tmp_path, rate, channels):
    path = mp3(tmp_path / "a.mp3", rate, channels, counted=False)
    counted = integrity.samples(path)
    assert counted == len(audio.read(path)[0]) == audio.AudioFile(path).frames
    assert 0 <= counted - 2 * rate <= 3 * 1_152  # the encoder fills up whole frames, and adds some in front


def test_a_file_that_says_its_length_is_not_counted(tmp_path):
    assert integrity.samples(mp3(tmp_path / "a.mp3")) is None
    assert audio.AudioFile(tmp_path / "a.mp3").frames == 88_200


def test_tags_before_and_behind_the_sound_are_no_sound(tmp_path):
    path = mp3(tmp_path / "a.mp3", counted=False)
    bare = integrity.samples(path)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 16, 0]) + bytes(2_048)
    path.write_bytes(tag + path.read_bytes() + b"TAG" + bytes(125))
    assert integrity.samples(path) == bare == len(audio.read(path)[0])


def test_a_frame_that_is_cut_off_does_not_count(tmp_path):
    path = mp3(tmp_path / "a.mp3", counted=False)
    whole = integrity.samples(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert integrity.samples(path) == whole - 1_152


def test_what_is_no_mpeg_has_no_length(tmp_path):
    for content in (b"", b"\xff", b"\xff" * 100, bytes(1_000)):
        (tmp_path / "a.mp3").write_bytes(content)
        assert integrity.samples(tmp_path / "a.mp3") is None


def test_a_variable_bit_rate_without_a_count_is_refused_where_sound_would_be_lost(tmp_path):
    path = mp3(tmp_path / "a.mp3", mode="VARIABLE", counted=False)
    short = soundfile.info(path).frames
    counted = integrity.samples(path)
    assert short < counted
    with pytest.raises(AudioError, match=rf"a\.mp3: no count in its header, by which {short} of {counted} samples"):
        audio.AudioFile(path)


def test_a_variable_bit_rate_without_a_count_is_read_where_all_can_be(tmp_path):
    path = mp3(tmp_path / "a.mp3", mode="VARIABLE", loud_first=False, counted=False)
    assert soundfile.info(path).frames > integrity.samples(path) == len(audio.read(path)[0])


def test_an_mp3_read_in_pieces_is_what_it_is_in_one(tmp_path):
    samples = 0.2 * np.sin(np.arange(200_001) / 9)[:, None]
    soundfile.write(tmp_path / "a.mp3", samples, 16_000)
    recording = audio.AudioFile(tmp_path / "a.mp3")
    (whole,) = recording.blocks(300_000)
    for frames in (999, 65_536):
        np.testing.assert_array_equal(np.concatenate(list(recording.blocks(frames))), whole)
    assert np.abs(whole - samples).max() < 0.05  # it was seeked in: noise as loud as the tone


def test_an_mp3_that_lost_a_frame_is_refused(tmp_path):
    path = mp3(tmp_path / "a.mp3")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AudioError, match=r"a\.mp3: \d+ of 88200 samples can be read, expected all"):
        audio.read(path)
