"""Filters that are straight lines between octaves."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

OCTAVES = 8  # points: 0, half the sample rate and the octaves below it


@cache
def octaves(bins: int, device: torch.device) -> Tensor:
    """Weights of the points for the bins of a spectrum from 0 to half the sample rate: straight lines between them.

    Shape (OCTAVES, bins); each bin's weights add up to 1.
    """
    points = [0.0, *(2.0 ** -(OCTAVES - 2 - number) for number in range(OCTAVES - 1))]
    place = np.linspace(0, 1, bins)
    weights = [np.interp(place, points, np.eye(OCTAVES)[number]) for number in range(OCTAVES)]
    return torch.tensor(np.array(weights), dtype=torch.float32, device=device)


def coloured(waveforms: Tensor, gains_db: Tensor) -> Tensor:
    """Waveforms (B, T) through filters of such gains in dB at the points, (B, OCTAVES); they neither delay nor ring on:
    what would, goes around."""
    samples = waveforms.shape[1]
    gains = 10 ** (gains_db @ octaves(samples // 2 + 1, waveforms.device) / 20)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms) * gains, n=samples)
    return filtered
