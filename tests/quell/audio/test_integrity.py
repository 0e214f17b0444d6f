"""A file that was cut off is noticed wherever it was cut, and a whole one is not suspected."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audio.integrity import flaw
from quell.errors import AudioError

KINDS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAVEX", "PCM_24"),
    ("wav", "WAV", "GSM610"),
    ("rf64", "RF64", "FLOAT"),
    ("w64", "W64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("aifc", "AIFF", "FLOAT"),
    ("svx", "SVX", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"),
    ("sph", "NIST", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
]
IDS = [f"{container}-{subtype}" for _, container, subtype in KINDS]


def write(path, container="WAV", subtype="PCM_16", length=9_001, rate=8_000):
    samples = 0.1 * np.random.default_rng(0).standard_normal(length)
    soundfile.write(path, samples, rate, format=container, subtype=subtype)
    return path


@pytest.mark.parametrize(("suffix", "container", "subtype"), KINDS, ids=IDS)
def test_a_file_cut_off_anywhere_is_refused_and_a_whole_one_is_not(tmp_path, suffix, container, subtype):
    path = write(tmp_path / f"a.{suffix}", container, subtype)
    assert flaw(path) is None
    assert len(audio.read(path)[0]) >= 9_001  # some fill up their last block
    content = path.read_bytes()
    tail = content.rfind(b"edct") if container == "CAF" and subtype == "PCM_16" else len(content)
    for share in (0.999, 0.97, 0.8, 0.5, 0.2, 0.02):
        path.write_bytes(content[: int(share * tail)])
        with pytest.raises(AudioError, match=r"expected .*; "):
            audio.read(path)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg", "au"])
def test_what_others_append_is_no_flaw(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(9_001), 8_000)
    path.write_bytes(path.read_bytes() + b"appended by others")
    assert flaw(path) is None
    assert len(audio.read(path)[0]) == 9_001


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_one_after_the_other_are_refused(tmp_path, subtype):
    path = write(tmp_path / "a.ogg", "OGG", subtype)
    path.write_bytes(2 * path.read_bytes())
    assert soundfile.info(path).frames == 9_001  # the second would be lost
    with pytest.raises(AudioError, match=r"a\.ogg: several Ogg streams one after the other"):
        audio.AudioFile(path)


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0xFFFF_FFF0])
def test_a_wave_file_of_unknown_length_is_read_to_its_end(tmp_path, length):
    path = write(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = length.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(audio.read(path)[0]) == 9_001


def test_a_flac_file_of_unknown_length_is_read_to_its_end(tmp_path):
    path = write(tmp_path / "a.flac", "FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert soundfile.info(path).frames > 2**62
    assert audio.AudioFile(path).frames == len(audio.read(path)[0]) == 9_001


def test_a_file_of_empty_chunks_is_answered_at_once(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(write(path).read_bytes()[:36])
    with path.open("r+b") as file:
        file.truncate(2**31)  # a hole: takes no room
    assert flaw(path) is None


def test_an_unfinished_header_is_said_to_be_empty_not_cut_off(tmp_path):
    path = write(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = bytes(4)  # as a recorder leaves it that lost power
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"0 samples, expected at least 1; repair its header"):
        audio.AudioFile(path)
