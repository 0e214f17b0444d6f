"""Tags, marks and pictures of a recording are in its denoised version byte by byte, or it is said that they are not."""

import struct

import numpy as np
import pytest
import soundfile

from quell import audio
from quell.containers import metadata
from quell.containers.metadata import attach, read
from quell.inference.enhancement import enhance_file

RATE = 8_000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(9_001)
TITLE = "Москва 東京, interview of the 3rd of May, part 2"
BEXT = b"Scene 12 take 3".ljust(338, b"\0") + struct.pack("<Q", 48_000 * 3600) + bytes(256)
CUE = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 8_000, b"data", 0, 0, 8_000)


def chunk(name, content, order="<"):
    return name + struct.pack(f"{order}I", len(content)) + content + bytes(len(content) % 2)


def text_of_id3(title):
    text = b"\1" + title.encode("utf-16")
    frame = b"TIT2" + struct.pack(">I", len(text)) + b"\0\0" + text
    return b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame


def block(kind, content):
    return bytes([kind]) + len(content).to_bytes(3, "big") + content


def comments(*fields):
    content = struct.pack("<I", 5) + b"maker" + struct.pack("<I", len(fields))
    for field in map(str.encode, fields):
        content += struct.pack("<I", len(field)) + field
    return content


PICTURE = block(6, struct.pack(">II", 3, 9) + b"image/png" + bytes(20) + struct.pack(">I", 999) + bytes(999))
COMMENTS = block(4, comments(f"TITLE={TITLE}", "MY_FIELD=ours"))


def sound(path, subtype="PCM_16", **settings):
    soundfile.write(path, NOISE, RATE, subtype=subtype, **settings)
    return path.read_bytes()


def wav(path, before=b"", after=b"", order="<", **settings):
    content = sound(path, **settings)
    place = content.index(b"data")
    content = content[:place] + before + content[place:]
    content += bytes(len(content) % 2) + after
    path.write_bytes(content[:4] + struct.pack(f"{order}I", len(content) - 8) + content[8:])


def flac(path):
    content = sound(path)
    info, rest = content[4:42], content[42:]
    place, last = 0, content[4] & 0x80
    while not last:
        last, place = rest[place] & 0x80, place + 4 + int.from_bytes(rest[place + 1 : place + 4], "big")
    blocks = bytes([0]) + info[1:] + COMMENTS + PICTURE + block(0x82, b"own ")
    path.write_bytes(b"fLaC" + blocks + rest[place:])


def test_every_chunk_of_a_wav_file_is_kept_in_order(tmp_path, loaded):
    chunks = [
        chunk(b"bext", BEXT),
        chunk(b"iXML", f"<T>{TITLE}</T>".encode()),
        chunk(b"cue ", CUE),
        chunk(b"own!", b"odd"),
    ]
    listed = chunk(b"LIST", b"INFO" + chunk(b"INAM", TITLE.encode() + b"\0"))
    wav(tmp_path / "a.wav", before=chunks[0] + chunks[1], after=chunks[2] + listed + chunks[3])
    report = enhance_file(tmp_path / "a.wav", tmp_path / "b.wav", loaded)
    assert read(tmp_path / "b.wav").after == b"".join([*chunks[:3], listed, chunks[3]])
    assert not report.tags_lost
    content = (tmp_path / "b.wav").read_bytes()
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    assert len(audio.read(tmp_path / "b.wav")[0]) == len(NOISE)
    assert soundfile.SoundFile(tmp_path / "b.wav").copy_metadata()["title"] == TITLE


@pytest.mark.parametrize(
    ("name", "settings", "order"),
    [("a.rf64", {"format": "RF64"}, "<"), ("a.aiff", {}, ">"), ("a.wav", {"endian": "BIG"}, ">")],
)
def test_chunks_of_other_containers_are_kept(tmp_path, loaded, name, settings, order):
    content = sound(tmp_path / name, **settings)
    own = chunk(b"ANNO" if order == ">" else b"bext", TITLE.encode(), order)
    content += own
    place = 4 if content[:4] != b"RF64" else 20
    kind = f"{order}I" if content[:4] != b"RF64" else "<Q"
    size = struct.pack(kind, len(content) - 8)
    (tmp_path / name).write_bytes(content[:place] + size + content[place + len(size) :])
    enhance_file(tmp_path / name, tmp_path / f"out.{name[2:]}", loaded)
    assert read(tmp_path / f"out.{name[2:]}").after == own
    assert len(audio.read(tmp_path / f"out.{name[2:]}")[0]) == len(NOISE)


