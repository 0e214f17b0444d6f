"""Records the finished jobs of a run, so that the same command resumes it after an interruption."""

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
    """The finished jobs of a run, one a line in a hidden file of the output folder.

    A line counts while its source, the model and the options are the same. Without a journal that can be read and
    written, all jobs run again.
    """

    def __init__(self, output: Path, settings: str) -> None:
        self.path = output / JOURNAL
        self.settings = settings  # of the run, from `settings_key`
        self._lines = self._stored()  # by target

    def _stored(self) -> dict[str, str]:
        lines: dict[str, str] = {}
        with suppress(OSError, UnicodeDecodeError):
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, LookupError, TypeError):  # cut off by a power failure
                    lines[str(json.loads(line)[1])] = line
        return lines

    def is_finished(self, job: DenoiseJob) -> bool:
        return job.target.exists() and self._lines.get(os.path.realpath(job.target)) == self._line(job)

    def is_output(self, path: Path) -> bool:
        """Whether a run that this journal resumes has written, or was to write, the file."""
        return bool(self._lines) and os.path.realpath(path) in self._lines

    def begin(self, jobs: Iterable[DenoiseJob]) -> None:
        """Records the jobs whose output does not exist yet, before they run.

        Outputs appear whole, so one that exists later is finished, also when the run was killed before `add`.
        """
        self._append(job for job in jobs if not job.target.exists())

    def add(self, job: DenoiseJob) -> None:
        """Records a finished job, again: another run into this folder may have recorded the same output since."""
        self._lines.pop(os.path.realpath(job.target), None)
        self._append([job])

    def _append(self, jobs: Iterable[DenoiseJob]) -> None:
        lines = {os.path.realpath(job.target): line for job in jobs if (line := self._line(job)) is not None}
        new = "".join(f"{line}\n" for target, line in lines.items() if self._lines.get(target) != line)
        self._lines |= lines
        if not new:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(new)

    def close(self, jobs: Iterable[DenoiseJob]) -> None:
        """Removes jobs that no later run is to resume, and the file when no other is left in it."""
        ended = {target: self._lines.get(target) for target in (os.path.realpath(job.target) for job in jobs)}
        # Read again: another run into this folder may have added lines since.
        self._lines = {target: line for target, line in self._stored().items() if line != ended.get(target)}
        with suppress(OSError):
            if not self._lines:
                self.path.unlink(missing_ok=True)
                return
            with replacing(self.path) as partial:
                partial.write_text("".join(f"{line}\n" for line in self._lines.values()), encoding="utf-8")

    def _line(self, job: DenoiseJob) -> str | None:
        source, target = os.path.realpath(job.source), os.path.realpath(job.target)
        try:
            status = job.source.stat()
        except OSError:
            return None
        return json.dumps([source, target, status.st_size, status.st_mtime_ns, self.settings])


def settings_key(model: Path, options: DenoiseOptions) -> str:
    """All that an output depends on besides the recording: digest of the model, and the options.

    Raises ExportError if the model cannot be read.
    """
    try:
        return json.dumps([hashlib.sha256(model.read_bytes()).hexdigest()[:16], asdict(options)])
    except OSError as error:
        raise ExportError(f"{model}: {error.strerror}, expected a file made by `quell export`; name another") from error
