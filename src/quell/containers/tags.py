"""Tags and padding that other programs put before and after the sound of a file."""

from typing import BinaryIO

LONGEST_TEXT = 4_096  # bytes; sound is never text for so long
LONGEST_PADDING = 1 << 20  # bytes of zeros: a cluster of a disk; more are silence
ID3V1, APE, LYRICS = b"TAG", b"APETAGEX", b"LYRICS200"


def size_of_id3(head: bytes) -> int:
    """Size in bytes of the ID3v2 tag (id3.org, 2.4.0) that begins with these 10 bytes; 0 where they are none."""
    if len(head) < 10 or head[:3] != b"ID3" or 0xFF in head[3:5] or max(head[6:10]) > 0x7F:
        return 0
    size = sum(byte << 7 * (3 - number) for number, byte in enumerate(head[6:10]))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def after_tags(file: BinaryIO, place: int = 0) -> int:
    """The place in bytes after the ID3v2 tags at `place`."""
    while True:
        file.seek(place)
        size = size_of_id3(file.read(10))
        if not size:
            return place
        place += size


def before_tags(file: BinaryIO, start: int, stop: int) -> int:
    """The end in bytes of what stands from `start` to `stop`, without tags at its end: ID3v1, APEv2, Lyrics3, ID3v2."""
    while True:
        file.seek(max(start, stop - 128))
        tail = file.read(stop - file.tell())
        size = 0
        if len(tail) == 128 and tail[:3] == ID3V1:
            size = 128
        elif tail[-32:-24] == APE:
            size = int.from_bytes(tail[-20:-16], "little") + (32 if tail[-9] & 0x80 else 0)
        elif tail[-9:] == LYRICS and tail[-15:-9].isdigit():
            size = int(tail[-15:-9]) + 15
        elif tail[-10:-7] == b"3DI":  # the footer of an ID3v2 tag at the end
            size = size_of_id3(b"ID3" + tail[-7:]) + (0 if tail[-5] & 0x10 else 10)
        if not 0 < size <= stop - start:
            return stop
        stop -= size


def is_padding(file: BinaryIO, start: int, stop: int) -> bool:
    """Whether the bytes from `start` to `stop` are no sound: tags, zeros up to a cluster of a disk, or some text."""
    start = after_tags(file, start)
    stop = before_tags(file, start, stop)
    if stop - start > LONGEST_PADDING:
        return False
    file.seek(start)
    content = file.read(max(0, stop - start))
    if not any(content):
        return True
    return len(content) <= LONGEST_TEXT and all(32 <= byte < 127 or byte in b"\t\r\n\0" for byte in content)
