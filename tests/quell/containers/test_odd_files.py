"""A file whose parts contradict one another is read right to the sample, or refused in one line."""

import io
import struct

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.errors import AudioError

RATE = 16_000
LENGTH = 20_000
SOUND = (3000 * np.random.default_rng(0).standard_normal(LENGTH)).astype("<i2")
DATA = SOUND.tobytes()
ID3 = b"ID3\4\0\0\0\0\0\x20" + b"TIT2\0\0\0\4\0\0\3abc" + bytes(18)
ID3V1 = b"TAG" + b"Title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 12, 1, 1 << 31) + bytes(8)
APE_TAG = APE + b"\3\0\0\0\0\0\0\0a\0bcd" + b"APETAGEX" + struct.pack("<IIII", 2000, 32 + 13, 1, 1 << 31) + bytes(8)
LYRICS = b"LYRICSBEGIN" + b"LYR00005hello" + b"000024" + b"LYRICS200"
LIST = b"LIST" + struct.pack("<I", 18) + b"INFOINAM" + struct.pack("<I", 6) + b"Title\0"
UNKNOWN = (0, 0x7FFF_F000, 0x7FFF_FFDB, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FF9B, 0xFFFF_FFD3, 0xFFFF_FFF0, 0xFFFF_FFFF)


def shape(kind=1, channels=1, rate=RATE, bits=16, block=None, per_second=None, more=b""):
    """The content of "fmt "."""
    block = channels * bits // 8 if block is None else block
    return struct.pack("<HHIIHH", kind, channels, rate, per_second or rate * block, block, bits) + more


def wav(data=DATA, fmt=None, said=None, whole=None, before=b"", after=b"", mark=b"RIFF", order="<"):
    """A WAV file; `said` and `whole` are the lengths in its header."""
    fmt = shape() if fmt is None else fmt
    body = b"WAVE" + before + b"fmt " + struct.pack(f"{order}I", len(fmt)) + fmt
    body += b"data" + struct.pack(f"{order}I", len(data) if said is None else said) + data + after
    return mark + struct.pack(f"{order}I", min(len(body), 2**32 - 1) if whole is None else whole) + body


