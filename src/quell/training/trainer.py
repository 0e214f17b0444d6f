"""Optimiser steps of one training: mixtures, loss, gradients, averaged weights. Its state can be stored and loaded."""

import copy
import json
import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from quell.config import DenoiserConfig, TrainingConfig, loss_problem
from quell.corpus.memory_map import Corpus
from quell.errors import TrainingError
from quell.mixing.training_mixtures import Mixtures, sampler
from quell.network.denoiser import Denoiser, clean_spectrum
from quell.network.stft import magnitude
from quell.network.torch_private import has_amx_tiles
from quell.training.losses import Loss, Signals
from quell.training.memory import one_memory_error
from quell.training.optimisers import optimisers

# The learning rate is constant up to this share of the budget, then falls linearly to zero.
HOLD = 0.75
# Averaged weights, which are scored: w_avg += (AVERAGING + 1) / (step + AVERAGING) * (w - w_avg), about the last ninth
# of the steps (polynomial-decay averaging, Shamir and Zhang 2013, arXiv:1212.1824); no half-life to tune to the budget.
AVERAGING = 8
LARGEST_GRADIENT = 5.0  # norm
# Seconds of mixtures that the representation's scale is fitted to.
FITTED_S = 128.0
# Share of mixtures at which a recurrence forwards starts from zeros, as at the beginning of a signal. At all others it
# continues from the state after the previous mixture: recordings are longer than segments.
BEGINNINGS = 0.1


class Trainer:
    """Network, averaged network, optimisers and mixtures of one training; `quell.training.training_loop.train` runs it.

    The network computes in bfloat16 where that is fast (`native_bfloat16`), and its matrix products on GPUs in TF32;
    transforms, recurrences and losses stay in float32. Raises ValueError if the loss cannot compare what the network
    estimates.
    """

    def __init__(self, model: DenoiserConfig, config: TrainingConfig, corpus: Corpus, device: torch.device) -> None:
        if problem := loss_problem(config.loss, model.output, model.target):
            raise ValueError(f"loss: {problem}")
        torch.manual_seed(config.seed)
        self.model = model
        self.config = config
        self.device = device
        self.denoiser = Denoiser(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = Loss(config.loss, model.sample_rate, config.loss_weights).to(device)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.mixtures = sampler(config, corpus, self.generator)
        self._fit_scale()
        self.state = self.denoiser.network.first_state(torch.zeros(config.batch_size, device=device))
        self.averaged = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        self.optimisers = optimisers(self.denoiser, config)
        self.mixed = config.precision == "auto" and native_bfloat16(device) and self._is_wide(device)
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.total = config.steps(config.rungs_audio_hours[-1])
        self.micro_batch = config.batch_size  # mixtures in memory at once; their gradients add up to the batch's
        self.steps_done = 0
        self.seconds = 0.0
        self.data_seconds = 0.0

    def _is_wide(self, device: torch.device) -> bool:
        """Whether the deepest level has enough frames for bfloat16. On CPUs a convolution of stride 2 with a single
        output frame reads uninitialised memory (torch 2.13, AMX), and now and then returns NaN."""
        frames = self.mixtures.segment / self.model.hop_length
        return device.type != "cpu" or frames >= 4 * self.denoiser.network.time_factor

    @property
    def audio_hours(self) -> float:
        """Training audio so far."""
        return self.steps_done * (self.config.batch_size * self.config.segment_s / 3600)

    def learning_rate(self) -> float:
        """Learning rate of the next step: warm-up over 2 % of the budget, constant, then down to zero."""
        warm_up = min(1.0, (self.steps_done + 1) / max(1.0, 0.02 * self.total))
        decay = min(1.0, (self.total - self.steps_done) / ((1 - HOLD) * self.total))
        return self.config.learning_rate * min(warm_up, decay)

    def step(self) -> float:
        """One optimiser step; returns its loss. Errors as of `quell.training.training_loop.train`."""
        started = time.perf_counter()
        batch = self.mixtures.draw(self.config.batch_size)
        self._reset_some_states()
        self.data_seconds += time.perf_counter() - started
        rate = self.learning_rate()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        while (value := self._accumulate(batch)) is None:
            self.micro_batch = -(-self.micro_batch // 2)
        norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), LARGEST_GRADIENT).item()
        if not math.isfinite(value) or not math.isfinite(norm):
            problem = f"step {self.steps_done}: loss {value}, gradient {norm} at learning rate {rate:.1e}"
            text = json.dumps(asdict(self.model) | asdict(self.config))
            raise TrainingError(f"{problem}, expected finite numbers; lower learning_rate ({text})")
        for optimiser in self.optimisers:
            optimiser.step()
        self.steps_done += 1
        self._average()
        self.seconds += time.perf_counter() - started
        return value

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "recurrence": self.state,
            "mixtures": self.generator.get_state(),
            "dropout": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state(),
            "counts": [self.steps_done, self.seconds, self.data_seconds, self.micro_batch],
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Continues from a `state_dict` of a trainer of the same configuration, with the same numbers as that one."""
        self.denoiser.load_state_dict(stored["denoiser"])
        self.averaged.load_state_dict(stored["averaged"])
        for optimiser, state in zip(self.optimisers, stored["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.state = stored["recurrence"].to(self.device)
        self.generator.set_state(stored["mixtures"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(stored["dropout"], self.device)
        else:
            torch.set_rng_state(stored["dropout"])
        self.steps_done, self.seconds, self.data_seconds, self.micro_batch = stored["counts"]

    @torch.no_grad()
    def _fit_scale(self) -> None:
        batch = self.mixtures.draw(max(1, round(FITTED_S / self.config.segment_s)))
        scale = batch.level.clamp_min(1e-6)
        sides = [magnitude(self.denoiser.spectrogram(side / scale)) for side in (batch.noisy, batch.clean)]
        self.denoiser.target.representation.fit(torch.cat(sides))

    def _reset_some_states(self) -> None:
        if self.state.shape[-1] > 0:
            continues = torch.rand(len(self.state[0]), 1, generator=self.generator, device=self.device) >= BEGINNINGS
            self.state = self.state * continues

    def _accumulate(self, batch: Mixtures) -> float | None:
        """Computes the gradients of a batch, `micro_batch` mixtures at once; returns its loss, None out of memory."""
        self.denoiser.zero_grad(set_to_none=True)
        try:
            with one_memory_error():
                total, self.state = self._add_gradients(batch)
        except torch.OutOfMemoryError as error:
            if self.micro_batch == 1:
                problem = f"out of memory on {self.device} with a single mixture of {self.config.segment_s:g} s"
                advice = "lower base_channels, depth or segment_s, or run fewer workers"
                raise torch.OutOfMemoryError(f"{problem}, expected room for one; {advice} ({error})") from error
            return None
        return total

    def _add_gradients(self, batch: Mixtures) -> tuple[float, Tensor]:
        """(loss of the batch, states after it), with gradients added to the network's."""
        total = 0.0
        states = []
        for start in range(0, len(batch.noisy), self.micro_batch):
            rows = slice(start, start + self.micro_batch)
            part = Mixtures(*(side[rows] for side in batch))
            loss, state = self._loss(part, self.state[:, rows])
            loss = loss * (len(part.noisy) / len(batch.noisy))
            total += loss.item()
            loss.backward()
            states.append(state.detach())
        return total, torch.cat(states, 1)

    def _loss(self, batch: Mixtures, state: Tensor) -> tuple[Tensor, Tensor]:
        scale = batch.level.clamp_min(1e-6)
        clean = batch.clean / scale
        analyse = self.denoiser.spectrogram
        return self.loss_of(analyse(batch.noisy / scale), analyse(clean), clean, state)

    def loss_of(self, noisy: Tensor, clean: Tensor, waveform: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of what the network estimates from noisy spectra, starting from a state, and its last state.

        Shape: complex spectra of the mixtures and of their clean speech (B, F, N), clean waveform (B, T), state
        (1, B, units).
        """
        denoiser, needs = self.denoiser, self.loss.needs
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            answer, state = denoiser.estimate(noisy, state, 0, noisy.shape[-1])
        estimate, target = {"magnitude": answer.clean}, {"magnitude": magnitude(clean)}
        if "output" in needs:
            estimate["output"] = answer.output
            target["output"] = denoiser.target.ideal(answer.noisy, target["magnitude"])
        if "feature" in needs:
            estimate["feature"] = denoiser.target.feature(answer.output, answer.noisy, answer.features)
            target["feature"] = denoiser.target.representation(target["magnitude"])
        if needs & {"spectrum", "waveform"}:
            estimate["spectrum"], target["spectrum"] = clean_spectrum(answer, noisy), clean
        if "waveform" in needs:
            estimate["waveform"] = denoiser.spectrogram.inverse(estimate["spectrum"], waveform.shape[-1])
            target["waveform"] = waveform
        return self.loss(Signals(**estimate), Signals(**target)), state.float()

    @torch.no_grad()
    def _average(self) -> None:
        weight = min(1.0, (AVERAGING + 1) / (self.steps_done + AVERAGING))
        averages = self.averaged.state_dict()
        for name, value in self.denoiser.state_dict().items():
            if value.is_floating_point():
                averages[name].lerp_(value, weight)
            else:
                averages[name].copy_(value)


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32: GPUs since 2020, and CPUs with tile instructions (AMX),
    where a training step takes half the time. Other CPUs take longer than with float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and has_amx_tiles()