def test_comments_pictures_and_own_blocks_of_flac_are_kept(tmp_path, loaded):
    flac(tmp_path / "a.flac")
    assert len(audio.read(tmp_path / "a.flac")[0]) == len(NOISE)
    enhance_file(tmp_path / "a.flac", tmp_path / "b.flac", loaded)
    assert read(tmp_path / "b.flac").before == COMMENTS + PICTURE + block(2, b"own ")
    assert len(audio.read(tmp_path / "b.flac")[0]) == len(NOISE)
    assert soundfile.SoundFile(tmp_path / "b.flac").copy_metadata()["title"] == TITLE


def test_tags_of_mp3_are_kept_in_any_script(tmp_path, loaded):
    tag, old = text_of_id3(TITLE), b"TAG" + b"Title".ljust(125, b"\0")
    (tmp_path / "a.mp3").write_bytes(tag + sound(tmp_path / "a.mp3", "MPEG_LAYER_III") + old)
    enhance_file(tmp_path / "a.mp3", tmp_path / "b.mp3", loaded)
    content = (tmp_path / "b.mp3").read_bytes()
    assert content.startswith(tag)
    assert content.endswith(old)
    assert len(audio.read(tmp_path / "b.mp3")[0]) == len(NOISE)


def test_what_another_format_does_not_keep_is_reported(tmp_path, loaded):
    wav(tmp_path / "a.wav", after=chunk(b"cue ", CUE))
    assert enhance_file(tmp_path / "a.wav", tmp_path / "b.flac", loaded).tags_lost
    wav(tmp_path / "c.wav", after=chunk(b"LIST", b"INFO" + chunk(b"INAM", b"Title\0")))
    assert not enhance_file(tmp_path / "c.wav", tmp_path / "d.flac", loaded).tags_lost
    flac(tmp_path / "e.flac")
    sound(tmp_path / "f.wav")
    assert not enhance_file(tmp_path / "f.wav", tmp_path / "g.flac", loaded).tags_lost


def renamed_field(content, old, new):
    """An Ogg file with a field of another name of the same length, and the check sum of its page (RFC 3533, 6)."""
    place = content.index(old)
    start = content.rindex(b"OggS", 0, place)
    count = content[start + 26]
    stop = start + 27 + count + sum(content[start + 27 : start + 27 + count])
    page = bytearray(content[start:stop].replace(old, new))
    page[22:26] = bytes(4)
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C1_1DB7 if crc & 1 << 31 else 0)) & 0xFFFF_FFFF
    page[22:26] = crc.to_bytes(4, "little")
    return content[:start] + bytes(page) + content[stop:]


@pytest.mark.parametrize(("field", "lost"), [(b"TITLE=", False), (b"FIELD=", True)])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_fields_of_ogg_that_libsndfile_does_not_know_are_reported(tmp_path, loaded, subtype, field, lost):
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", RATE, 1, subtype, format="OGG") as file:
        file.title = TITLE
        file.write(NOISE)
    path = tmp_path / "a.ogg"
    path.write_bytes(renamed_field(path.read_bytes(), b"TITLE=", field))
    report = enhance_file(path, tmp_path / "b.ogg", loaded)
    assert report.tags_lost == lost
    assert soundfile.SoundFile(tmp_path / "b.ogg").copy_metadata().get("title") == (None if lost else TITLE)


def test_metadata_of_one_kind_is_not_put_into_another(tmp_path):
    before = sound(tmp_path / "a.flac")
    attach(tmp_path / "a.flac", metadata.Metadata(b"RIFF", after=chunk(b"cue ", CUE)))
    assert (tmp_path / "a.flac").read_bytes() == before
