"""Finds marks among the bytes of a file, block by block."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

BLOCK = 1 << 22  # bytes


def occurrences(content: bytes, name: bytes) -> Iterator[int]:
    """Where a name stands in bytes, each time."""
    place = content.find(name)
    while place >= 0:
        yield place
        place = content.find(name, place + 1)


def find(file: BinaryIO, mark: bytes, start: int, stop: int, is_it: Callable[[int], bool]) -> int | None:
    """The first place from `start` on with a mark that is one by `is_it`."""
    while start < stop:
        file.seek(start)
        block = file.read(min(BLOCK, stop - start))
        for at in occurrences(block, mark):
            if is_it(start + at):
                return start + at
        start += max(1, len(block) - len(mark) + 1) if len(block) == BLOCK else len(block)
    return None
