"""Noises that nobody recorded, drawn anew for every mixture: for trainings that shall hear more than recordings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quell.colour import OCTAVES, coloured
from quell.denoiser import rms

COLOUR_DB = 20.0  # up or down, octave by octave
DEPTH_DB = 40.0  # that a noise falls below its loudest moment at most
KNOTS = (2, 64)  # of the straight lines that its level follows
IMPULSES = (1e-4, 1.0)  # share of the samples that a crackling noise is made of; 1 is a steady one
PITCH = (1 / 400, 1 / 8)  # of a tone, cycles per sample: 40 Hz to 2 kHz at 16 kHz
BEND = 0.5  # octaves that a tone moves up or down at most
RATIO = (0.25, 4.0)  # of the frequency that modulates a tone to the tone's own
INDEX = 4.0  # radians by which it is modulated at most


def noises(count: int, samples: int, generator: torch.Generator) -> Tensor:
    """Noises of a mean square of 1: some steady, some crackling, some tonal, most of both kinds, of any colour, their
    level rising and falling slowly or fast.

    Tones are one frequency modulating another, by a ratio and a depth drawn at random: from a hum and a whistle to a
    bell and an engine (Chowning 1973, "The synthesis of complex audio spectra by means of frequency modulation").

    Shape:
        (count, samples), on the generator's device.
    """
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator, device=device)

    def log_uniform(limits: tuple[float, float]) -> Tensor:
        return torch.exp(uniform(math.log(limits[0]), math.log(limits[1])))

    def line() -> Tensor:
        """Straight lines between values of 0 to 1."""
        values = torch.rand(count, KNOTS[1] + 1, generator=generator, device=device)
        place = torch.arange(samples, device=device) / samples * log_uniform((float(KNOTS[0]), float(KNOTS[1])))
        knot = place.long()
        return torch.lerp(values.gather(1, knot), values.gather(1, knot + 1), place - knot)

    def even(waveforms: Tensor) -> Tensor:
        return waveforms / rms(waveforms).clamp_min(1e-8)

    def level() -> Tensor:
        return 10 ** (uniform(-DEPTH_DB, 0) * line() / 20)

    hiss = torch.randn(count, samples, generator=generator, device=device)
    sounding = torch.rand(count, samples, generator=generator, device=device) < log_uniform(IMPULSES)
    sounding |= torch.arange(samples, device=device) == (uniform(0, 1) * samples).long()  # never none
    hiss *= sounding
    gains_db = COLOUR_DB * (2 * torch.rand(count, OCTAVES, generator=generator, device=device) - 1)
    hiss = even(coloured(hiss, gains_db) * level())
    phase = 2 * math.pi * (log_uniform(PITCH) * 2 ** (BEND * (2 * line() - 1))).cumsum(1)
    modulation = uniform(0, INDEX) * line() * torch.sin(log_uniform(RATIO) * phase)
    tone = even(torch.sin(phase + modulation) * level())
    tonal = uniform(-0.5, 1.5).clamp(0, 1)  # a quarter are hiss alone, a quarter tones alone
    return even((1 - tonal) * hiss + tonal * tone)