def rifx(said):
    fmt = struct.pack(">HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    return wav(SOUND.astype(">i2").tobytes(), fmt, said, said, mark=b"RIFX", order=">")


def rf64(length, data=DATA, after=b""):
    ds64 = struct.pack("<QQQI", 72 + len(data), length, len(data) // 2, 0)
    body = b"WAVEds64" + struct.pack("<I", 28) + ds64 + b"fmt " + struct.pack("<I", 16) + shape()
    return b"RF64\xff\xff\xff\xff" + body + b"data\xff\xff\xff\xff" + data + after


def encoded(container, subtype=None, sound=SOUND, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=container, subtype=subtype)
    return file.getvalue()


def patched(content, place, value):
    return content[:place] + value + content[place + len(value) :]


def aiff(length=None, frames=None, after=b""):
    content = encoded("AIFF")
    if length is not None:
        content = patched(content, content.index(b"SSND") + 4, struct.pack(">I", length))
    if frames is not None:
        content = patched(content, content.index(b"COMM") + 10, struct.pack(">I", frames))
    return content + after


def caf(length):
    content = encoded("CAF")
    return patched(content, content.index(b"data") + 4, struct.pack(">q", length))


def w64(length, whole=None):
    content = encoded("W64")
    content = patched(content, content.index(b"data") + 16, struct.pack("<Q", length))
    return content if whole is None else patched(content, 16, struct.pack("<Q", whole))


OWN_BLOCK = b"\2\0\0\x0cown fLaC\0\0\0\x22"


def encoded_au():
    file = io.BytesIO()
    soundfile.write(file, SOUND, RATE, format="AU", subtype="PCM_16", endian="LITTLE")
    return file.getvalue()


def flac(total=None, rate=None, sound=SOUND):
    content = bytearray(encoded("FLAC", sound=sound))
    fields = int.from_bytes(content[18:26], "big")
    if total is not None:
        fields = fields >> 36 << 36 | total
    if rate is not None:
        fields = fields & (1 << 44) - 1 | rate << 44
    content[18:26] = fields.to_bytes(8, "big")
    return bytes(content)


def nist(count):
    content = encoded("NIST")
    old, new = f"sample_count -i {LENGTH}\n".encode(), f"sample_count -i {count}\n".encode()
    head = content[:1024].rstrip(b"\0").replace(old, new).ljust(1024, b"\0")
    return head + content[1024:]


TWENTY_FOUR = (SOUND.astype("<i4") << 16).tobytes()  # 24 bits at the top of 4 bytes
PCM = bytes.fromhex("0100000000001000800000aa00389b71")
EXTENSIBLE = struct.pack("<HHI", 22, 24, 4) + PCM

READ = {
    "as it should be": wav(),
    **{f"length {said:#x}": wav(said=said, whole=min(said + 36, 2**32 - 1)) for said in UNKNOWN},
    **{f"RIFX, length {said:#x}": rifx(said) for said in (0, 0xFFFF_FFFF)},
    "length of one second less": wav(said=len(DATA) - 8000, whole=len(DATA) - 8000 + 36),
    "length of the file in place of the sound's": wav(said=len(DATA) + 44),
    "RIFF length 0": wav(whole=0),
    "RIFF length too small": wav(whole=1000),
    "RIFF length too large": wav(whole=2**31),
    "tags after it": wav(after=LIST),
    "tags of another program after it": wav(after=ID3V1),
    "ID3 before it": ID3 + wav(),
    "ID3 before and after it": ID3 + wav() + ID3,
    "APE after it": wav() + APE_TAG,
    "lyrics after it": wav() + LYRICS + ID3V1,
    "zeros after it": wav() + bytes(4096),
    "text after it": wav() + b"written by a recorder\r\n",
    "a chunk cut off after it": wav(after=LIST[:-3]),
    "an empty chunk before it": wav(before=b"JUNK" + bytes(4)),
    "a chunk of odd length before it": wav(before=b"note\3\0\0\0abc\0"),
    "a chunk of odd length without the byte that fills it up": wav(before=b"note\3\0\0\0abc"),
    "24 bits in blocks of 4 bytes": wav(TWENTY_FOUR, shape(bits=24, block=4)),
    "24 bits in blocks of 4 bytes, extensible": wav(TWENTY_FOUR, shape(0xFFFE, bits=24, block=4, more=EXTENSIBLE)),
    "block length 0": wav(fmt=shape(block=0, per_second=2 * RATE)),
    "bytes per second wrong": wav(fmt=shape(per_second=1)),
    "RF64": rf64(len(DATA)),
    "RF64 of unknown length": rf64(2**64 - 1),
    "RF64 of length 0": rf64(0),
    "RF64 with a length too small": rf64(1000),
    "RF64 with zeros after it": rf64(len(DATA), after=bytes(100)),
    "AIFF of length 0": aiff(0),
    "AIFF of unknown length": aiff(0xFFFF_FFFF),
    "AIFF with a length too small": aiff(4008),
    "AIFF with a count too small": aiff(frames=4000),
    "AIFF with zeros after it": aiff(after=bytes(64)),
    "AIFF with ID3 before it": ID3 + aiff(),
    "CAF of unknown length": caf(-1),
    "CAF with a length too small": caf(4004),
    "W64 with a length too small": w64(4024),
    "W64 with the file's length too small": w64(len(DATA) + 24, 4000),
    "AU of unknown length": patched(encoded("AU"), 8, b"\xff" * 4),
    "AU of length 0": patched(encoded("AU"), 8, bytes(4)),
    "AU with a length too small": patched(encoded("AU"), 8, struct.pack(">I", 4000)),
    "AU with text after it": encoded("AU") + b"appended",
    "FLAC of unknown length": flac(0),
    "FLAC with a count too small": flac(5000),
    "FLAC with a count of 1": flac(1),
    "FLAC with ID3 before it": ID3 + flac(),
    "FLAC with ID3 after it": flac() + ID3V1,
    "FLAC with a count too small and tags after it": flac(5000) + ID3V1,
    "NIST": nist(LENGTH),
    "NIST with ID3 after it": nist(LENGTH) + ID3V1,
    "NIST with zeros after it": nist(LENGTH) + bytes(512),
    "W64 with ID3 after it": encoded("W64") + ID3V1,
    "W64 with zeros after it": encoded("W64") + bytes(512),
    "AIFF with a chunk and zeros after it": aiff(after=b"ANNO" + struct.pack(">I", 4) + b"text" + bytes(64)),
    "chunks and zeros after it": wav(after=LIST) + bytes(4096),
    "chunks and text after it": wav(after=LIST) + b"text",
    "a long chunk cut off after it": wav(after=b"cart" + struct.pack("<I", 6000) + bytes(range(200))),
    "text with accents after it": wav() + "<naïve é/>".encode(),
    "a picture after it": wav() + b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(500),
    "megabytes of zeros after it": wav() + bytes(3 << 20),
    **{f"length {said:#x}, chunks after": wav(said=said, whole=said, after=LIST) for said in (0, 2**31, 2**32 - 1)},
    "RF64 of unknown length, chunks after it": rf64(2**64 - 1, after=LIST),
    "AIFF of length 0, a chunk after it": aiff(0, after=b"ANNO" + struct.pack(">I", 4) + b"text"),
    "BW64": b"BW64" + rf64(len(DATA))[4:],
    "FLAC of unknown length with zeros after it": flac(0) + bytes(4096),
    "FLAC with a count too small and megabytes of zeros after it": flac(5000) + bytes(2 << 20),
    "FLAC with the mark of FLAC in a block": flac()[:4] + b"\0" + flac()[5:42] + OWN_BLOCK + flac()[42:],
    "AU, little-endian, with a length too small": patched(encoded_au(), 8, struct.pack("<I", 4000)),
}  # fmt: skip
TWICE = {
    "WAV after WAV": 2 * wav(),
    "WAV with tags after WAV with tags": 2 * wav(after=LIST),
    "WAV after WAV with ID3 between": wav() + ID3 + wav(),
    "WAV after WAV with zeros between": wav() + bytes(100) + wav(),
    "WAV after a WAV that was streamed": wav(said=0) + wav(),
    "WAV with tags, ID3 and a WAV": wav(after=LIST) + ID3V1 + wav(),
    "WAV with tags, zeros and a WAV": wav(after=LIST) + bytes(4096) + wav(),
    "FLAC after FLAC": 2 * flac(),
    "AIFF after AIFF": 2 * aiff(),
}
REFUSED = {
    "cut off": (wav()[:-1000], "cut off, 1000 bytes or more are missing"),
    "cut off before tags": (wav(said=len(DATA) + 1000, whole=len(DATA) + 2000), "cut off, 1000 bytes"),
    "two chunks of sound": (wav(after=wav()[36:]), "two chunks of sound"),
    "WAV after WAV of another rate": (wav() + wav(fmt=shape(rate=8_000)), "1 channels at 16000 Hz, then 1 at 8000 Hz"),
    "WAV after WAV of two channels": (wav() + wav(fmt=shape(channels=2)), "1 channels at 16000 Hz, then 2 at 16000 Hz"),
    "blocks for one of two channels": (wav(fmt=shape(channels=2, block=2)), "blocks of 2 bytes for 2 channels"),
    "blocks for two channels of one": (wav(fmt=shape(block=4)), "blocks of 4 bytes for 1 channels of 16 bits"),
    "floats in blocks of 8 bytes": (wav(fmt=shape(3, bits=32, block=8)), "blocks of 8 bytes for 1 channels of 32 bits"),
    "0 bits": (wav(fmt=shape(bits=0, block=2)), "expected"),
    "0 channels": (wav(fmt=shape(channels=0, block=2)), "expected"),
    "rate 0": (wav(fmt=shape(rate=0, per_second=1)), "expected"),
    "sound before its format": (b"RIFF" + bytes(4) + b"WAVEdata" + struct.pack("<I", len(DATA)) + DATA, "expected"),
    "no sound": (wav(b""), "0 samples"),
    "no sound but tags": (wav(b"", after=LIST), "0 samples"),
    "no chunk of sound": (wav()[:36] + LIST, "expected"),
    "AIFF cut off": (aiff()[:-1000], "cut off, 1000 bytes"),
    "AIFF with a count too large": (aiff(frames=LENGTH + 1), f"a count of {LENGTH + 1} samples in"),
    "AIFF of u-law with a count too large": (
        patched(encoded("AIFF", "ULAW"), encoded("AIFF", "ULAW").index(b"COMM") + 10, struct.pack(">I", LENGTH + 9)),
        f"a count of {LENGTH + 9} samples in",
    ),
    "CAF cut off": (caf(len(DATA) + 2000)[: -1], "cut off"),
    "FLAC with another rate in its frames": (flac(rate=44_100), "44100 Hz in its header, and 16000 Hz in its frames"),
    "FLAC with a count too large": (flac(LENGTH + 5), f"{LENGTH} of {LENGTH + 5} samples"),
    "FLAC after FLAC of another rate": (flac() + encoded("FLAC", rate=8_000), "16000 Hz, then 1 at 8000 Hz"),
    "NIST with a count too small": (nist(LENGTH - 5000), f"a count of {LENGTH - 5000} samples in"),
    "NIST with a count too large": (nist(LENGTH + 500), f"500 of {LENGTH + 500} samples are missing"),
    "AU cut off": (encoded("AU")[:-100], "cut off, 100 bytes"),
    "FLAC after WAV": (wav() + flac(), "another file begins at byte"),
    "FLAC after WAV with tags": (wav(after=LIST) + flac(), "another file begins at byte"),
    "a byte and a WAV after WAV with tags": (wav(after=LIST) + b"x" + wav(), "40045 bytes after the last chunk"),
    "samples after WAV with tags": (wav(after=LIST) + DATA, "40000 bytes after the last chunk"),
    "a streamed chunk of sound after tags": (
        wav(after=LIST + b"data\xff\xff\xff\xff" + DATA), "40008 bytes after the last chunk",
    ),
    "a chunk of sound cut off after tags": (wav(after=LIST + wav()[36:-99]), "39909 bytes after the last chunk"),
    "FLAC and a WAV": (flac() + wav(), "another file begins at byte"),
    "FLAC and an Ogg": (flac() + encoded("OGG", "VORBIS"), "another file begins at byte"),
    "Ogg and a WAV": (encoded("OGG", "VORBIS") + wav(), "another file begins at byte"),
    "Ogg and a FLAC": (encoded("OGG", "VORBIS") + flac(), "another file begins at byte"),
    "MP3 and a WAV": (encoded("MP3") + wav(), "another file begins at byte"),
    "MP3 and a FLAC": (encoded("MP3") + flac(), "another file begins at byte"),
    "AU after AU": (2 * encoded("AU"), "another file begins at byte"),
    "RIFX, blocks for one of two channels": (
        wav(fmt=struct.pack(">HHIIHH", 1, 2, RATE, 2 * RATE, 2, 16), mark=b"RIFX", order=">"),
        "blocks of 2 bytes for 2 channels of 16 bits",
    ),
    "24 bits at the bottom of 4 bytes": (
        wav((SOUND.astype("<i4") << 8).tobytes(), shape(bits=24, block=4)),
        "blocks of 4 bytes for 1 channels of 24 bits",
    ),
    "AU, little-endian, cut off": (encoded_au()[:-100], "cut off, 100 bytes"),
    "only tags": (ID3 + ID3V1, "expected"),
    "only zeros": (bytes(1000), "expected"),
    "nothing": (b"", "expected"),
}  # fmt: skip


def suffix(name):
    return (
        "." + name.split()[0].lower()
        if name.split()[0] in ("AIFF", "CAF", "W64", "AU", "FLAC", "Ogg", "MP3")
        else ".wav"
    )


@pytest.mark.parametrize("name", READ)
def test_a_file_that_can_be_resolved_is_read_right_to_the_sample(tmp_path, name):
    path = tmp_path / f"a{suffix(name)}"
    path.write_bytes(READ[name])
    samples, _ = audio.read(path)
    assert audio.AudioFile(path).frames == LENGTH
    np.testing.assert_array_equal(samples[:, 0] * 32_768, SOUND)


def test_samples_that_look_like_a_chunk_do_not_end_a_sound_of_a_wrong_length(tmp_path):
    loud = SOUND.copy()
    loud[4000:4004] = np.frombuffer(b"A/R/" + struct.pack("<I", 5000), "<i2")  # a name of four letters, and a length
    (tmp_path / "a.wav").write_bytes(wav(loud.tobytes(), said=8000, whole=8036))
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0][:, 0] * 32_768, loud)


