"""Where a study's things are, besides its database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuning.checkpoints import Checkpoints


@dataclass(frozen=True)
class Runs:
    """The folder that holds everything a study makes; never in the repository."""

    folder: Path

    @property
    def storage_url(self) -> str:
        return f"sqlite:///{self.folder / 'quell.db'}"

    @property
    def corpora(self) -> Path:
        return self.folder / "corpora"

    def study(self, name: str) -> Path:
        return self.folder / name

    def logs(self, name: str) -> Path:
        return self.study(name) / "logs"

    def checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(self.study(name) / "checkpoints")

    def weights(self, name: str, number: int) -> Path:
        return self.study(name) / "trials" / f"{number:05d}.weights"
