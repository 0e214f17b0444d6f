"""Training of one denoiser, scored at rungs, with checkpoints that it can be taken up from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from quell.config import DenoiserConfig, TrainingConfig
from quell.corpus.memory_map import Corpus
from quell.levels import rms
from quell.metrics import intrusive
from quell.metrics.scorer import Scorer, Scores
from quell.mixing.evaluation_mixtures import EvaluationSet, score_denoiser
from quell.network.denoiser import Denoiser
from quell.network.stft import magnitude
from quell.progress import Progress
from quell.training.checkpoint import CHECKPOINT_S, _Checkpoint
from quell.training.trainer import Trainer

# Mixtures scored at the rungs before the last.
RUNG_MIXTURES = 32


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
    on_step: Progress | None = None,
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
            scores = score_denoiser(scorer, trainer.averaged, few, (metric,), device, on_score)
            stored.reached[hours] = scores.values[metric].tolist()
            stored.save()
        if on_rung is not None:
            on_rung(hours, np.array(stored.reached[hours]))
    _advance(trainer, trainer.total, hours_per_step, on_step, stored)
    stored.save()
    scores = score_denoiser(scorer, trainer.averaged, validation, device=device, progress=on_score)
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
    on_step: Progress | None,
    stored: _Checkpoint,
) -> None:
    trainer.denoiser.train()
    while trainer.steps_done < steps:
        loss = trainer.step()
        if on_step is not None:
            try:
                on_step(trainer.steps_done * hours_per_step, loss)
            except BaseException:  # the caller leaves: nothing shall be lost
                stored.save()
                raise
        if time.monotonic() - stored.saved > CHECKPOINT_S:
            stored.save()


@torch.inference_mode()
def spectrogram_iou(denoiser: Denoiser, mixtures: EvaluationSet) -> float:
    """Intersection over union of the clean spectrogram and the estimated one, both binarised in the middle of the
    representation's scale; the mean over the clips, 0 to 1."""
    represent = denoiser.target.representation
    values = []
    for noisy, clean in zip(mixtures.noisy, mixtures.clean, strict=True):
        signals = torch.from_numpy(np.stack([noisy, clean]))
        spectra = denoiser.spectrogram(signals / rms(signals[:1]))
        found, _ = denoiser.estimate(spectra[:1])
        estimate = represent(found.clean.clamp_min(denoiser.floor))[0].numpy()
        target = represent(magnitude(spectra[1])).numpy()
        values.append(intrusive.binary_iou(estimate, target, threshold=(represent.bottom + 1) / 2))
    return float(np.mean(values))
