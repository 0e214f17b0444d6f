"""A truncated file is detected wherever it is cut, a whole one is accepted, and MPEG frames are counted."""

import struct

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.containers import mpeg
from quell.containers.integrity import streams
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
    ("avr", "AVR", "PCM_16"),
    ("mat4", "MAT4", "PCM_16"),
    ("mat4", "MAT4", "DOUBLE"),
    ("mat5", "MAT5", "PCM_16"),
    ("mpc2k", "MPC2K", "PCM_16"),
    ("sds", "SDS", "PCM_16"),
    ("sds", "SDS", "PCM_24"),
    ("voc", "VOC", "PCM_16"),
    ("wve", "WVE", "ALAW"),
]
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 12, 1, 0xA0 << 24) + bytes(8) + b"\3\0\0\0\0\0\0\0a\0bc"
APE += b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 12, 1, 0x80 << 24) + bytes(8)
DECODER_DELAY = 529  # samples, which mpg123 takes off where there is a count
IDS = [f"{container}-{subtype}" for _, container, subtype in KINDS]


def write(path, container="WAV", subtype="PCM_16", length=9_001, rate=8_000):
    samples = 0.1 * np.random.default_rng(0).standard_normal(length)
    soundfile.write(path, samples, rate, format=container, subtype=subtype)
    return path


@pytest.mark.parametrize(("suffix", "container", "subtype"), KINDS, ids=IDS)
def test_a_file_cut_off_anywhere_is_refused_and_a_whole_one_is_not(tmp_path, suffix, container, subtype):
    path = write(tmp_path / f"a.{suffix}", container, subtype)
    assert [stream.start for stream in streams(path)] == [0]
    assert len(audio.read(path)[0]) >= 9_001  # some formats fill up their last block
    content = path.read_bytes()
    tail = content.rfind(b"edct") if container == "CAF" and subtype == "PCM_16" else len(content)
    for share in (0.999, 0.97, 0.8, 0.5, 0.2, 0.02):
        path.write_bytes(content[: int(share * tail)])
        with pytest.raises(AudioError, match=r"expected .*; "):
            audio.read(path)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg", "au"])
def test_bytes_appended_by_other_programs_are_accepted(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(9_001), 8_000)
    path.write_bytes(path.read_bytes() + b"appended")
    assert [stream.start for stream in streams(path)] == [0]
    assert len(audio.read(path)[0]) == 9_001


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_one_after_the_other_are_read_as_one(tmp_path, subtype):
    path = write(tmp_path / "a.ogg", "OGG", subtype)
    one = audio.read(path)[0]
    path.write_bytes(2 * path.read_bytes())
    assert soundfile.info(path).frames == 9_001  # the second would be lost
    np.testing.assert_array_equal(audio.read(path)[0], np.concatenate([one, one]))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_stream_without_an_end_is_read_to_its_last_page(tmp_path, subtype):
    path = write(tmp_path / "a.ogg", "OGG", subtype, length=90_000)
    whole = audio.read(path)[0]
    content = path.read_bytes()
    last = content.rindex(b"OggS")
    path.write_bytes(content[:last])
    short = audio.read(path)[0]
    assert len(whole) * 0.4 < len(short) < len(whole)
    path.write_bytes(content[: last + 40])
    with pytest.raises(AudioError, match="cut off or damaged"):
        audio.read(path)


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
    assert [stream.start for stream in streams(path)] == [0]


def mp3(path, rate=44_100, channels=1, mode="CONSTANT", seconds=2, loud_first=True, with_count=True):
    """Noise in one half, so that a variable bit rate varies."""
    samples = 0.3 * np.random.default_rng(0).standard_normal((seconds * rate, channels))
    samples[slice(len(samples) // 2, None) if loud_first else slice(0, len(samples) // 2)] = 0
    soundfile.write(path, samples, rate, bitrate_mode=mode, compression_level=0.5)
    if not with_count:
        content = path.read_bytes()
        first = next(at for at in range(4, len(content)) if content[at : at + 2] == content[:2])
        path.write_bytes(content[first:])
    return path


def counts(path):
    """Samples of each part of an MPEG file, and what its head says of them in frames."""
    with path.open("rb") as file:
        return [(part.samples, part.declared) for part in mpeg.split(file, path.stat().st_size)]


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_count_of_frames_is_the_number_of_decoded_samples(tmp_path, rate, channels):
    path = mp3(tmp_path / "a.mp3", rate, channels, with_count=False)
    ((count, declared),) = counts(path)
    assert declared is None
    assert count == len(audio.read(path)[0]) == audio.AudioFile(path).frames
    assert 0 <= count - 2 * rate <= 3 * 1_152  # the encoder fills up whole frames, and adds some in front


def test_a_count_in_the_first_frame_is_that_of_the_frames(tmp_path):
    ((count, declared),) = counts(mp3(tmp_path / "a.mp3"))
    assert count == 1_152 * declared
    assert audio.AudioFile(tmp_path / "a.mp3").frames == 88_200


def test_tags_before_and_after_the_frames_are_not_counted(tmp_path):
    path = mp3(tmp_path / "a.mp3", with_count=False)
    bare = counts(path)[0][0]
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 16, 0]) + bytes(2_048)
    path.write_bytes(tag + path.read_bytes() + b"TAG" + bytes(125))
    assert counts(path)[0][0] == bare == len(audio.read(path)[0])


