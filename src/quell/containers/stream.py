"""A stretch of a file that is one sound file by itself, with a header that agrees with its content."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quell.containers.search import occurrences


class Contradiction(ValueError):
    """Two parts of a file that say different things, of which neither can be trusted; the message says both."""


FLAC_HEADS = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")  # the mark and the head of STREAMINFO
# What begins a file of sound: its first bytes, and for those that may stand anywhere the bytes at 8.
FORMS = ((b"RIFF", b"WAVE"), (b"RF64", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC"))
MARKS = (*((mark, b"") for mark in (*FLAC_HEADS, b"OggS\0\2")), *FORMS)


def refuse_another(content: bytes, place: int, but: bytes = b"") -> None:
    """Raises Contradiction where a sound file begins in `content`, which stands at `place` of a file.

    Args:
        but: first bytes of the kind that may begin there.
    """
    for mark, form in MARKS:
        if but and mark.startswith(but):
            continue
        for at in occurrences(content, mark):
            if content.startswith(form, at + 8):
                raise Contradiction(f"another file begins at byte {place + at}, which would not be read")


@dataclass(frozen=True)
class Stream:
    """`header`, followed by the bytes of a file from `start` to `stop`. By default, the whole of the file."""

    start: int = 0
    stop: int | None = None
    header: bytes = b""
    samples: int | None = None  # of each channel, where they were counted and no header says them

    @property
    def is_file(self) -> bool:
        """Whether it is the file as it stands."""
        return self.stop is None


class StreamFile(io.RawIOBase):
    """A `Stream` as a file that is read, whose corrected header is never written to disk."""

    def __init__(self, path: Path, stream: Stream) -> None:
        self._file = path.open("rb")
        self._stream = stream
        self._place = 0
        self._size = len(stream.header) + (path.stat().st_size if stream.stop is None else stream.stop) - stream.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        header = self._stream.header
        piece = header[self._place : self._place + len(view)]
        if not piece:
            self._file.seek(self._stream.start + self._place - len(header))
            piece = self._file.read(max(0, min(len(view), self._size - self._place)))
        view[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self._file.close()
        super().close()
