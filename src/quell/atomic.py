"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix, to be written inside the block.

    It takes the final name when the block ends well, and is removed when it does not.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut may leave the name with nothing behind it
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
