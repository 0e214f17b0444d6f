"""Training of one denoiser, scored at rungs, with checkpoints that it can be taken up from."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quell.atomic import replacing
from quell.config import DenoiserConfig, TrainingConfig
from quell.corpus import Corpus
from quell.denoiser import Denoiser
from quell.errors import CheckpointError
from quell.heldout import EvaluationSet
from quell.scoring import Progress, Scorer, Scores, spectrogram_iou
from quell.trainer import Trainer

# Mixtures scored at the rungs before the last.
RUNG_MIXTURES = 32
# Training that a killed process may lose, seconds.
CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    denoiser: Denoiser
    scores: Scores
    seconds: float  # wall time of the steps
    data_share: float  # of it, spent on drawing mixtures
    micro_batch: int  # mixtures in memory at once, the batch unless that did not fit
    iou: float | None  # of binarised spectrograms over the validation set, for the representation "log"


def train(
    model: DenoiserConfig,
    config: TrainingConfig,
    corpus: Corpus,
    validation: EvaluationSet,
    scorer: Scorer,
    *,
    metric: str = "pesq",
    device: torch.device | None = None,
    on_rung: Callable[[float, NDArray[np.float64]], None] | None = None,
    on_step: Callable[[float, float], None] | None = None,
    on_score: Progress | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Trains to the last rung and returns the averaged weights with their scores over the whole validation set.

    Args:
        metric: what rungs are scored by; rungs before the last use the first RUNG_MIXTURES mixtures only.
        on_rung: called with (audio hours, the clips' scores) at each rung, also at those that a checkpoint lies behind.
            What it raises ends the training and comes through.
        on_step: called with (audio hours, loss) after each step; likewise, after a checkpoint was written.
        on_score: called with (clips done, clips in all) often while a rung is scored; likewise.
        checkpoint: a file to go on from where it exists, written at every rung and every CHECKPOINT_S. The scores are
            those of a training that was never interrupted.

    Raises:
        TrainingError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged, or is not one of this training.
        torch.OutOfMemoryError: not even a single mixture fits into memory.
    """
    device = device or torch.device("cpu")
    trainer = Trainer(model, config, corpus, device)
    stored = _Checkpoint(checkpoint, trainer)
    few = validation.first(RUNG_MIXTURES)
    hours_per_step = config.batch_size * config.segment_s / 3600
    for hours in config.rungs_audio_hours[:-1]:
        _advance(trainer, config.steps(hours), hours_per_step, on_step, stored)
        if hours not in stored.reached:
            stored.save()
            scores = scorer.score(trainer.averaged, few, (metric,), device, on_score)
            stored.reached[hours] = scores.values[metric].tolist()
            stored.save()
        if on_rung is not None:
            on_rung(hours, np.array(stored.reached[hours]))
    _advance(trainer, trainer.total, hours_per_step, on_step, stored)
    stored.save()
    scores = scorer.score(trainer.averaged, validation, device=device, progress=on_score)
    if on_rung is not None:
        on_rung(config.rungs_audio_hours[-1], scores.values[metric])
    share = trainer.data_seconds / max(trainer.seconds, 1e-9)
    denoiser = trainer.averaged.cpu()
    iou = spectrogram_iou(denoiser, validation) if model.representation == "log" else None
    return Trained(denoiser, scores, trainer.seconds, share, trainer.micro_batch, iou)


def _advance(
    trainer: Trainer,
    steps: int,
    hours_per_step: float,
    on_step: Callable[[float, float], None] | None,
    stored: _Checkpoint,
) -> None:
    trainer.denoiser.train()
    while trainer.step < steps:
        loss = trainer.advance()
        if on_step is not None:
            try:
                on_step(trainer.step * hours_per_step, loss)
            except BaseException:  # the caller leaves: nothing shall be lost
                stored.save()
                raise
        if time.monotonic() - stored.saved > CHECKPOINT_S:
            stored.save()


class _Checkpoint:
    """A trainer's file, or nothing at all without a path; `reached` holds the clips' scores at the rungs behind it."""

    def __init__(self, path: Path | None, trainer: Trainer) -> None:
        self.path = path
        self.trainer = trainer
        self.reached: dict[float, list[float]] = {}
        self.saved = time.monotonic()
        if path is not None and path.exists():
            self._load(path)

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.path is not None:
            content = {"of": self._owner(), "reached": self.reached, "state": self.trainer.snapshot()}
            with replacing(self.path) as partial:
                torch.save(content, partial)

    def _load(self, path: Path) -> None:
        needed = "expected a checkpoint of this training; remove it to begin anew"
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load checks no sums (2.13): damaged weights would pass
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(damaged)
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["of"] == self._owner():
                self.reached = content["reached"]
                self.trainer.take_up(content["state"])
                return
        except Exception as error:  # torch.load raises whatever the bytes make it raise
            raise CheckpointError(f"{path}: {type(error).__name__}, {needed}") from error
        raise CheckpointError(f"{path}: another configuration, {needed}")

    def _owner(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "model": asdict(trainer.model),
            "training": asdict(trainer.config),
            "device": trainer.device.type,  # whose random numbers cannot be continued on another
        }
