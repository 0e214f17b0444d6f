"""Training of one denoiser, scored at rungs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from quell.corpus import Corpus
from quell.denoiser import Denoiser, DenoiserConfig
from quell.errors import TrainingError
from quell.heldout import EvaluationSet
from quell.losses import Loss
from quell.mixing import Mixtures, MixtureSampler
from quell.scoring import Scorer, Scores

# Mixtures scored at the rungs before the last.
RUNG_MIXTURES = 32
# The learning rate holds until this share of the budget and then falls to zero in a straight line.
HOLD = 0.75
# Weights that are scored: w_avg += (AVERAGING + 1) / (step + AVERAGING) * (w - w_avg), about the last ninth of the
# steps (polynomial-decay averaging, Shamir and Zhang 2013, arXiv:1212.1824); no half-life to be tuned to the
# budget.
AVERAGING = 8
LARGEST_GRADIENT = 5.0  # norm


@dataclass(frozen=True)
class TrainingConfig:
    """How a denoiser is trained. One hour of audio is 3600 s of mixtures, drawn anew every time."""

    loss: str = "compressed+si_sdr"
    si_sdr_weight: float = 0.01  # per dB
    learning_rate: float = 2e-3
    batch_size: int = 16
    segment_s: float = 2.0
    rungs_audio_hours: tuple[float, ...] = (1.0, 2.0, 4.0)  # ascending; the last one is the budget
    snr_db: tuple[float, float] = (-5.0, 20.0)
    seed: int = 0

    def steps(self, audio_hours: float) -> int:
        """Optimiser steps that make up so much training audio."""
        return max(1, round(audio_hours * 3600 / (self.batch_size * self.segment_s)))


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    denoiser: Denoiser
    scores: Scores
    seconds: float  # wall time of the steps
    data_share: float  # of it, spent on drawing mixtures


class Trainer:
    """One training: network, averaged network, optimiser, mixtures. `train` drives it."""

    def __init__(self, model: DenoiserConfig, config: TrainingConfig, corpus: Corpus, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.denoiser = Denoiser(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.denoiser.parameters(), lr=config.learning_rate, weight_decay=1e-2)
        self.loss = Loss(config.loss, model.power, config.si_sdr_weight)
        generator = torch.Generator(device).manual_seed(config.seed)
        segment = round(config.segment_s * model.sample_rate)
        self.mixtures = MixtureSampler(corpus.splits["train"], segment, config.snr_db, generator)
        self.total = config.steps(config.rungs_audio_hours[-1])
        self.step = 0
        self.seconds = 0.0
        self.data_seconds = 0.0

    def learning_rate(self) -> float:
        """Of the coming step: warm-up over 2 % of the budget, hold, then down to zero."""
        warm_up = min(1.0, (self.step + 1) / max(1.0, 0.02 * self.total))
        decay = min(1.0, (self.total - self.step) / ((1 - HOLD) * self.total))
        return self.config.learning_rate * min(warm_up, decay)

    def advance(self) -> float:
        """One optimiser step; returns its loss.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        started = time.perf_counter()
        batch = self.mixtures.draw(self.config.batch_size)
        self.data_seconds += time.perf_counter() - started
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(batch)
        value = loss.item()
        if not abs(value) < float("inf"):  # written so that NaN fails too
            found = f"loss {value} at learning rate {rate:.1e}"
            raise TrainingError(f"step {self.step}: {found}, expected a finite number; lower learning_rate")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.step += 1
        self._average()
        self.seconds += time.perf_counter() - started
        return value

    def _loss(self, batch: Mixtures) -> torch.Tensor:
        spectrogram = self.denoiser.spectrogram
        scale = batch.level.clamp_min(1e-6)
        clean = batch.clean / scale
        target = spectrogram(clean)
        estimate = self.denoiser.denoise_spectrum(spectrogram(batch.noisy / scale))
        waveforms = None
        if self.loss.needs_waveforms:
            waveforms = (spectrogram.inverse(estimate, clean.shape[-1]), clean)
        return self.loss(estimate, target, waveforms)

    @torch.no_grad()
    def _average(self) -> None:
        weight = min(1.0, (AVERAGING + 1) / (self.step + AVERAGING))
        mine = self.averaged.state_dict()
        for name, value in self.denoiser.state_dict().items():
            if value.is_floating_point():
                mine[name].lerp_(value, weight)
            else:
                mine[name].copy_(value)


def train(
    model: DenoiserConfig,
    config: TrainingConfig,
    corpus: Corpus,
    validation: EvaluationSet,
    scorer: Scorer,
    *,
    metric: str = "pesq",
    device: torch.device | None = None,
    on_rung: Callable[[float, float], None] | None = None,
    on_step: Callable[[float, float], None] | None = None,
) -> Trained:
    """Trains to the last rung and returns the averaged weights with their scores over the whole validation set.

    Args:
        metric: what rungs are scored by; rungs before the last use the first RUNG_MIXTURES mixtures only.
        on_rung: called with (audio hours, score) at each rung. What it raises ends the training and comes through.
        on_step: called with (audio hours, loss) after each step; likewise.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    device = device or torch.device("cpu")
    trainer = Trainer(model, config, corpus, device)
    few = validation.first(RUNG_MIXTURES)
    hours_per_step = config.batch_size * config.segment_s / 3600
    for hours in config.rungs_audio_hours:
        trainer.denoiser.train()
        while trainer.step < config.steps(hours):
            loss = trainer.advance()
            if on_step is not None:
                on_step(trainer.step * hours_per_step, loss)
        if hours < config.rungs_audio_hours[-1]:
            score = scorer.score(trainer.averaged, few, (metric,), device).mean(metric)
        else:
            scores = scorer.score(trainer.averaged, validation, device=device)
            score = scores.mean(metric)
        if on_rung is not None:
            on_rung(hours, score)
    share = trainer.data_seconds / max(trainer.seconds, 1e-9)
    return Trained(trainer.averaged.cpu(), scores, trainer.seconds, share)
