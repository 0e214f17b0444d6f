"""Writes files and folders atomically: whole or not at all."""

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from quell.processes import machine

LONGEST = 255  # bytes of a file's name, almost everywhere
MARK_BYTES = 40  # of what `_mark` and `second` put into a name, at most
# After so long without a write a half-written file whose process cannot be looked up is taken for abandoned. The
# longest pause of a writer that works is 10 minutes (`quell.inference.process_pool`).
ABANDONED_S = 24 * 3600.0
SECOND = ".second"
# What is wrong with a file in the way of a new one: at the start, at the end.
EXISTS = "exists already, expected a new file; remove it, or give --overwrite"
WRITTEN_MEANWHILE = "written by another program meanwhile, expected a new file; remove it, or give --overwrite"
# Name of a half-written file: what stands before, process, its place and a random number, suffix. Until version 0.1 it
# had the process alone.
HALF_WRITTEN = re.compile(r"(\..*\.)(\d+)(?:-([0-9a-f]{8})[0-9a-f]{8})?(\.[^.]+|)", re.DOTALL)


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix, to be written inside the block.

    It takes the final name when the block ends well, and is removed when it does not.

    Args:
        overwrite: replace a file of that name.

    Raises:
        FileExistsError: at the end, without `overwrite`, where a file has that name, also one written meanwhile.
    """
    first, last = _around_mark(path)
    partial = path.with_name(f"{first}{_mark()}{last}")
    try:
        yield partial
        sync(partial)
        if overwrite:
            partial.replace(path)
        else:
            _name_once(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def second(partial: Path) -> Path:
    """Another hidden path for the block of `replacing` that yielded `partial`; `sweep` removes it too."""
    return partial.with_name(partial.name + SECOND)


def _name_once(partial: Path, path: Path) -> None:
    """Gives a file its name unless another file has it, in one step where the file system has hard links."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:  # none on FAT, SMB and some of FUSE: the name is taken first, empty for a moment
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        try:
            partial.replace(path)
        except OSError:
            path.unlink()
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder that does not exist or is empty. The caller syncs the files in it."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk.

    Else a power cut may leave a name with nothing behind it, or with zeros.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(paths: Iterable[Path]) -> None:
    """Removes partial files of processes that were killed while they wrote `paths`.

    Those of another machine or container, whose processes cannot be seen here, are removed after ABANDONED_S.
    """
    wanted: dict[Path, set[tuple[str, str]]] = {}
    for path in paths:
        wanted.setdefault(path.parent, set()).add(_around_mark(path))
    for folder, names in wanted.items():
        with suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208 - names are all that is needed
                parts = HALF_WRITTEN.fullmatch(name.removesuffix(SECOND))
                if parts and (parts[1], parts[4]) in names and _abandoned(folder / name, int(parts[2]), parts[3]):
                    (folder / name).unlink(missing_ok=True)


def _around_mark(path: Path) -> tuple[str, str]:
    """What stands before and behind the mark in the name of its half-written file."""
    room = LONGEST - len(os.fsencode(path.suffix)) - MARK_BYTES - 2
    return f".{os.fsdecode(os.fsencode(path.stem)[:room])}.", path.suffix


def _mark() -> str:
    """A name for one half-written file of this process: containers that share a folder have processes of equal number,
    and threads of one process write at the same time."""
    return f"{os.getpid()}-{_place()}{secrets.token_hex(4)}"


@cache
def _place() -> str:
    """Eight digits that processes have in common which see each other's numbers."""
    return hashlib.sha256((machine() or platform.node()).encode()).hexdigest()[:8]


def _abandoned(partial: Path, pid: int, place: str | None) -> bool:
    if place in (None, _place()):
        return not _runs(pid)
    return time.time() - partial.stat().st_mtime > ABANDONED_S


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (ProcessLookupError, OverflowError):
        return False
    except (OSError, IndexError):  # another user's, or no Linux
        return True
    return state != b"Z"  # it has ended, and its parent takes no notice
