"""The checkpoint file of one training: written atomically, loaded, or refused."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from quell import check_sums
from quell.errors import CheckpointError
from quell.network.denoiser import write_sealed
from quell.progress import ignore
from quell.training.trainer import Trainer

# Seconds of training that a killed process may lose.
CHECKPOINT_S = 60.0


class Checkpoint:
    """A trainer's checkpoint file; loads it where it exists. Without a path nothing is written.

    Raises CheckpointError if the file is damaged, or belongs to another training.

    Args:
        on_checkpoint: as of `quell.training.training_loop.train`.
    """

    def __init__(self, path: Path | None, trainer: Trainer, on_checkpoint: Callable[[float], None] = ignore) -> None:
        self.path = path
        self.trainer = trainer
        self.on_checkpoint = on_checkpoint
        # Scores of the clips at the rungs that the training has passed, by audio hours.
        self.reached: dict[float, list[float]] = {}
        self.saved = time.monotonic()  # when the file was last written
        if path is not None and path.exists():
            self._load(path)
        on_checkpoint(trainer.audio_hours)

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.path is not None:
            content = {"of": self._owner(), "reached": self.reached, "state": self.trainer.state_dict()}
            write_sealed(content, self.path)
            self.on_checkpoint(self.trainer.audio_hours)

    def _load(self, path: Path) -> None:
        needed = "expected a checkpoint of this training; remove it to start from the beginning"
        try:
            check_sums.check(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["of"] == self._owner():
                self.reached = content["reached"]
                self.trainer.load_state_dict(content["state"])
                return
        except Exception as error:  # torch.load raises any type of error on damaged bytes
            found = "damaged" if isinstance(error, check_sums.DamagedFileError) else type(error).__name__
            raise CheckpointError(f"{path}: {found}, {needed}") from error
        raise CheckpointError(f"{path}: another configuration, {needed}")

    def _owner(self) -> dict[str, Any]:
        return {
            "model": asdict(self.trainer.model),
            "training": asdict(self.trainer.config),
            "device": self.trainer.device.type,  # another type has other random numbers
        }