@pytest.mark.parametrize("name", TWICE)
def test_files_one_after_the_other_are_read_as_one(tmp_path, name):
    path = tmp_path / f"a{suffix(name)}"
    path.write_bytes(TWICE[name])
    np.testing.assert_array_equal(audio.read(path)[0][:, 0] * 32_768, np.tile(SOUND, 2))


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_resolved_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / f"a{suffix(name)}"
    content, found = REFUSED[name]
    path.write_bytes(content)
    with pytest.raises(AudioError) as error:
        audio.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert found in message
    assert ", expected " in message
    assert "\n" not in message


@pytest.mark.parametrize("between", [b"", ID3, b"ten bytes.", bytes(100)])
def test_ogg_streams_with_something_between_them_are_read_as_one(tmp_path, between):
    content = encoded("OGG", "VORBIS")
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    one = audio.read(path)[0]
    path.write_bytes(content + between + content)
    np.testing.assert_array_equal(audio.read(path)[0], np.concatenate([one, one]))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("place", [0.5, 0.99])
def test_a_page_of_ogg_with_a_flipped_bit_is_refused(tmp_path, subtype, place):
    content = bytearray(encoded("OGG", subtype))
    content[int(place * len(content))] ^= 4
    (tmp_path / "a.ogg").write_bytes(content)
    with pytest.raises(AudioError, match=r"damaged: the check sum of the page at byte \d+ is another"):
        audio.read(tmp_path / "a.ogg")
