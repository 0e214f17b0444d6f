"""Headers of chunked files that agree with the content: lengths, the format of samples, counts."""

import struct

from quell.containers.chunks import EXTENSIBLE, FLOATS, INTEGERS, SEARCHED, WRAP, Chunk, ChunkedFile
from quell.containers.stream import Contradiction, Stream

LARGEST_HEADER = 1 << 26  # bytes
AIFF_INTEGERS = {b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64"}
AIFF_BYTES = {b"ulaw", b"ULAW", b"alaw", b"ALAW"}  # one for each sample, whatever the header says


def stream_of(one: ChunkedFile) -> Stream | None:
    """The sound of a file with a header that agrees with it; None where there is none, which libsndfile reports.

    Raises:
        Contradiction: parts that say different things, or sound that is cut off.
    """
    found = one.sound()
    if found is None:
        return None
    data, length = found
    _compare_counts(one, length)
    header = _header(one, data, length)
    end = data.body + length
    if header or one.next is not None:
        return Stream(data.body if header else one.start, end, header)
    if one.is_read_to_its_end() and end < one.size:
        return Stream(one.start, end)
    if end < one.stop and not one.only_chunks(one.aligned(end)):
        return Stream(one.start, end)
    return Stream()


def _header(one: ChunkedFile, data: Chunk, length: int) -> bytes:
    """The bytes up to the sound with lengths that agree with it; empty where those of the file do."""
    place_of_format, content = one.headers.get(b"fmt ", (0, b""))
    shape = _corrected_format(one, content, data)
    missing = [place - one.start for place in one.unaligned if place < data.body]
    right = length == data.length and shape is None and one.start == 0 and not missing
    if right and one.mark != b"BW64":  # which libsndfile does not know
        return b""
    if data.body - one.start > LARGEST_HEADER:
        raise Contradiction(f"{data.body - one.start} bytes before the sound, at most {LARGEST_HEADER} are read")
    one.file.seek(one.start)
    header = bytearray(one.file.read(data.body - one.start))
    if shape is not None:
        place = place_of_format - one.start
        header[place : place + len(shape)] = shape
    for place in reversed(missing):
        header.insert(place, 0)
    layout, whole = one.layout, len(header) + length + length % 2
    if one.mark in (b"RF64", b"BW64") or (one.mark == b"RIFF" and whole - 8 >= WRAP):
        return _with_long_lengths(header, length)
    counted = length + (layout.head if layout.with_header else 0)
    size = struct.calcsize(layout.length)
    try:
        header[-size:] = struct.pack(layout.length, counted)
        if layout.whole is not None:
            said = whole - (0 if layout.with_header else 8)
            header[layout.whole : layout.whole + size] = struct.pack(layout.length, said)
    except struct.error:
        raise Contradiction(f"{length} bytes of sound, and a container that holds less than {WRAP}") from None
    return bytes(header)


def _corrected_format(one: ChunkedFile, content: bytes, data: Chunk) -> bytes | None:
    """The content of "fmt " where its numbers had to be corrected, None where they agree.

    24 bits in blocks of 4 bytes are 32 bits (a common slip); libsndfile would read them as 3 bytes each.

    Raises:
        Contradiction: numbers that disagree in another way.
    """
    if len(content) < 16:
        return None
    order = one.layout.length[0]
    kind, channels, rate, _per_second, block, bits = struct.unpack(f"{order}HHIIHH", content[:16])
    written = kind
    if kind == EXTENSIBLE and len(content) >= 26:
        kind = struct.unpack(f"{order}H", content[24:26])[0]
    width = (bits + 7) // 8
    if kind not in (INTEGERS, FLOATS) or block in (0, channels * width) or not channels or not width:
        return None
    if kind == INTEGERS and width == 3 and block == 4 * channels:
        one.file.seek(data.body)
        samples = one.file.read(SEARCHED)
        lowest, highest = samples[3 if order == ">" else 0 :: 4], samples[0 if order == ">" else 3 :: 4]
        # At the top of the 4 bytes the lowest one is 0; at the bottom the highest one is only a sign.
        if not any(lowest) and (highest.strip(b"\0\xff") or not any(samples)):
            return struct.pack(f"{order}HHIIHH", written, channels, rate, rate * block, block, 32)
    found = f"blocks of {block} bytes for {channels} channels of {bits} bits"
    raise Contradiction(f"{found}, which take {channels * width}")


def _compare_counts(one: ChunkedFile, length: int) -> None:
    """AIFF says the number of frames, too; more than there are is a file that is cut off."""
    common = one.headers.get(b"COMM", (0, b""))[1]
    if one.form[:3] != b"AIF" or len(common) < 18:
        return
    channels, frames, bits = struct.unpack(">hIh", common[:8])
    coding = common[18:22]
    if len(common) >= 22 and coding not in AIFF_INTEGERS | AIFF_BYTES:
        return
    width = 1 if coding in AIFF_BYTES else (bits + 7) // 8
    held = (length - 8) // max(1, channels * width)
    if frames > held:
        raise Contradiction(f"a count of {frames} samples in its header, and {held} in its sound")


def _with_long_lengths(header: bytearray, length: int) -> bytes:
    """A WAV header as RF64 (EBU Tech 3306), whose lengths have 64 bits."""
    place = header.find(b"ds64")
    if place < 0:
        place = 12
        header[place:place] = b"ds64" + struct.pack("<I", 28) + bytes(28)
    header[:4] = b"RF64"
    header[4:8] = header[-4:] = b"\xff" * 4
    whole = len(header) + length + length % 2 - 8
    header[place + 8 : place + 24] = struct.pack("<QQ", whole, length)
    return bytes(header)
