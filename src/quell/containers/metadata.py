"""Tags, marks and pictures of a sound file as bytes: taken out of one file, put into another of the same kind.

libsndfile knows ten tags, in Latin-1 for some containers, and drops all else: time codes and cue points of recorders
("bext", "cue ", "iXML"), cover pictures, fields of one's own.
"""

import shutil
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quell.atomic import second
from quell.containers.mpeg import frame_of
from quell.containers.tags import after_padding, after_tags, before_tags

# Chunks that belong to the sound, or to its place in the file.
OF_SOUND = {
    b"fmt ",
    b"fact",
    b"data",
    b"ds64",
    b"PEAK",
    b"JUNK",
    b"PAD ",
    b"FLLR",
    b"COMM",
    b"SSND",
    b"FVER",
    b"VHDR",
    b"BODY",
}
ORDERS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">", b"FORM": ">"}
FAMILY = {b"RF64": b"RIFF", b"BW64": b"RIFF"}
OF_FLAC = (2, 4, 5, 6)  # application, comments, cue sheet, picture (RFC 9639, 8.1)
CAF_HEAD = 1 << 16  # bytes that are looked at
MOST = 1 << 26  # bytes; more is no tag
OGG_NAMES = {"DESCRIPTION": "comment"}  # libsndfile's name, where it is another
MPEG, FLAC, LAST = b"MPEG", b"fLaC", 0x80


@dataclass(frozen=True)
class Metadata:
    """What a file of a kind says besides its sound: before it, and after it."""

    kind: bytes
    before: bytes = b""
    after: bytes = b""
    complete: bool = True  # whether there is nothing else

    @property
    def is_text(self) -> bool:
        """Whether there are only tags that are text, most of which other kinds of file have, too."""
        if self.kind in ORDERS:
            return all(name == b"LIST" for name in _names(self.after, ORDERS[self.kind]))
        return b"APIC" not in self.before if self.kind == MPEG else not self.before or self.before[0] & ~LAST == 4


def read(path: Path) -> Metadata | None:
    """The metadata of a file, None for a kind of file from which it cannot be taken."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = after_tags(file)
        file.seek(start)
        mark = file.read(4)
        stop = before_tags(file, start, size)
        outside = start > 0 or stop < size  # tags of other kinds of file
        if mark in ORDERS:
            chunks, complete = _chunks(file, start, stop, ORDERS[mark])
            return Metadata(FAMILY.get(mark, mark), after=b"".join(chunks), complete=complete and not outside)
        if mark == FLAC:
            blocks = [raw for kind, raw in _blocks(file, start) if kind in OF_FLAC]
            return Metadata(FLAC, before=b"".join(blocks), complete=not outside)
        if not mark.strip(b"\0"):  # some players leave room behind their tag
            start = after_padding(file, start, size)
            file.seek(start)
            mark = file.read(4)
        if frame_of(mark) is None:
            return None
        file.seek(0)
        before = file.read(start)
        file.seek(stop)
        return Metadata(MPEG, before, file.read(size - stop))


def has_more(path: Path, kept: Collection[str], found: Metadata | None) -> bool:
    """Whether a file says more than the tags `kept`, by libsndfile's names; `found` is what `read` has returned."""
    if found is not None:
        return not (found.complete and found.is_text)
    with path.open("rb") as file:
        mark = file.read(4)
        if mark == b"caff":
            head = file.read(CAF_HEAD)
            return any(name in head for name in (b"info", b"mark", b"strg")) and not kept
        if mark != b"OggS":
            return False
        # The encoder's name is that of the encoder that wrote the file.
        names = (name for name in _ogg_comments(file) if not name.startswith("ENCODER"))
        return any(OGG_NAMES.get(name, name.lower()) not in kept for name in names)


def attach(path: Path, found: Metadata) -> None:
    """Puts metadata into a file without; into one of another kind nothing."""
    with path.open("rb") as file:
        mark = file.read(4)
    kind = FAMILY.get(mark, MPEG if frame_of(mark) is not None else mark)
    if kind != found.kind or not (found.before or found.after):
        return
    if found.kind in ORDERS:
        _append_chunks(path, found.after)
        return
    tagged = second(path)
    try:
        with path.open("rb") as file, tagged.open("wb") as target:
            _copy_with(found, file, target)
        tagged.replace(path)
    finally:
        tagged.unlink(missing_ok=True)


