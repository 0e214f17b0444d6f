"""Where trials leave their training, so that another worker goes on with it.

A trial's place is its slot: the trial that replaces a lost one has another number. Each attempt writes a file of its
own, so that a worker which was taken for dead and wakes up writes over nobody's.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quell.atomic import replacing
from quell_tuning.errors import StorageError
from quell_tuning.workspace.bucket_mirror import Mirror

log = logging.getLogger("quell")

FLUSH_S = 3.0  # of the 10 s in which a worker leaves


class Checkpoints:
    """The checkpoints of one study, in `folder`, and for workers on other machines in its mirror."""

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.folder = folder
        self.mirror = mirror

    def take_up(self, slot: int, attempt: int) -> Path:
        """The file of an attempt (1, 2, ...), there when this attempt or one before it has written any."""
        own = self._file(slot, attempt)
        own.parent.mkdir(parents=True, exist_ok=True)
        if self.mirror is not None:
            self._fetch(self.mirror, slot, attempt)
        before = (self._file(slot, number) for number in range(attempt - 1, 0, -1))
        latest = next((file for file in before if file.exists()), None)
        if latest is not None and not own.exists():
            with replacing(own) as partial:
                shutil.copyfile(latest, partial)
        return own

    def _fetch(self, mirror: Mirror, slot: int, attempt: int) -> None:
        """Brings the latest attempt's file here, unless it is: what is here of an attempt is never behind its copy."""
        try:
            there = mirror.names(self._folder(slot))
            for number in range(attempt, 0, -1):
                file = self._file(slot, number)
                if file.exists() or (file.name in there and mirror.fetch(file)):
                    return
        except StorageError as error:
            log.warning("%s; slot %d goes on from what is here", error, slot)

    @contextmanager
    def shared(self, file: Path) -> Iterator[None]:
        """While a training writes to the file, other machines get it too.

        When the worker leaves (what is raised is no Exception), they have the last of it, and the file here goes.
        """
        if self.mirror is None:
            yield
            return
        self.mirror.keep(file)
        try:
            yield
        except Exception:
            raise
        except BaseException:
            if self.mirror.flush(FLUSH_S):
                file.unlink(missing_ok=True)  # here it would hide what others write meanwhile
            else:
                log.warning("%s: not all of it was sent; elsewhere the trial goes on from what was", file)
            raise
        finally:
            self.mirror.release(file)

    def drop(self, slot: int) -> None:
        """Forgets a trial that has ended."""
        shutil.rmtree(self._folder(slot), ignore_errors=True)
        if self.mirror is not None:
            self.mirror.forget(self._folder(slot))

    def _folder(self, slot: int) -> Path:
        return self.folder / f"{slot:05d}"

    def _file(self, slot: int, attempt: int) -> Path:
        return self._folder(slot) / f"{attempt:03d}.checkpoint"
