"""Whether a sound file is whole: libsndfile reads what is left of one without a word."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

UNKNOWN = 0xFFFF_FFF0  # and above, or 0: whoever wrote the header did not know how long it would get
MOST_CHUNKS = 10_000  # a file of zeros is chunks of no length
NIST_HEADER = 1024  # bytes


def flaw(path: Path) -> str | None:
    """What libsndfile passes over in silence: a file that is shorter than its header says, several Ogg streams one
    after the other. None when it is whole or makes no promises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(40)
        if head[:4] == b"OggS":
            return _flaw_of_ogg(file, size)
        missing = _end(file, head, size) - size
    return f"cut off, {missing} bytes or more are missing" if missing > 0 else None


def _end(file: BinaryIO, head: bytes, size: int) -> int:
    """Where a file should end by its header; 0 when it does not say."""
    kind = head[:4]
    if kind in (b"RIFF", b"RF64", b"BW64"):
        return _end_of_chunk(file, size, (b"data",), "<")
    if kind == b"RIFX":
        return _end_of_chunk(file, size, (b"data",), ">")
    if kind == b"FORM":
        return _end_of_chunk(file, size, (b"SSND", b"BODY"), ">")
    if kind == b"caff":
        return _end_of_caf(file, size)
    if kind == b"riff" and len(head) >= 24:  # Sony's Wave64: 16 bytes of name, 8 of size
        return int.from_bytes(head[16:24], "little")
    if kind == b".snd" and len(head) >= 12:
        offset, length = struct.unpack(">II", head[4:12])
        return 0 if length >= UNKNOWN else int(offset + length)
    if kind == b"NIST":
        return _end_of_nist(file)
    return 0


def _end_of_chunk(file: BinaryIO, size: int, names: tuple[bytes, ...], order: str) -> int:
    """Where the data of a RIFF or IFF file end; 0 when there are none or their length is unknown."""
    place, long_length = 12, 0
    for _ in range(MOST_CHUNKS):
        if place + 8 > size:
            break
        file.seek(place)
        chunk, length = struct.unpack(f"{order}4sI", file.read(8))
        if chunk == b"ds64":  # of RF64, whose lengths have 64 bits
            long_length = int.from_bytes(file.read(16)[8:], "little")
        if chunk in names:
            if length == 0xFFFF_FFFF and long_length:
                length = long_length
            return 0 if length == 0 or UNKNOWN <= length <= 0xFFFF_FFFF else place + 8 + length
        place += 8 + length + length % 2
    return 0


def _end_of_caf(file: BinaryIO, size: int) -> int:
    place = 8
    for _ in range(MOST_CHUNKS):
        if place + 12 > size:
            break
        file.seek(place)
        chunk, length = struct.unpack(">4sq", file.read(12))
        if length < 0:  # of data only: up to the end of the file
            return 0
        if chunk == b"data":
            return int(place + 12 + length)
        place += 12 + length
    return 0


def _end_of_nist(file: BinaryIO) -> int:
    file.seek(0)
    lines = [line.split() for line in file.read(NIST_HEADER).splitlines()]
    fields = {words[0]: words[2] for words in lines if len(words) == 3}
    try:
        header = int(lines[1][0])
        counts = [int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count")]
    except (IndexError, KeyError, ValueError):
        return 0
    return header + counts[0] * counts[1] * counts[2]


def _flaw_of_ogg(file: BinaryIO, size: int) -> str | None:
    """Ogg (RFC 3533) is pages: a header, a table of the segments' lengths, the segments. Bit 1 of the flags marks the
    first page of a stream, bit 2 its last."""
    place, ended = 0, False
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            break  # cut off, damaged, or something that others appended
        if ended and head[5] & 2:
            return "several Ogg streams one after the other, of which only the first is heard"
        table = file.read(head[26])
        place += 27 + len(table) + sum(table)
        ended = ended or (bool(head[5] & 4) and len(table) == head[26] and place <= size)
    return None if ended else "cut off or damaged, its stream does not end"


# kbit/s by (MPEG-1, layer), from index 1 on (ISO 11172-3 and 13818-3, 2.4.2.3). Index 0 leaves the length open.
BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; halved in MPEG-2, and again in 2.5


SEARCHED = 65_536  # bytes between two frames at most


class _Frame(NamedTuple):
    kind: tuple[int, int]  # version, layer and rate, which stay the same throughout
    bytes: int
    samples: int


def samples(path: Path) -> int | None:
    """Of each channel, counted frame by frame; None where the first frame says how many, or none can be told."""
    total, kind = 0, None
    with path.open("rb") as file:
        place = _after_tags(file, 0)
        while (found := _next(file, place, kind)) is not None:
            place, frame = found
            if kind is None:
                kind = frame.kind
                file.seek(place)
                if _says_how_many(file.read(frame.bytes)):
                    return None
            place += frame.bytes
            total += frame.samples
    return total or None


def _says_how_many(frame: bytes) -> bool:
    for name in (b"Xing", b"Info"):
        place = frame.find(name, 4, 48)  # behind the side information
        if place >= 0:
            return bool(frame[place + 7 : place + 8] >= b"\1" and frame[place + 7] & 1)
    return False


def _next(file: BinaryIO, place: int, kind: tuple[int, int] | None) -> tuple[int, _Frame] | None:
    """The frame at `place`, or the first behind what is none; a frame that is cut off does not count."""
    file.seek(place)
    head = file.read(4)
    frame = _frame(head)
    if frame is None or frame.kind != (kind or frame.kind):
        around = head + file.read(SEARCHED)
        for ahead in range(1, len(around) - 3):
            if around[ahead] == 0xFF:
                frame = _frame(around[ahead : ahead + 4])
                if frame is not None and frame.kind == (kind or frame.kind):
                    place += ahead
                    break
        else:
            return None
    assert frame is not None
    file.seek(place + frame.bytes - 1)
    return (place, frame) if file.read(1) else None


def _frame(head: bytes) -> _Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz = RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    count = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    slot = 4 if layer == 1 else 1
    slots = count // 8 * 1000 * BITRATES[first, layer][bitrate - 1] // slot // hertz + (head[2] >> 1 & 1)
    return _Frame((head[1] & 0xFE, head[2] & 0x0C), slots * slot, count)


def _after_tags(file: BinaryIO, place: int) -> int:
    """Behind the ID3v2 tags that stand at the front."""
    while True:
        file.seek(place)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return place
        size = sum((byte & 0x7F) << 7 * (3 - number) for number, byte in enumerate(head[6:10]))
        place += 10 + size + (10 if head[5] & 0x10 else 0)
