"""Checkpoints of trials, by slot and attempt, so that another worker can continue a training.

By slot, since the trial that replaces a lost one has another number. Each attempt writes its own file, so that a worker
that was taken for dead and wakes up overwrites no other's.
"""

import logging
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from quell.atomic import replacing
from quell.check_sums import is_intact
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
        """The file of an attempt (1, 2, ...); it exists when this attempt or an earlier one has written any that is
        intact."""
        own = self._file(slot, attempt)
        own.parent.mkdir(parents=True, exist_ok=True)
        latest = self._latest(slot, attempt)
        if latest is None:
            own.unlink(missing_ok=True)
        elif latest != own:
            with replacing(own) as partial:
                shutil.copyfile(latest, partial)
        return own

    def _latest(self, slot: int, attempt: int) -> Path | None:
        """The file of the latest attempt up to this one that is intact, here or in the mirror."""
        remote = self._remote(slot)
        for number in range(attempt, 0, -1):
            file = self._file(slot, number)
            if not file.exists() and not self._fetch(file, remote):
                continue
            # A local file is never older than its copy, which is fetched only in the place of a damaged one.
            if is_intact(file) or (self._fetch(file, remote) and is_intact(file)):
                return file
            log.warning(
                "%s: a damaged checkpoint; slot %d continues from the one before, or from the start", file, slot
            )
        return None

    def _remote(self, slot: int) -> Collection[str]:
        """The names of a slot's files in the mirror."""
        try:
            return self.mirror.names(self._folder(slot)) if self.mirror is not None else ()
        except StorageError as error:
            log.warning("%s; slot %d continues from the files on this machine", error, slot)
            return ()

    def _fetch(self, file: Path, remote: Collection[str]) -> bool:
        try:
            return self.mirror is not None and file.name in remote and self.mirror.fetch(file)
        except StorageError as error:
            log.warning("%s; %s is not fetched", error, file.name)
            return False

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
