"""Finds what a sound file holds by its bytes: its streams, each with a header that agrees with its content."""

import struct
from pathlib import Path
from typing import BinaryIO

from quell.containers import chunks, mpeg, xiph
from quell.containers.corrected_headers import stream_of
from quell.containers.rare_headers import missing_bytes
from quell.containers.stream import Contradiction, Stream
from quell.containers.tags import after_tags, before_tags, is_padding

AU_UNKNOWN = 0xFFFF_FFF0  # a length from here on was not known when the header was written
NIST_HEADER = 1024  # bytes


def streams(path: Path) -> list[Stream]:
    """The sound files that a file holds one after the other; one for the whole of it where libsndfile reads it right.

    Raises:
        Contradiction: two parts that say different things, of which neither can be trusted; cut off.
        OSError: as the system says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = after_tags(file)
        file.seek(start)
        mark = file.read(4)
        if mark == b"OggS":
            return xiph.ogg_streams(file, start, size)
        if mark == b"fLaC":
            return xiph.flac_streams(file, start, size)
        if mark in chunks.KINDS:
            return _chunked(file, start, size)
        if mark in (b".snd", b"dns."):
            return [_au(file, start, size, ">" if mark == b".snd" else "<")]
        if mark == b"NIST":
            return [_nist(file, start, size)]
        if mpeg.frame_of(mark) is not None or path.suffix.lower() in mpeg.SUFFIXES:
            return mpeg.streams(file, size)
        if missing := missing_bytes(file, size):
            raise Contradiction(f"cut off, {missing} bytes or more are missing")
    return [Stream()]


def _chunked(file: BinaryIO, start: int, size: int) -> list[Stream]:
    found: list[Stream] = []
    place: int | None = start
    while place is not None:
        one = chunks.ChunkedFile(file, place, size)
        stream = stream_of(one)
        if stream is None:
            return found or [Stream()]
        if one.sample_format in mpeg.IN_WAV:
            _check_mpeg(file, stream, size)
        found.append(stream)
        place = one.next
    return found


def _check_mpeg(file: BinaryIO, stream: Stream, size: int) -> None:
    """libsndfile reads as many samples of MPEG inside WAV as the first frame says, or as it guesses."""
    stop = size if stream.stop is None else stream.stop
    parts = list(mpeg.split(file, stop, stream.start))
    if len(parts) != 1 or parts[0].declared != parts[0].counted:
        frames = sum(part.counted for part in parts)
        raise Contradiction(f"{frames} frames of MPEG in WAV, and a head of {len(parts)} parts that counts others")


def _au(file: BinaryIO, start: int, size: int, order: str) -> Stream:
    file.seek(start)
    head = file.read(12)
    if len(head) < 12:
        return Stream()
    offset, length = struct.unpack(f"{order}II", head[4:])
    stop = before_tags(file, start, size)
    body, rest = start + offset, stop - start - offset
    if length >= AU_UNKNOWN:
        return _from(start, size)
    if length > rest:
        raise Contradiction(f"cut off, {length - rest} bytes or more are missing")
    if length == rest:
        return _from(start, stop)
    if length and is_padding(file, body + length, stop):
        return Stream(start, body + length)
    file.seek(body + length)
    if length and file.read(4) in (b".snd", b"dns."):
        raise Contradiction(f"another file begins at byte {body + length}, which would not be read")
    return Stream(start + 12, stop, head[:8] + b"\xff" * 4)


def _nist(file: BinaryIO, start: int, size: int) -> Stream:
    file.seek(start)
    text = file.read(NIST_HEADER)
    lines = [line.split() for line in text.splitlines()]
    fields = {words[0]: words[2] for words in lines if len(words) == 3}
    try:
        header = int(lines[1][0])
        count, width, channels = (int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count"))
    except (IndexError, KeyError, ValueError):
        return _from(start, size)
    stop = before_tags(file, start, size)
    rest = (stop - start - header) // max(1, width * channels)
    if count > rest:
        raise Contradiction(f"cut off, {count - rest} of {count} samples are missing")
    if count < rest and not is_padding(file, start + header + count * width * channels, stop):
        raise Contradiction(f"a count of {count} samples in its header, and {rest} in its sound")
    return Stream(start, start + header + count * width * channels) if count < rest else _from(start, stop)


def _from(start: int, stop: int) -> Stream:
    return Stream(start, stop)
