"""An SQLite file, without Optuna: names in it, copies of it, and whether its path still names the file that is open.

Names are read in 1 ms, for shell completion; tables and columns are those of Optuna 5.0. What cannot be read has none.
"""

import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from quell import locks
from quell.atomic import replacing
from quell.errors import LockError
from quell_tuning.errors import DatabaseGone

TIMEOUT_S = 0.2  # for a lock of a worker that writes; a user waits for the completion
COPY_S = 600.0  # another process that saves a copy
# Beside the file: what was written last, and the index of that, which all processes map into memory.
PARTS = ("", "-wal", "-shm")
WRITE_LOCK = 120  # byte of the index that a process locks while it writes (SQLite, "WAL-mode file format", 2.2)

Identity = tuple[int, int] | None  # device and number of a file; None of one that does not exist


def study_names(file: Path) -> list[str]:
    """Names of all studies, the newest first."""
    return [name for (name,) in _rows(file, "SELECT study_name FROM studies ORDER BY study_id DESC")]


def completed_trials(file: Path, study: str) -> list[int]:
    """Numbers of a study's completed trials."""
    query = (
        "SELECT number FROM trials JOIN studies USING (study_id) "
        "WHERE study_name = ? AND state = 'COMPLETE' ORDER BY number"
    )
    return [number for (number,) in _rows(file, query, study)]


def _rows(file: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    try:
        with closing(_open_read_only(file, TIMEOUT_S)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.Error:
        return []


def _open_read_only(file: Path, timeout_s: float) -> sqlite3.Connection:
    address = f"{file.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(address, uri=True, timeout=timeout_s, check_same_thread=False)


def copy(source: sqlite3.Connection, target: Path) -> None:
    """Writes all that a connection sees into a new file, whole or not at all."""
    with replacing(target) as partial, closing(sqlite3.connect(partial)) as written:
        source.backup(written)


def writer(file: Path) -> str | None:
    """The process that writes to a file now, where Linux tells; the system knows it by the lock."""
    try:
        number = Path(f"{file}-shm").stat().st_ino
        held = Path("/proc/locks").read_text()
    except OSError:
        return None
    found = re.search(rf"POSIX +ADVISORY +WRITE (\d+) \S+:{number} {WRITE_LOCK} {WRITE_LOCK}$", held, re.MULTILINE)
    return f"process {found[1]}" if found else None


class OpenFile:
    """A file in write-ahead mode that this process uses, watched by a connection of its own, which only reads.

    Programs that delete, move or replace the file while it is in use leave the processes that have it open at work on
    a file without a name, whose content ends with the last of them.
    """

    def __init__(self, file: Path) -> None:
        self.file = file.absolute()
        self._opened = time.time()
        self._connection = _open_read_only(file, TIMEOUT_S)
        self._connection.execute("SELECT count(*) FROM sqlite_master")  # opens all parts
        self._parts = [Path(f"{self.file}{part}") for part in PARTS]
        self._open = self._named()
        self._turn = Lock()
        self._told = ""
        self._closed = False
        self._saved: int | None = None  # version of what the latest copy holds

    def check(self) -> None:
        """Raises DatabaseGone, after a copy was saved, unless the path names what is open."""
        if not self._closed and (self._told or self._named() != self._open):
            with self._turn:
                self._tell()
            raise DatabaseGone(self._told)

    def close(self) -> None:
        """Ends the watch of a file that is in its place.

        Otherwise the connection stays until the process ends: the last to be closed deletes the write-ahead file, by
        its name, which may be that of the new database. This one, which only reads, does not.
        """
        if not self._told and self._named() == self._open:
            self._closed = True
            self._connection.close()
            return
        with self._turn:
            self._tell()

    def _named(self) -> list[Identity]:
        return [_identity(part) for part in self._parts]

    def _tell(self) -> None:
        """Saves what has been written since the latest copy, as by another thread meanwhile, and says where it is."""
        if (moved := self._moved()) is not None:
            found = f"moved to {moved} while it was in use"
            self._told = f"{self.file}: {found}, expected it to stay; move it back, and run the same again"
            return
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if self._saved != version:
                remedy = f"all that was in it is in {self._save()}; rename that, and run the same again"
                self._told, self._saved = f"{self._gone()}; {remedy}", version
        except (OSError, sqlite3.Error, LockError) as error:
            self._told = f"{self._gone()}; a copy could not be saved ({error})"

    def _gone(self) -> str:
        missing = [part for part in self._parts if _identity(part) is None]
        found = f"{missing[0].name} was deleted" if missing else "replaced by another file"
        return f"{self.file}: {found} while it was in use, expected it to stay"

    def _moved(self) -> Path | None:
        """Where all parts of the file are now, where Linux tells."""
        with suppress(OSError):
            for handle in Path("/proc/self/fd").iterdir():
                with suppress(OSError):
                    target = handle.readlink()
                    if _identity(handle) == self._open[0] == _identity(target):
                        parts = [_identity(Path(f"{target}{part}")) for part in PARTS]
                        return target if parts == self._open else None
        return None

    def _save(self) -> Path:
        """Saves all that is in the open file, in its folder or the next above that exists.

        Processes take turns: the last one's copy has what all of them wrote. A copy from before this process is kept.
        """
        folder = next(folder for folder in self.file.parents if folder.is_dir())
        with locks.hold(folder / f".{self.file.name}.saved.lock", COPY_S):
            for number in count(1):
                target = folder / f"{self.file.stem}-saved-{number}{self.file.suffix}"
                if not target.exists() or target.stat().st_mtime > self._opened:
                    copy(self._connection, target)
                    return target
        raise AssertionError("never here")


def _identity(path: Path) -> Identity:
    try:
        found = os.stat(path)  # noqa: PTH116 - before every call to the database: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino
