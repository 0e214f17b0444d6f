"""Frames of MPEG audio (MP2, MP3), counted one by one: libsndfile believes the count in the first frame, or guesses."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from quell.containers.stream import Contradiction, Stream, refuse_another
from quell.containers.tags import after_padding, before_tags, is_padding

# kbit/s by (MPEG-1, layer), from index 1 on (ISO 11172-3 and 13818-3, 2.4.2.3). Index 0 leaves the length open.
BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
IN_WAV = (0x50, 0x55)  # formats of "fmt "
RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; halved in MPEG-2, and again in 2.5
SUFFIXES = (".mp1", ".mp2", ".mp3")
SEARCHED = 1 << 20  # bytes without a frame, after which there is none
RUN = 3  # frames one after the other that are no accident
# libsndfile recognises MPEG in a file without a name only after a tag of ID3v2; this one is empty.
TAG = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)


class Frame(NamedTuple):
    """What the 4 bytes at the head of a frame say."""

    layer: int
    rate: int  # Hz
    channels: int
    bytes: int
    samples: int


@dataclass
class Part:
    """Frames from one head with a count of frames ("Xing" or "Info") up to the next one."""

    start: int
    stop: int
    frame: Frame
    counted: int = 0  # frames of sound
    declared: int | None = None  # the same by the head
    count_place: int = 0
    varies: bool = False  # the bit rate

    @property
    def samples(self) -> int:
        """Of each channel, before a decoder takes off what an encoder added."""
        return self.counted * self.frame.samples


def streams(file: BinaryIO, size: int) -> list[Stream]:
    """The stretches of a file that are decoded one by one; one stream without a header where all is well.

    Raises:
        Contradiction: as `split`.
    """
    parts = list(split(file, size))
    if not parts:
        return [Stream()]
    found = [_stream(file, part) for part in parts]
    if len(found) == 1 and found[0].header == TAG:
        return [Stream(samples=found[0].samples)]
    return found


def _stream(file: BinaryIO, part: Part) -> Stream:
    if part.declared is None and part.varies and part.frame.layer == 3:
        return Stream(part.start, part.stop, TAG + _count_frame(file, part))
    if part.declared is None:
        return Stream(part.start, part.stop, TAG, part.samples)
    if part.declared >= part.counted:
        return Stream(part.start, part.stop, TAG)
    file.seek(part.start)
    header = file.read(part.count_place - part.start) + part.counted.to_bytes(4, "big")
    return Stream(part.count_place + 4, part.stop, TAG + header)


def _count_frame(file: BinaryIO, part: Part) -> bytes:
    """A silent frame with the count of those after it, as encoders write it (the "Xing" header)."""
    file.seek(part.start)
    head = bytearray(file.read(4))
    head[1] |= 1  # no check sum
    head[2] = head[2] & 0x0D | 0xE0  # the highest bit rate: room for the count
    frame = frame_of(bytes(head))
    assert frame is not None
    first = head[1] >> 3 & 3 == 3
    side = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[first, frame.channels]
    count = b"Xing" + (1).to_bytes(4, "big") + part.counted.to_bytes(4, "big")
    return (bytes(head) + bytes(side) + count).ljust(frame.bytes, b"\0")


def split(file: BinaryIO, size: int, start: int = 0) -> Iterator[Part]:
    """The parts of a file. Bytes before the first frame and after the last one are passed over, as decoders do.

    Raises:
        Contradiction: the rate or the number of channels changes on the way; frames are damaged.
    """
    if size == 0:
        return
    first, stop = after_padding(file, start, size), before_tags(file, start, size)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        part: Part | None = None
        for place, frame in _frames(content, first, stop):
            if part is not None and not is_padding(file, part.stop, place):
                raise Contradiction(
                    f"damaged, {place - part.stop} bytes from byte {part.stop} on are no frames of MPEG"
                )
            if part is not None and part.frame[:3] != frame[:3]:
                was, now = (f"{each.channels} channels at {each.rate} Hz" for each in (part.frame, frame))
                raise Contradiction(f"{was} and, from byte {place} on, {now}")
            count = _count_place(content, place, frame)
            if count is not None or part is None:
                if part is not None:
                    yield part
                part = Part(place, place, frame)
                if count is not None:
                    part.count_place = count[0]
                    part.declared = count[1]
            if count is None:
                part.counted += 1
                part.varies = part.varies or abs(frame.bytes - part.frame.bytes) > 1
            part.stop = place + frame.bytes
        if part is not None:
            refuse_another(content[part.stop : part.stop + SEARCHED], part.stop)
            yield part


def _frames(content: mmap.mmap, place: int, stop: int) -> Iterator[tuple[int, Frame]]:
    heads: dict[bytes, Frame | None] = {}
    while place + 4 <= stop:
        head = content[place : place + 4]
        if head not in heads:
            heads[head] = frame_of(head)
        frame = heads[head]
        if frame is not None and place + frame.bytes <= stop:
            yield place, frame
            place += frame.bytes
            continue
        place = _next_run(content, place + 1, stop)


def _next_run(content: mmap.mmap, place: int, stop: int) -> int:
    """Where the next frames begin that follow one another; `stop` where there are none within SEARCHED."""
    end, stop = stop, min(stop, place + SEARCHED)
    while (place := content.find(b"\xff", place, stop)) >= 0:
        ahead = place
        for _ in range(RUN):
            frame = frame_of(content[ahead : ahead + 4])
            if frame is None or ahead + frame.bytes > end:
                break
            ahead += frame.bytes
        else:
            return place
        if frame is None and place < ahead == end:  # the last frames of a file
            return place
        place += 1
    return end


def frame_of(head: bytes) -> Frame | None:
    """The frame with these 4 bytes at its head; None where they begin none, or one of open length."""
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
    return Frame(layer, hertz, 1 if head[3] >> 6 == 3 else 2, slots * slot, count)


def _count_place(content: mmap.mmap, place: int, frame: Frame) -> tuple[int, int | None] | None:
    """Where a head's count of frames stands, and the count; None where the frame is no head. No count: None."""
    for name in (b"Xing", b"Info"):
        at = content.find(name, place + 4, min(place + 48, place + frame.bytes))  # behind the side information
        if at >= 0:
            if content[at + 7] & 1:
                return at + 8, int.from_bytes(content[at + 8 : at + 12], "big")
            return at, None
    return None
