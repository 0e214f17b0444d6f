"""Pages of Ogg (RFC 3533) and frames of FLAC (RFC 9639)."""

import zlib
from dataclasses import dataclass
from typing import BinaryIO

from quell.containers.search import find
from quell.containers.stream import FLAC_HEADS, Contradiction, Stream, refuse_another
from quell.containers.tags import before_tags, is_padding

FIRST_PAGE, LAST_PAGE = 2, 4  # flags of an Ogg page
HEAD = 12  # bytes by which the head of a file is known
FLAC_INFO = 42  # bytes up to the end of STREAMINFO
FLAC_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)  # Hz, by code
FLAC_TAIL = 1 << 20  # bytes that are searched for the last frame
REFLECTED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
COPIED = 1 << 16  # bytes of a block that are searched at once


def ogg_streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The streams of an Ogg file that follow one another.

    Raises:
        Contradiction: cut off, or damaged.
    """
    place, starts = start, [start]
    ended, complete, sound = False, True, False
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            # Another program's bytes: tags or padding, before the next stream or at the end.
            following = find(file, b"OggS", place, size, lambda _: True)
            if following is None or not ended:
                file.seek(place)
                refuse_another(file.read(COPIED), place, b"OggS")
                complete = is_padding(file, place, size) or ended
                break
            place = following
            continue
        table = file.read(head[26])
        if head[5] & FIRST_PAGE and sound:
            starts.append(place)
            ended = sound = False
        sound = sound or not head[5] & FIRST_PAGE
        page = head[:22] + bytes(4) + head[26:] + table + file.read(sum(table))
        whole = len(page) == 27 + head[26] + sum(table)
        if whole and _ogg_check_sum(page) != int.from_bytes(head[22:26], "little"):
            raise Contradiction(f"damaged: the check sum of the page at byte {place} is another")
        place += len(page) if whole else size
        # Without a mark of the end, the last packet has to end with its page.
        complete = whole and not (table and table[-1] == 255)
        ended = ended or (bool(head[5] & LAST_PAGE) and whole)
    if not (ended or (complete and sound)):
        raise Contradiction("cut off or damaged, its stream does not end")
    if starts == [0]:
        return [Stream()]
    stops = [*starts[1:], size]
    return [Stream(begin, stop) for begin, stop in zip(starts, stops, strict=True)]


def _ogg_check_sum(page: bytes) -> int:
    """CRC-32 as Ogg has it: that of zlib with the bits of each byte the other way round, and of the sum."""
    reflected = zlib.crc32(page.translate(REFLECTED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(REFLECTED), "big")


@dataclass(frozen=True)
class _FlacInfo:
    """STREAMINFO (RFC 9639, 8.2)."""

    block: int  # samples of the largest one; in files of one size all but the last are so large
    rate: int  # Hz
    channels: int
    total: int  # samples of each channel; 0: not known


def flac_streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The streams of a FLAC file that follow one another, each with the count of samples that its frames have.

    Raises:
        Contradiction: frames of another sample rate than the header says.
    """
    starts = [start, *_find_heads(file, _first_frame(file, start))]  # pictures may hold anything
    stops = [*starts[1:], _before_padding(file, start, size)]
    found = [_flac_stream(file, begin, stop) for begin, stop in zip(starts, stops, strict=True)]
    return [Stream()] if found == [Stream(0, stops[0])] else found


def _before_padding(file: BinaryIO, start: int, stop: int) -> int:
    """The end of a file without tags, and without zeros: the last frame ends with a check sum, rarely 0."""
    stop = before_tags(file, start, stop)
    end = stop
    while end > start:
        file.seek(max(start, end - FLAC_TAIL))
        block = file.read(end - file.tell())
        rest = block.rstrip(b"\0")
        end -= len(block) - len(rest)
        if rest:
            break
    return min(stop, end + 2)


def _find_heads(file: BinaryIO, place: int) -> list[int]:
    found = []
    file.seek(place)
    kept = b""
    while block := file.read(COPIED):
        window = kept + block
        refuse_another(window, place - len(kept), b"fLaC")
        for head in FLAC_HEADS:
            at = window.find(head)
            while at >= 0:
                found.append(place - len(kept) + at)
                at = window.find(head, at + 1)
        place += len(block)
        kept = window[-HEAD + 1 :]
    return sorted(set(found))


def _flac_stream(file: BinaryIO, start: int, stop: int) -> Stream:
    file.seek(start)
    head = file.read(FLAC_INFO)
    if len(head) < FLAC_INFO:
        return Stream(start, stop)
    fields = int.from_bytes(head[18:26], "big")
    info = _FlacInfo(int.from_bytes(head[10:12], "big"), fields >> 44, (fields >> 41 & 7) + 1, fields & (1 << 36) - 1)
    total = _last_sample(file, _first_frame(file, start), stop, info)
    if total is None or total <= info.total:
        return Stream(start, stop)
    header = head[:18] + (fields >> 36 << 36 | total).to_bytes(8, "big") + head[26:]
    return Stream(start + FLAC_INFO, stop, header)


def _first_frame(file: BinaryIO, start: int) -> int:
    """The place after the metadata blocks."""
    place = start + 4
    while True:
        file.seek(place)
        head = file.read(4)
        if len(head) < 4:
            return place
        place += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            return place


def _last_sample(file: BinaryIO, first: int, stop: int, info: _FlacInfo) -> int | None:
    """Number of samples up to the end of the last frame; None where no frame is found."""
    file.seek(first)
    rate = _frame_rate(file.read(16))
    if rate is not None and rate != info.rate:
        raise Contradiction(f"{info.rate} Hz in its header, and {rate} Hz in its frames")
    start = max(first, stop - FLAC_TAIL)
    file.seek(start)
    tail = file.read(stop - start)
    ends: list[int] = [0]  # of frames; one that begins where no other ends is an accident
    if start > first:
        ends = []
    last = None
    place = tail.find(b"\xff")
    while place >= 0:
        frame = _frame(tail[place : place + 16], info)
        if frame is not None:
            begin, end = frame
            if begin in ends or (start > first and len(ends) < 8):
                last = end if begin in ends else last
            ends = [*ends[-7:], end]
        place = tail.find(b"\xff", place + 1)
    return last


def _frame_rate(head: bytes) -> int | None:
    code = head[2] & 15 if len(head) > 2 and head[0] == 0xFF and head[1] & 0xFE == 0xF8 else 0
    return FLAC_RATES[code] if 0 < code < len(FLAC_RATES) else None


def _frame(head: bytes, info: _FlacInfo) -> tuple[int, int] | None:
    """First sample of a frame and the one after its last (RFC 9639, 9.1); None where `head` begins no frame."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1 or head[2] >> 4 == 0:
        return None
    first = head[4]
    more = 0 if first < 0x80 else next((n for n in range(1, 7) if not first & (0x80 >> n + 1)), 0)
    number = first & (0x7F >> more + bool(more)) if more else first
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    place = 5 + more
    code = head[2] >> 4
    size = {6: 1, 7: 2}.get(code, 0)
    samples = (
        int.from_bytes(head[place : place + size], "big") + 1
        if size
        else 192
        if code == 1
        else 576 << code - 2
        if code < 6
        else 256 << code - 8
    )
    place += size + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= place or _crc8(head[:place]) != head[place]:
        return None
    begin = number if head[1] & 1 else number * info.block
    return begin, begin + samples


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc
