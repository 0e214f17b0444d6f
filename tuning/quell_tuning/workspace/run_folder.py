"""Paths below the runs folder, and which weights are kept there and in a bucket."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from quell.check_sums import is_intact
from quell_tuning.workspace.bucket_mirror import Mirror
from quell_tuning.workspace.checkpoints import Checkpoints


@dataclass(frozen=True)
class RunFolder:
    """The folder of everything that studies make.

    Args:
        mirror: copies weights and checkpoints to where other machines find them. While it is away, `fetch_weights` and
            `kept_weights` raise StorageError.
    """

    folder: Path
    mirror: Mirror | None = field(default=None, repr=False)

    @property
    def storage_url(self) -> str:
        return f"sqlite:///{self.folder / 'quell.db'}"

    @property
    def postgres(self) -> Path:
        """The folder of the server that `--storage postgres` starts."""
        return self.folder / "postgres"

    @property
    def corpora(self) -> Path:
        return self.folder / "corpora"

    def study(self, name: str) -> Path:
        return self.folder / name

    def logs(self, name: str) -> Path:
        return self.study(name) / "logs"

    def checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(self.study(name) / "checkpoints", self.mirror)

    def weights(self, name: str, number: int) -> Path:
        """Where a trial's weights are written."""
        return self._trials(name) / f"{number:05d}.weights"

    def share_weights(self, name: str, number: int) -> None:
        """Sends weights that were written to the mirror."""
        if self.mirror is not None:
            self.mirror.keep(self.weights(name, number))

    def fetch_weights(self, name: str, number: int) -> Path:
        """The file of a trial's weights, absent when they were not kept; fetched where another machine wrote them, or
        where those here are damaged."""
        file = self.weights(name, number)
        if self.mirror is not None and not (file.exists() and is_intact(file)):
            self.mirror.fetch(file)
        return file

    def kept_weights(self, name: str) -> set[int]:
        """The trials whose weights are here or in the mirror."""
        files = [file.name for file in self._trials(name).glob("*.weights")]
        if self.mirror is not None:
            files += self.mirror.names(self._trials(name))
        return {int(file[:-8]) for file in files if re.fullmatch(r"\d+\.weights", file)}  # no incomplete files

    def remove_weights(self, name: str, numbers: Collection[int]) -> None:
        """Removes the weights of trials, where there are any."""
        for number in numbers:
            self.weights(name, number).unlink(missing_ok=True)
        if self.mirror is not None and numbers:
            self.mirror.forget(self._trials(name), {self.weights(name, number).name for number in numbers})

    def check(self, *, write: bool) -> None:
        """Raises StorageError if the mirror cannot be used, or with `write` not be written to."""
        if self.mirror is not None:
            self.mirror.bucket.check(write=write)

    def close(self) -> None:
        """Sends what the mirror does not have yet, in a few seconds at most."""
        if self.mirror is not None:
            self.mirror.close()

    def _trials(self, name: str) -> Path:
        return self.study(name) / "trials"
