"""Trains one denoiser to its last rung, scores it at every rung, and resumes from a checkpoint."""

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
from quell.network.stft import FLOOR, magnitude
from quell.progress import Progress, ignore
from quell.training.checkpoint import CHECKPOINT_S, Checkpoint
from quell.training.memory import one_memory_error
from quell.training.trainer import Trainer

# Mixtures that are scored at the rungs before the last.
RUNG_MIXTURES = 32


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    denoiser: Denoiser
    scores: Scores
    seconds: float  # wall time of the steps
    data_share: float  # share of `seconds` spent on drawing mixtures
    micro_batch: int  # mixtures in memory at once: the batch, unless it did not fit
    iou: float | None  # `spectrogram_iou` over the validation set, for the representation "log"


@one_memory_error()
def train(
    model: DenoiserConfig,
    config: TrainingConfig,
    corpus: Corpus,
    validation: EvaluationSet,
    scorer: Scorer,
    *,
    metric: str = "pesq",
    device: torch.device | None = None,
    on_rung: Callable[[float, NDArray[np.float64]], None] = ignore,
    on_step: Callable[[float, float], None] = ignore,
    on_score: Progress = ignore,
    on_checkpoint: Callable[[float], None] = ignore,
    checkpoint: Path | None = None,
) -> Trained:
    """Trains to the last rung and returns the averaged weights with their scores over the whole validation set.

    Args:
        metric: the score of rungs; those before the last use the first RUNG_MIXTURES mixtures only.
        on_rung: called with (audio hours, scores of the clips) at each rung, including those before the checkpoint. An
            error that it raises ends the training and is passed on.
        on_step: called with (audio hours, loss) after each step; an error is passed on after writing the checkpoint.
        on_score: called with (clips done, clips in all) while a rung is scored; errors as of `on_rung`.
        on_checkpoint: called with the audio hours from which the training could be resumed: at the start, and after
            the checkpoint was written.
        checkpoint: file to resume from where it exists, written at every rung and every CHECKPOINT_S. Scores are those
            of an uninterrupted training.

    Raises:
        TrainingError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged, or belongs to another training.
        torch.OutOfMemoryError: not even a single mixture fits into memory, on a GPU or on a CPU.
    """
    device = device or torch.device("cpu")
    trainer = Trainer(model, config, corpus, device)
    state = Checkpoint(checkpoint, trainer, on_checkpoint)
    for hours in config.rungs_audio_hours[:-1]:
        _train_to(config.steps(hours), trainer, state, on_step)
        if hours not in state.reached:
            state.save()
            few = validation.first(RUNG_MIXTURES)
            scores = score_denoiser(scorer, trainer.averaged, few, (metric,), device, on_score)
            state.reached[hours] = scores.values[metric].tolist()
            state.save()
        on_rung(hours, np.array(state.reached[hours]))
    _train_to(trainer.total, trainer, state, on_step)
    state.save()
    scores = score_denoiser(scorer, trainer.averaged, validation, device=device, progress=on_score)
    on_rung(config.rungs_audio_hours[-1], scores.values[metric])
    share = trainer.data_seconds / max(trainer.seconds, 1e-9)
    denoiser = trainer.averaged.cpu()
    iou = spectrogram_iou(denoiser, validation) if model.representation == "log" else None
    return Trained(denoiser, scores, trainer.seconds, share, trainer.micro_batch, iou)


def _train_to(steps: int, trainer: Trainer, state: Checkpoint, on_step: Callable[[float, float], None]) -> None:
    trainer.denoiser.train()
    while trainer.steps_done < steps:
        loss = trainer.step()
        try:
            on_step(trainer.audio_hours, loss)
        except BaseException:  # the caller ends the training: no step may be lost
            state.save()
            raise
        if time.monotonic() - state.saved > CHECKPOINT_S:
            state.save()


@torch.inference_mode()
def spectrogram_iou(denoiser: Denoiser, mixtures: EvaluationSet) -> float:
    """Intersection over union of the clean and the estimated spectrogram, both binarised at the middle of the
    representation's scale; mean over the clips, 0 to 1."""
    represent = denoiser.target.representation
    values = []
    for noisy, clean in zip(mixtures.noisy, mixtures.clean, strict=True):
        signals = torch.from_numpy(np.stack([noisy, clean]))
        spectra = denoiser.spectrogram(signals / rms(signals[:1]))
        answer, _ = denoiser.estimate(spectra[:1])
        estimate = represent(answer.clean.clamp_min(FLOOR))[0].numpy()
        target = represent(magnitude(spectra[1])).numpy()
        values.append(intrusive.binary_iou(estimate, target, threshold=(represent.bottom + 1) / 2))
    return float(np.mean(values))
