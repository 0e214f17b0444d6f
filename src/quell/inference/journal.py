"""What an interrupted run has done, so that the next one need not do it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from quell.atomic import replacing
from quell.errors import ExportError
from quell.inference.jobs import DenoiseJob, DenoiseOptions

JOURNAL = ".quell-denoise.jsonl"


class Journal:
    """The recordings that are finished, in a hidden file of the output folder.

    One counts while its source, the model and the settings are the same. A journal that cannot be read or written is
    none: recordings are done again.

    Args:
        how: the model and the settings, in words.
    """

    def __init__(self, output: Path, how: str) -> None:
        self.path = output / JOURNAL
        self.how = how
        self._known: dict[str, str] = {}  # what was finished, by target
        with suppress(OSError, UnicodeDecodeError):
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, LookupError, TypeError):  # cut off by a power failure
                    self._known[str(json.loads(line)[1])] = line

    def finished(self, job: DenoiseJob) -> bool:
        return job.target.exists() and self._known.get(_where(job.target)) == self._line(job)

    def made(self, path: Path) -> bool:
        """Whether a file is what an interrupted run has written."""
        return bool(self._known) and _where(path) in self._known

    def begin(self, jobs: Iterable[DenoiseJob]) -> None:
        """Notes those whose target is not there yet. It appears whole, so that one which is there is finished, also
        when the run ends before anybody can note that."""
        self._add(job for job in jobs if not job.target.exists())

    def note(self, job: DenoiseJob) -> None:
        """It is finished."""
        self._add([job])

    def _add(self, jobs: Iterable[DenoiseJob]) -> None:
        lines = {_where(job.target): line for job in jobs if (line := self._line(job)) is not None}
        new = "".join(f"{line}\n" for target, line in lines.items() if self._known.get(target) != line)
        self._known |= lines
        if not new:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(new)

    def close(self, jobs: Iterable[DenoiseJob]) -> None:
        """They need no note: what comes later is another run. What was noted of others stays."""
        for job in jobs:
            self._known.pop(_where(job.target), None)
        with suppress(OSError):
            if not self._known:
                self.path.unlink(missing_ok=True)
                return
            with replacing(self.path) as partial:
                partial.write_text("".join(f"{line}\n" for line in self._known.values()), encoding="utf-8")

    def _line(self, job: DenoiseJob) -> str | None:
        try:
            found = job.source.stat()
        except OSError:
            return None
        return json.dumps([_where(job.source), _where(job.target), found.st_size, found.st_mtime_ns, self.how])


def _where(path: Path) -> str:
    return os.path.realpath(path)


def how(model: Path, options: DenoiseOptions) -> str:
    """What decides, besides the recording, what comes out.

    Raises:
        ExportError: the model cannot be read.
    """
    try:
        return json.dumps([hashlib.sha256(model.read_bytes()).hexdigest()[:16], asdict(options)])
    except OSError as error:
        raise ExportError(f"{model}: {error.strerror}, expected a file made by `quell export`; name another") from error
