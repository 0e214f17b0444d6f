"""How long an MPEG audio file is: where its first frame does not say, libsndfile guesses, and reads no further."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

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
