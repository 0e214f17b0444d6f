"""Copies weights and checkpoints from the runs folder to a bucket, under the same names, for other machines."""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from quell.atomic import replacing
from quell_tuning.errors import StorageError
from quell_tuning.workspace.s3_bucket import Bucket, open_bucket

log = logging.getLogger("quell")

POLL_S = 1.0  # between two checks whether a file was written again
PAUSE_S = 15.0  # before a bucket that does not answer is tried again
CLOSE_S = 2.0  # of the 10 s that a worker has to stop

Stamp = tuple[int, int]  # time of the last write in ns, and inode


class Mirror:
    """Files below `folder` and their copies in the bucket.

    A thread sends and removes files, one after the other; of a file it sends the latest content. A bucket that does not
    answer is a warning, and is tried again; methods that read or list raise StorageError.
    """

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.folder = folder
        self.bucket = bucket
        self._sent: dict[Path, Stamp | None] = {}  # kept files, and which version the bucket has
        self._forgotten: list[tuple[Path, Collection[str] | None]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._over = False
        self._failures = 0
        self._not_before: float | None = None  # time.monotonic(); None while the bucket answers

    def fetch(self, file: Path) -> bool:
        """Downloads a file; False when the bucket has none."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), replacing(file) as partial_file, partial_file.open("wb") as content:
            self.bucket.get(self._name(file), content)
            return True
        return False

    def names(self, folder: Path) -> list[str]:
        """Names of a folder's files in the bucket."""
        return self.bucket.names(self._name(folder))

    def keep(self, file: Path) -> None:
        """Sends a file when it exists and whenever it is written again, until it is released or forgotten."""
        with self._changed:
            self._sent.setdefault(file, None)
            self._wake()

    def release(self, file: Path) -> None:
        """Sends a file no more; its copy in the bucket stays."""
        with self._changed:
            self._sent.pop(file, None)

    def forget(self, folder: Path, names: Collection[str] | None = None) -> None:
        """Removes a folder's files from the bucket; only some when names are given."""
        with self._changed:
            for file in list(self._sent):
                if file.parent == folder and (names is None or file.name in names):
                    del self._sent[file]
            self._forgotten.append((folder, names))
            self._wake()

    def flush(self, at_most_s: float) -> bool:
        """Waits until the bucket has everything, or for the first failure; returns whether it has."""
        with self._changed:
            failures = self._failures
            if self._not_before is not None:
                self._not_before = 0.0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failures > failures or self._next() is None, at_most_s)
            return self._next() is None

    def close(self) -> None:
        """Sends the rest, in CLOSE_S at most, and ends the thread."""
        if self._thread is None:
            return
        if not self.flush(CLOSE_S):
            log.warning("%s: not everything was sent; the missing files are in %s", self.bucket, self.folder)
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while not self._over:
            with self._changed:
                paused = self._not_before is not None and time.monotonic() < self._not_before
                task = None if paused else self._next()
                if task is None:
                    self._changed.wait(POLL_S)
                    continue
            self._do(task)

    def _do(self, task: Callable[[], None]) -> None:
        failure: Exception | None = None
        try:
            task()
        except (StorageError, OSError) as error:
            failure = error
        with self._changed:
            if failure is not None and self._not_before is None:
                log.warning("%s; files stay on this machine until it answers", failure)
            elif failure is None and self._not_before is not None:
                log.info("%s answers again", self.bucket)
            self._failures += failure is not None
            self._not_before = None if failure is None else time.monotonic() + PAUSE_S
            self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """The next transfer or removal; it stays the next one until it is done."""
        for file, sent in self._sent.items():
            if _stamp(file) not in (None, sent):
                return partial(self._send, file)
        return partial(self._remove, *self._forgotten[0]) if self._forgotten else None

    def _send(self, file: Path) -> None:
        with suppress(FileNotFoundError), file.open("rb") as content:
            stamp = _stamp(content.fileno())
            self.bucket.put(self._name(file), content)
            with self._changed:
                if file in self._sent:
                    self._sent[file] = stamp

    def _remove(self, folder: Path, names: Collection[str] | None) -> None:
        for name in self.names(folder):
            if names is None or name in names:
                self.bucket.delete(f"{self._name(folder)}/{name}")
        with self._changed:
            self._forgotten.remove((folder, names))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def open_mirror(url: str | None, folder: Path) -> Mirror | None:
    """The mirror of a runs folder, opened as by `open_bucket`; None where the artifacts' URL is no bucket."""
    return Mirror(folder, open_bucket(url)) if url is not None and url.startswith("s3:") else None


def _stamp(file: Path | int) -> Stamp | None:
    """Identifies a version of a file, by path or descriptor; None where there is no file."""
    try:
        status = os.stat(file)  # noqa: PTH116 - takes a descriptor, too
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
