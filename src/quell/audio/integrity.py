"""Detects truncated containers and chained Ogg streams, and counts MPEG frames.

libsndfile reads the rest of a truncated file without an error, and estimates the length of an MPEG file whose first
frame has no count.
"""

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

UNKNOWN = 0xFFFF_FFF0  # lengths from here on, and 0, were not known when the header was written
MOST_CHUNKS = 10_000  # a file of zeros is an endless list of empty chunks
NIST_HEADER = 1024  # bytes
# kbit/s by (MPEG-1, layer), from index 1 on (ISO 11172-3 and 13818-3, 2.4.2.3). Index 0 leaves the length open.
BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; halved in MPEG-2, and again in 2.5
SEARCHED = 65_536  # bytes between two MPEG frames at most


def flaw(path: Path) -> str | None:
    """Damage that libsndfile does not report: a file shorter than its header says, several Ogg streams one after the
    other. None where the file is whole or its header has no length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(40)
        if head[:4] == b"OggS":
            return _flaw_of_ogg(file, size)
        missing = _end(file, head, size) - size
    return f"cut off, {missing} bytes or more are missing" if missing > 0 else None


def _end(file: BinaryIO, head: bytes, size: int) -> int:
    """Size in bytes that a file should have by its header; 0 where the header has no length."""
    kind = head[:4]
    if kind in (b"RIFF", b"RF64", b"BW64"):
        return _end_of_chunk(file, size, (b"data",), "<")
    if kind == b"RIFX":
        return _end_of_chunk(file, size, (b"data",), ">")
    if kind == b"FORM":
        return _end_of_chunk(file, size, (b"SSND", b"BODY"), ">")
    if kind == b"caff":
        return _end_of_caf(file, size)
    if kind == b"riff" and len(head) >= 24:  # Sony Wave64: 16 bytes of name, 8 of size
        return int.from_bytes(head[16:24], "little")
    if kind == b".snd" and len(head) >= 12:
        offset, length = struct.unpack(">II", head[4:12])
        return 0 if length >= UNKNOWN else int(offset + length)
    if kind == b"NIST":
        return _end_of_nist(file)
    return 0


def _end_of_chunk(file: BinaryIO, size: int, names: tuple[bytes, ...], order: str) -> int:
    """End of the data chunk of a RIFF or IFF file in bytes; 0 without one or without its length."""
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
        if length < 0:  # data up to the end of the file
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
            break  # cut off, damaged, or bytes appended by another program
        if ended and head[5] & 2:
            return "several Ogg streams one after the other, of which only the first would be read"
        table = file.read(head[26])
        place += 27 + len(table) + sum(table)
        ended = ended or (bool(head[5] & 4) and len(table) == head[26] and place <= size)
    return None if ended else "cut off or damaged, its stream does not end"


class _Frame(NamedTuple):
    kind: tuple[int, int]  # version, layer and rate, which stay the same throughout
    bytes: int
    samples: int


def mpeg_samples(path: Path) -> int | None:
    """Samples of each channel, counted frame by frame; None where the first frame has a count, or there is no frame."""
    total, kind = 0, None
    with path.open("rb") as file:
        place = _after_tags(file, 0)
        while (step := _next(file, place, kind)) is not None:
            place, frame = step
            if kind is None:
                kind = frame.kind
                file.seek(place)
                if _has_count(file.read(frame.bytes)):
                    return None
            place += frame.bytes
            total += frame.samples
    return total or None


def _has_count(frame: bytes) -> bool:
    for name in (b"Xing", b"Info"):
        place = frame.find(name, 4, 48)  # behind the side information
        if place >= 0:
            return bool(frame[place + 7 : place + 8] >= b"\1" and frame[place + 7] & 1)
    return False


def _next(file: BinaryIO, place: int, kind: tuple[int, int] | None) -> tuple[int, _Frame] | None:
    """The frame at `place`, or the next one, with its place; None without one. A frame that is cut off is none."""
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
    hertz = MPEG_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    count = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    slot = 4 if layer == 1 else 1
    slots = count // 8 * 1000 * BITRATES[first, layer][bitrate - 1] // slot // hertz + (head[2] >> 1 & 1)
    return _Frame((head[1] & 0xFE, head[2] & 0x0C), slots * slot, count)


def _after_tags(file: BinaryIO, place: int) -> int:
    """The place after the ID3v2 tags at the front."""
    while True:
        file.seek(place)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return place
        size = sum((byte & 0x7F) << 7 * (3 - number) for number, byte in enumerate(head[6:10]))
        place += 10 + size + (10 if head[5] & 0x10 else 0)