def test_a_frame_that_is_cut_off_does_not_count(tmp_path):
    path = mp3(tmp_path / "a.mp3", with_count=False)
    whole = counts(path)[0][0]
    path.write_bytes(path.read_bytes()[:-1])
    assert counts(path)[0][0] == whole - 1_152


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), APE, b"TAG" + bytes(125) + b"ID3\4\0\0\0\0\0\x0a" + bytes(10)])
def test_tags_between_mp3_files_that_were_joined_are_passed_over(tmp_path, tag):
    path = mp3(tmp_path / "a.mp3")
    one = audio.read(path)[0]
    path.write_bytes(path.read_bytes() + tag + path.read_bytes())
    np.testing.assert_allclose(audio.read(path)[0], np.tile(one, (2, 1)), atol=1e-6)


@pytest.mark.parametrize("with_count", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_an_mp3_file_with_damaged_frames_is_refused(tmp_path, with_count, frames):
    path = mp3(tmp_path / "a.mp3", with_count=with_count)
    content = bytearray(path.read_bytes())
    place = content.find(content[:2], len(content) // 2)
    for _ in range(frames):
        content[place : place + 2] = b"\0\1"
        place = content.find(content[:2], place)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"damaged, \d+ bytes from byte \d+ on are no frames of MPEG, expected"):
        audio.AudioFile(path)


def test_a_file_without_mpeg_frames_has_no_count(tmp_path):
    for content in (b"", b"\xff", b"\xff" * 100, bytes(1_000)):
        (tmp_path / "a.mp3").write_bytes(content)
        assert counts(tmp_path / "a.mp3") == []


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (44_100, 1), (16_000, 2), (8_000, 1)])
def test_a_variable_bit_rate_without_a_count_is_read_whole(tmp_path, loud_first, rate, channels):
    path = mp3(tmp_path / "a.mp3", rate, channels, mode="VARIABLE", loud_first=loud_first, with_count=False)
    count = counts(path)[0][0]
    assert soundfile.info(path).frames != count  # by the bit rate of the first frame
    samples = audio.read(path)[0]
    assert audio.AudioFile(path).frames == len(samples) == count - DECODER_DELAY
    loud, soft = (samples[part] for part in (slice(0, rate), slice(-rate + 4_000, None)))
    assert (loud.std() > 0.1) == loud_first
    assert (soft.std() > 0.1) != loud_first


def test_mp3_files_one_after_the_other_are_read_as_one(tmp_path):
    path = mp3(tmp_path / "a.mp3")
    one = audio.read(path)[0]
    path.write_bytes(3 * path.read_bytes())
    np.testing.assert_allclose(audio.read(path)[0], np.tile(one, (3, 1)), atol=1e-6)


def test_a_count_of_too_few_frames_is_corrected(tmp_path):
    path = mp3(tmp_path / "a.mp3")
    one, content = audio.read(path)[0], path.read_bytes()
    place = max(content.find(b"Info"), content.find(b"Xing")) + 8
    frames = int.from_bytes(content[place : place + 4], "big")
    path.write_bytes(content[:place] + (frames // 3).to_bytes(4, "big") + content[place + 4 :])
    np.testing.assert_allclose(audio.read(path)[0], one, atol=1e-6)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (44_100, 2)])
def test_frames_of_another_kind_on_the_way_are_refused(tmp_path, rate, channels):
    first, second = mp3(tmp_path / "a.mp3"), mp3(tmp_path / "b.mp3", rate, channels)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(
        AudioError, match=rf"a\.mp3: 1 channels at 44100 Hz and, from byte \d+ on, {channels} channels at {rate} Hz"
    ):
        audio.AudioFile(first)


def test_an_mp3_file_read_in_blocks_equals_one_block(tmp_path):
    samples = 0.2 * np.sin(np.arange(200_001) / 9)[:, None]
    soundfile.write(tmp_path / "a.mp3", samples, 16_000)
    recording = audio.AudioFile(tmp_path / "a.mp3")
    (whole,) = recording.blocks(300_000)
    for frames in (999, 65_536):
        np.testing.assert_array_equal(np.concatenate(list(recording.blocks(frames))), whole)
    assert np.abs(whole - samples).max() < 0.05  # after a seek it would be noise as loud as the tone


def test_an_mp3_file_without_its_last_frame_is_refused(tmp_path):
    path = mp3(tmp_path / "a.mp3")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AudioError, match=r"a\.mp3: \d+ of 88200 samples can be read, expected all"):
        audio.read(path)
