"""Whether a sound file was cut off: libsndfile reads what is left of one without a word."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

UNKNOWN = 0xFFFF_FFF0  # and above, or 0: whoever wrote the header did not know how long it would get
OGG_PAGE = 65_307  # bytes at most


def missing_bytes(path: Path) -> int:
    """How many bytes a file lacks of what its header promises; 1 for an Ogg stream without an end; 0 when it is whole
    or makes no promises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(40)
        kind = head[:4]
        if kind in (b"RIFF", b"RF64", b"BW64"):
            return max(0, _end_of_chunk(file, size, b"data", "<") - size)
        if kind == b"RIFX":
            return max(0, _end_of_chunk(file, size, b"data", ">") - size)
        if kind == b"FORM":
            return max(0, _end_of_chunk(file, size, b"SSND", ">") - size)
        if kind == b"riff" and len(head) >= 24:  # Sony's Wave64: 16 bytes of name, 8 of size
            return max(0, int.from_bytes(head[16:24], "little") - size)
        if kind == b".snd" and len(head) >= 12:
            offset, length = struct.unpack(">II", head[4:12])
            return 0 if length >= UNKNOWN else max(0, offset + length - size)
        if kind == b"OggS":
            file.seek(max(0, size - OGG_PAGE))
            tail = file.read()
            last = tail.rfind(b"OggS")
            ended = 0 <= last < len(tail) - 5 and tail[last + 5] & 4
            return 0 if ended else 1
    return 0


def _end_of_chunk(file: BinaryIO, size: int, name: bytes, order: str) -> int:
    """Where the data of a RIFF or IFF file end by its header; 0 when there are none or their length is unknown."""
    place, long_length = 12, 0
    while place + 8 <= size:
        file.seek(place)
        chunk, length = struct.unpack(f"{order}4sI", file.read(8))
        if chunk == b"ds64":  # of RF64, whose lengths have 64 bits
            long_length = int.from_bytes(file.read(16)[8:], "little")
        if chunk == name:
            if length == 0xFFFF_FFFF and long_length:
                length = long_length
            return 0 if length == 0 or UNKNOWN <= length <= 0xFFFF_FFFF else place + 8 + length
        place += 8 + length + length % 2
    return 0
