"""Files of chunks, each with a name and a length: WAV (RIFF, RIFX, RF64, BW64), AIFF and 8SVX (FORM), CAF, Wave64.

The length of the sound is what the file shows, not what the header says. Programs that cannot know it when they write
the header leave a number there; recorders that lose power leave an old one; 32 bits wrap at 4 GiB.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from quell.containers.search import find, occurrences
from quell.containers.stream import Contradiction
from quell.containers.tags import after_padding, before_tags, is_padding

MOST_CHUNKS = 10_000  # a file of zeros would be an endless list of empty chunks
WRAP = 1 << 32
STREAMED = 0x1000  # bytes around 2 and 4 GiB: a length less the header, as programs write it that cannot know it
# Chunks that are believed although they are cut off, and that are looked for after sound of unknown length.
METADATA = (
    {b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"axml", b"cue ", b"smpl", b"inst", b"cart", b"PEAK", b"fact"}
    | {b"acid", b"JUNK", b"PAD ", b"FLLR", b"_PMX", b"afsp", b"DISP", b"levl", b"plst", b"umid", b"minf", b"elm1"}
    | {b"regn", b"chna", b"ANNO", b"APPL", b"NAME", b"AUTH", b"(c) ", b"COMT", b"MARK", b"INST"}
    | {b"info", b"mark", b"strg"}
)
SEARCHED = 1 << 20  # bytes at the end that are searched for such chunks
STRAY = 400  # fewer bytes than these after the last chunk are ignored: 25 ms of 8 kHz
LEAST_S = 0.05  # seconds of samples behind a length that agrees with the file's; less may be anything
INTEGERS, FLOATS, EXTENSIBLE = 1, 3, 0xFFFE  # formats of "fmt "
PLAIN = {INTEGERS, FLOATS, 6, 7, EXTENSIBLE}  # libsndfile reads the last block of others wrong where bytes follow
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the 16 bytes that name a chunk


@dataclass(frozen=True)
class _Layout:
    """How a kind of file writes its chunks."""

    data: tuple[bytes, ...]  # names of the chunk with the sound
    length: str = "<I"  # as `struct` writes the length of a chunk
    first: int = 12  # bytes before the first chunk
    name: int = 4  # bytes of a chunk's name
    whole: int | None = 4  # where the length of the whole stands
    align: int = 2  # bytes; a chunk begins at a multiple
    with_header: bool = False  # whether a chunk's length counts its name and length

    @property
    def head(self) -> int:
        """Bytes of a chunk before its content."""
        return self.name + struct.calcsize(self.length)


_LAYOUTS = {
    b"RIFF": _Layout((b"data",)),
    b"RIFX": _Layout((b"data",), ">I"),
    b"RF64": _Layout((b"data",)),
    b"BW64": _Layout((b"data",)),
    b"FORM": _Layout((b"SSND", b"BODY"), ">I"),
    b"caff": _Layout((b"data",), ">q", first=8, whole=None, align=1),
    b"riff": _Layout((b"data" + W64_TAIL,), "<Q", first=40, name=16, whole=16, align=8, with_header=True),
}
KINDS = frozenset(_LAYOUTS)
OTHER_KINDS = (b"fLaC", b"OggS", b".snd")


@dataclass(frozen=True)
class Chunk:
    """One chunk."""

    name: bytes
    body: int  # place of its content in bytes
    length: int  # of its content, as its header says; negative or huge where it was not known

    @property
    def end(self) -> int:
        return self.body + self.length


class ChunkedFile:
    """One file of chunks, which begins at `start` and ends before `size`, maybe with another one after it.

    Raises:
        Contradiction: parts that say different things, or sound that is cut off.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self.stop = before_tags(file, start, size)
        file.seek(start)
        self.mark, self.form = file.read(4), file.read(8)[4:]
        self.layout = _LAYOUTS[self.mark]
        self.headers: dict[bytes, tuple[int, bytes]] = {}  # place and content of small chunks before the sound
        self.unaligned: list[int] = []  # places of chunks before which a byte is missing
        self.next: int | None = None  # where another file begins

    def sound(self) -> tuple[Chunk, int] | None:
        """The chunk with the sound, and its true length in bytes; None where there is no such chunk."""
        data = self._data()
        return None if data is None else (data, self._true_length(data))

    @property
    def sample_format(self) -> int:
        """As "fmt " of WAV says it; INTEGERS for other containers."""
        content = self.headers.get(b"fmt ", (0, b""))[1]
        return struct.unpack(f"{self.layout.length[0]}H", content[:2])[0] if len(content) >= 16 else INTEGERS

    def is_read_to_its_end(self) -> bool:
        """Whether libsndfile does not respect the length of the sound."""
        return self.mark == b"riff" or self.form == b"8SVX" or self.sample_format not in PLAIN

    def _chunks(self, place: int) -> Iterator[Chunk]:
        for _ in range(MOST_CHUNKS):
            chunk = self._chunk(place)
            if chunk is None:
                return
            yield chunk
            place = self._after(chunk)

    def _after(self, chunk: Chunk) -> int:
        """Where the next chunk begins. Some programs leave out the byte that fills up an odd length."""
        aligned = self.aligned(chunk.end)
        if aligned == chunk.end or self._is_chunk(aligned) or not self._is_chunk(chunk.end):
            return aligned
        if chunk.end not in self.unaligned:
            self.unaligned.append(chunk.end)
        return chunk.end

    def aligned(self, place: int) -> int:
        return place + -(place - self.start + len(self.unaligned)) % self.layout.align

    def _chunk(self, place: int) -> Chunk | None:
        layout = self.layout
        self.file.seek(place)
        head = self.file.read(layout.head)
        if place + len(head) > self.stop or len(head) < layout.head:
            return None
        (length,) = struct.unpack(layout.length, head[layout.name :])
        return Chunk(head[: layout.name], place + layout.head, length - (layout.head if layout.with_header else 0))

    def _is_chunk(self, place: int) -> bool:
        chunk = self._chunk(place)
        if chunk is None or not all(32 <= byte < 127 for byte in chunk.name[:4]):
            return False
        return chunk.length >= 0 and (chunk.end <= self.stop or chunk.name in METADATA)

    def _data(self) -> Chunk | None:
        long_length = 0
        for chunk in self._chunks(self.start + self.layout.first):
            if chunk.name in self.layout.data:
                if self.mark in (b"RF64", b"BW64") and chunk.length == WRAP - 1 and long_length:
                    return Chunk(chunk.name, chunk.body, long_length)
                return chunk
            if chunk.length < 0 or chunk.end > self.stop:
                return None
            self.file.seek(chunk.body)
            content = self.file.read(min(chunk.length, 128))
            self.headers[chunk.name] = chunk.body, content
            if chunk.name == b"ds64":  # lengths in 64 bits: of the whole, of the sound
                long_length = int.from_bytes(content[8:16], "little")
        return None

    def _true_length(self, data: Chunk) -> int:
        rest = self.stop - data.body
        if 0 <= data.length <= rest:
            if self._ends_at(data.end):
                return data.length
            if self.layout.length.endswith("I"):
                for wraps in range((rest - data.length) // WRAP, 0, -1):
                    if self._ends_at(data.end + wraps * WRAP):
                        return data.length + wraps * WRAP
            if data.length and self._agrees(data) and self._is_nothing(data.end):
                return data.length
        elif not self._is_unknown(data.length) and self._whole() != self.stop - self.start:
            raise Contradiction(f"cut off, {data.length - rest} bytes or more are missing")
        return self._length_to_the_end(data)

    def _agrees(self, data: Chunk) -> bool:
        """Whether the length of the file by its header is that of its chunks: it was finished."""
        return self._whole() in (None, data.end - self.start, self.aligned(data.end) - self.start)

    def _is_nothing(self, end: int) -> bool:
        """Whether bytes after a sound of known length are none of it: tags, padding, text, or too few to be sound."""
        if is_padding(self.file, end, self.stop):
            return True
        content = self.headers.get(b"fmt ", (0, b""))[1]
        per_second = struct.unpack(f"{self.layout.length[0]}I", content[8:12])[0] if len(content) >= 16 else 0
        return 0 < self.stop - end < LEAST_S * per_second

    def _length_to_the_end(self, data: Chunk) -> int:
        """Of sound up to the end of the file, another file of the same kind, or the chunks at the end."""
        joined = find(self.file, self.mark, data.body, self.stop, lambda place: self._begins_file(place))
        if joined is not None:
            self.next = joined
            return joined - data.body
        start = max(data.body, self.stop - SEARCHED)
        self.file.seek(start)
        tail = self.file.read(self.stop - start)
        ends = sorted(start + at for name in METADATA for at in occurrences(tail, name))
        return next((end for end in ends if self.only_chunks(end)), self.stop) - data.body

    def _is_unknown(self, length: int) -> bool:
        if self.layout.length.endswith("I") and self.mark not in (b"RF64", b"BW64"):
            return any(abs(length - around) <= STREAMED for around in (WRAP // 2, WRAP - 1))
        return length < 0 or length >= 1 << 62 or length == WRAP - 1

    def _whole(self) -> int | None:
        """Size in bytes that the file has by its header; None where it does not say so."""
        if self.layout.whole is None:
            return None
        if b"ds64" in self.headers:
            return int.from_bytes(self.headers[b"ds64"][1][:8], "little") + 8
        self.file.seek(self.start + self.layout.whole)
        (length,) = struct.unpack(self.layout.length, self.file.read(struct.calcsize(self.layout.length)))
        return int(length) + (0 if self.layout.with_header else 8)

    def _ends_at(self, end: int) -> bool:
        """Whether the sound may end there: at the end of the file, or chunks or another file follow."""
        places = (self.aligned(end), end)
        if any(place >= self.stop or self.only_chunks(place) for place in places):
            return True
        return any(self._chunks_and_more(place) for place in places) or self._another_begins(end)

    def _chunks_and_more(self, place: int) -> bool:
        """Whether chunks follow, and after them another file, or bytes that are no sound.

        Four samples may look like a chunk's name and length: of loud sound of hours 9 % of the places do. A name that
        nobody knows is believed only where the header's length of the whole is that of its chunks, or little follows.
        """
        unaligned, end = len(self.unaligned), place
        for chunk in self._chunks(place):
            if not self._is_chunk(end):
                break
            end = self._after(chunk)
        if end == place:
            return False
        if end >= self.stop or self.stop - end < STRAY or self._is_nothing(end) or self._another_begins(end):
            return True
        first = self._chunk(place)
        if (first is not None and first.name in METADATA) or self._whole() == end - self.start:
            raise Contradiction(f"{self.stop - end} bytes after the last chunk, which would not be read")
        del self.unaligned[unaligned:]
        return False

    def _another_begins(self, end: int) -> bool:
        """Whether another file of the same kind follows, which is next then."""
        place = after_padding(self.file, end, self.stop)
        self.file.seek(place)
        mark = self.file.read(4)
        if mark == self.mark and self._begins_file(place):
            self.next = place
        elif mark in KINDS or mark in OTHER_KINDS:
            raise Contradiction(f"another file begins at byte {place}, which would not be read")
        return self.next is not None

    def only_chunks(self, place: int) -> bool:
        """Whether whole chunks follow up to the end, or another file of the same kind, which is next then."""
        unaligned = len(self.unaligned)
        for chunk in self._chunks(place):
            if chunk.name[:4] == self.mark and self._begins_file(place):
                self.next = place
                return True
            if not self._is_chunk(place):
                del self.unaligned[unaligned:]
                return False
            if chunk.name in self.layout.data and chunk.length > 0:
                raise Contradiction("two chunks of sound, of which only one would be read")
            place = self._after(chunk)
        return place >= self.stop or (self.stop - place < self.layout.head and is_padding(self.file, place, self.stop))

    def _begins_file(self, place: int) -> bool:
        self.file.seek(place)
        head = self.file.read(12)
        return len(head) == 12 and head[:4] == self.mark and head[8:] == self.form and place + 20 <= self.stop