def _copy_with(found: Metadata, file: BinaryIO, target: BinaryIO) -> None:
    if found.kind == FLAC:
        blocks = list(_blocks(file, 0))
        kept = sorted((block for block in blocks if block[0] not in OF_FLAC), key=lambda block: block[0])
        target.write(FLAC + b"".join(raw for _, raw in kept) + _marked_last(found.before))
        file.seek(4 + sum(len(raw) for _, raw in blocks))
    else:
        file.seek(after_tags(file))
        target.write(found.before)
    shutil.copyfileobj(file, target)
    target.write(found.after)


def _chunks(file: BinaryIO, start: int, stop: int, order: str) -> tuple[list[bytes], bool]:
    """Each chunk but those of the sound, and whether none of them was too long. Bytes that are no chunk are no tags."""
    found: list[bytes] = []
    long_length, place, padding = 0, start + 12, 0
    while place + 8 <= stop:
        file.seek(place)
        head = file.read(8)
        name, length = struct.unpack(f"{order}4sI", head)
        if name == b"ds64":  # lengths of 64 bits: of the whole, of the sound
            long_length = int.from_bytes(file.read(16)[8:], "little")
        length = long_length if name == b"data" and length == 0xFFFF_FFFF else length
        if name in ORDERS or not all(32 <= byte < 127 for byte in name) or place + 8 + length > stop:
            if not padding:
                return found, True
            place, padding = place - 1, 0  # some programs leave out the byte that fills up an odd length
            continue
        if name not in OF_SOUND:
            if length > MOST:
                return found, False
            found.append(head + file.read(length) + bytes(length % 2))
        padding = length % 2
        place += 8 + length + padding
    return found, True


def _names(chunks: bytes, order: str) -> Iterator[bytes]:
    place = 0
    while place + 8 <= len(chunks):
        name, length = struct.unpack_from(f"{order}4sI", chunks, place)
        yield name
        place += 8 + length + length % 2


def _append_chunks(path: Path, chunks: bytes) -> None:
    with path.open("r+b") as file:
        mark = file.read(4)
        file.seek(0, 2)
        padding = bytes(file.tell() % 2)
        whole = file.tell() + len(padding) + len(chunks) - 8
        if whole >= 1 << 32 and mark not in FAMILY:
            raise OSError("tags that do not fit into 4 GiB beside the sound")
        file.write(padding + chunks)
        if mark in (b"RF64", b"BW64"):
            file.seek(20)  # in "ds64", which comes first
            file.write(struct.pack("<Q", whole))
        else:
            file.seek(4)
            file.write(struct.pack(f"{ORDERS[mark]}I", whole))


def _ogg_comments(file: BinaryIO) -> list[str]:
    """Names of the fields in the second packet of an Ogg stream (Vorbis I, 5; RFC 7845, 5.2), in capitals."""
    packet, packets, place = b"", 0, 0
    while packets < 2 and len(packet) < MOST:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return []
        table = file.read(head[26])
        for length in table:
            content = file.read(length)
            packet = packet + content if packets == 1 else packet
            packets += length < 255
            if packets == 2:
                break
        place += 27 + len(table) + sum(table)
    try:
        at = packet.index(b"vorbis") + 6 if packet[1:7] == b"vorbis" else packet.index(b"OpusTags") + 8
        at += 4 + int.from_bytes(packet[at : at + 4], "little")  # the encoder's name
        names = []
        for _ in range(int.from_bytes(packet[at : at + 4], "little")):
            length = int.from_bytes(packet[at + 4 : at + 8], "little")
            names.append(packet[at + 8 : at + 8 + length].partition(b"=")[0].decode("ascii", "replace").upper())
            at += 4 + length
    except ValueError:
        return []
    return names


def _blocks(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of each metadata block of a FLAC file, none of them marked as the last."""
    place, last = start + 4, False
    while not last:
        file.seek(place)
        head = file.read(4)
        if len(head) < 4:
            return
        last, kind, length = bool(head[0] & LAST), head[0] & ~LAST, int.from_bytes(head[1:], "big")
        yield kind, bytes([kind]) + head[1:] + file.read(length)
        place += 4 + length


def _marked_last(blocks: bytes) -> bytes:
    marked, place = bytearray(blocks), 0
    while place + 4 + int.from_bytes(marked[place + 1 : place + 4], "big") < len(marked):
        place += 4 + int.from_bytes(marked[place + 1 : place + 4], "big")
    marked[place] |= LAST
    return bytes(marked)
