"""Checkpoints of trials, by slot and attempt, so that another worker can continue a training.

By slot, since the trial that replaces a lost one has another number. Each attempt writes its own file, so that a worker
that was taken for dead and wakes up overwrites no other's.
"""

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
    """The checkpoints of one study, in `folder` and, for workers on other machines, in its mirror."""

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.folder = folder
        self.mirror = mirror

    def take_up(self, slot: int, attempt: int) -> Path:
        """The file of an attempt (1, 2, ...); it exists when this attempt or an earlier one has written any."""
        own = self._file(slot, attempt)
        own.parent.mkdir(parents=True, exist_ok=True)
        if self.mirror is not None:
            self._fetch(self.mirror, slot, attempt)
        earlier = (self._file(slot, number) for number in range(attempt - 1, 0, -1))
        latest = next((file for file in earlier if file.exists()), None)
        if latest is not None and not own.exists():
            with replacing(own) as partial:
                shutil.copyfile(latest, partial)
        return own

    def _fetch(self, mirror: Mirror, slot: int, attempt: int) -> None:
        """Fetches the latest attempt's file unless it is here: a local file is never older than its copy."""
        try:
            remote = mirror.names(self._folder(slot))
            for number in range(attempt, 0, -1):
                file = self._file(slot, number)
                if file.exists() or (file.name in remote and mirror.fetch(file)):
                    return
        except StorageError as error:
            log.warning("%s; slot %d continues from the files on this machine", error, slot)

    @contextmanager
    def shared(self, file: Path) -> Iterator[None]:
        """Copies the file to the mirror whenever the training inside the block writes it.

        When the worker is stopped (by a BaseException that is no Exception), the last version is sent, and the local
        file removed.
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
                file.unlink(missing_ok=True)  # it would hide what other machines write meanwhile
            else:
                log.warning("%s: not sent completely; other machines continue from an earlier checkpoint", file)
            raise
        finally:
            self.mirror.release(file)

    def drop(self, slot: int) -> None:
        """Removes the checkpoints of a trial that has ended."""
        shutil.rmtree(self._folder(slot), ignore_errors=True)
        if self.mirror is not None:
            self.mirror.forget(self._folder(slot))

    def _folder(self, slot: int) -> Path:
        return self.folder / f"{slot:05d}"

    def _file(self, slot: int, attempt: int) -> Path:
        return self._folder(slot) / f"{attempt:03d}.checkpoint"
