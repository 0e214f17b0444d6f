"""Writes files and folders atomically: whole or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST = 255  # bytes of a file's name, almost everywhere
PID_DIGITS = 10


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix, to be written inside the block.

    It takes the final name when the block ends well, and is removed when it does not.
    """
    first, last = _around_pid(path)
    partial = path.with_name(f"{first}{os.getpid()}{last}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder that does not exist or is empty. The caller syncs the files in it."""
    # Not named by the process: those of two containers that share the folder may have the same number.
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
    """Removes partial files of processes that were killed while they wrote `paths`."""
    wanted: dict[Path, set[tuple[str, str]]] = {}
    for path in paths:
        wanted.setdefault(path.parent, set()).add(_around_pid(path))
    for folder, names in wanted.items():
        with suppress(OSError):
            for name in os.listdir(folder):  # noqa: PTH208 - names are all that is needed
                parts = re.fullmatch(r"(\..*\.)(\d+)(\.[^.]+|)", name, re.DOTALL)
                if parts and (parts[1], parts[3]) in names and not _runs(int(parts[2])):
                    (folder / name).unlink(missing_ok=True)


def _around_pid(path: Path) -> tuple[str, str]:
    """What stands before and behind the process's number in the name of its half-written file."""
    room = LONGEST - len(os.fsencode(path.suffix)) - PID_DIGITS - 2
    return f".{os.fsdecode(os.fsencode(path.stem)[:room])}.", path.suffix


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (ProcessLookupError, OverflowError):
        return False
    except (OSError, IndexError):  # another user's, or no Linux
        return True
    return state != b"Z"  # it has ended, and its parent takes no notice
