"""Tags and padding that other programs put before and after the sound of a file."""

from typing import BinaryIO

LONGEST_TEXT = 1 << 20  # bytes
BLOCK = 1 << 20  # bytes that are read at once
ID3V1, APE, LYRICS = b"TAG", b"APETAGEX", b"LYRICS200"


def size_of_id3(head: bytes) -> int:
    """Size in bytes of the ID3v2 tag (id3.org, 2.4.0) that begins with these 10 bytes; 0 where they are none."""
    if len(head) < 10 or head[:3] != b"ID3" or 0xFF in head[3:5] or max(head[6:10]) > 0x7F:
        return 0
    size = sum(byte << 7 * (3 - number) for number, byte in enumerate(head[6:10]))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def after_tags(file: BinaryIO, place: int = 0) -> int:
    """The place in bytes after the tags at `place`: ID3v2, and between files that were joined also ID3v1 and APEv2."""
    while True:
        file.seek(place)
        head = file.read(128)
        size = size_of_id3(head[:10])
        if head[:8] == APE and len(head) >= 32 and head[23] & 0x20:  # the head of a tag
            size = 32 + int.from_bytes(head[12:16], "little")
        elif head[:3] == ID3V1 and len(head) == 128:
            size = 128
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


def after_padding(file: BinaryIO, place: int, stop: int) -> int:
    """The place after tags and zeros; `stop` where nothing else is left."""
    place = after_tags(file, place)
    while place < stop:
        file.seek(place)
        block = file.read(min(BLOCK, stop - place))
        rest = block.lstrip(b"\0")
        place += len(block) - len(rest)
        if rest or not block:
            return after_tags(file, place)
    return stop


def is_padding(file: BinaryIO, start: int, stop: int) -> bool:
    """Whether the bytes from `start` to `stop` are no sound: tags, zeros, or some text."""
    start = after_padding(file, start, stop)
    stop = before_tags(file, start, stop)
    if stop - start > LONGEST_TEXT:
        return False
    file.seek(start)
    content = file.read(max(0, stop - start))
    try:
        text = content.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\ufeff" for letter in text)
