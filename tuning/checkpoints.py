"""Where trials leave their training, so that another worker goes on with it.

A trial's place is its slot: the trial that replaces a lost one has another number. Each attempt writes a file of its
own, so that a worker which was taken for dead and wakes up writes over nobody's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from quell.atomic import replacing


class Checkpoints:
    """The checkpoints of one study, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take_up(self, slot: int, attempt: int) -> Path:
        """The file of an attempt (1, 2, ...), there when this attempt or one before it has written any."""
        own = self._file(slot, attempt)
        own.parent.mkdir(parents=True, exist_ok=True)
        before = (self._file(slot, number) for number in range(attempt - 1, 0, -1))
        latest = next((file for file in before if file.exists()), None)
        if latest is not None and not own.exists():
            with replacing(own) as partial:
                shutil.copyfile(latest, partial)
        return own

    def drop(self, slot: int) -> None:
        """Forgets a trial that has ended."""
        shutil.rmtree(self._file(slot, 1).parent, ignore_errors=True)

    def _file(self, slot: int, attempt: int) -> Path:
        return self.folder / f"{slot:05d}" / f"{attempt:03d}.checkpoint"
