"""Training losses: sums of weighted terms, by name.

Every term takes the estimate first (e), then the target (t), and averages over the batch.

| term | formula, averaged | of | source |
|---|---|---|---|
| l1 | abs(e - t) | features: magnitudes on the scale of the network's input | |
| l2 | (e - t)^2 | features | |
| huber | d^2 / 2 up to HUBER_THRESHOLD h, then h (d - h / 2), d = abs(e - t) | features | Huber 1964 |
| bce | -t ln e - (1 - t) ln (1 - e) | outputs of the network, as shares in [0, 1] | Good 1952 |
| compressed | (e^0.3 - t^0.3)^2 | magnitudes | Wilson et al. 2018; Braun and Tashev 2021 |
| complex | abs(e abs(e)^-0.7 - t abs(t)^-0.7)^2 | complex spectra | Wilson et al. 2018; Braun and Tashev 2021 |
| multi_resolution | `MultiResolution` | spectra of the waveforms at 16, 32 and 64 ms | Yamamoto et al. 2020 |
| perceptual | `quell.training.perceptual_loss.Perceptual`, points of PESQ's scale | waveforms | ITU-T P.862 2001 |
| si_sdr | `negative_si_sdr` | waveforms | Le Roux et al. 2019 |
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from quell.config import LOSS_WEIGHTS, loss_terms
from quell.network.stft import FLOOR, Spectrogram, magnitude
from quell.training.perceptual_loss import Perceptual

# Features span 1 or 2; with the textbook's threshold of 1 Huber's loss would be half of l2.
HUBER_THRESHOLD = 0.05
WINDOWS_MS = (16, 32, 64)
# Correlation of an estimate with its target at an SI-SDR of -10 dB, and the slope of SI-SDR over the correlation there.
LOWEST_CORRELATION = 11**-0.5
_SLOPE_DB = 20 / math.log(10) / (LOWEST_CORRELATION * (1 - LOWEST_CORRELATION**2))

Distance = Callable[[Tensor, Tensor], Tensor]


class Signals(NamedTuple):
    """One side of a comparison, the estimate's or the target's; None where the loss does not need a signal."""

    magnitude: Tensor  # (B, F, N)
    output: Tensor | None = None  # (B, F, N): of the network, or the ideal one
    feature: Tensor | None = None  # (B, F, N): the representation of `magnitude`
    waveform: Tensor | None = None  # (B, T), at rms near 1
    spectrum: Tensor | None = None  # (B, F, N), complex


def compressed(estimate: Tensor, target: Tensor, power: float = 0.3, floor: float = FLOOR) -> Tensor:
    """Mean of (|S^| ** power - |S|** power) ** 2 over magnitudes (*, F, N).

    The exponent 0.3 approximates perceived loudness (Wilson et al. 2018; Braun and Tashev 2021, arXiv:2009.12286).
    """
    # The slope of a root is unbounded at 0, a value that masks reach.
    estimate, target = ((side.square() + floor**2) ** (power / 2) for side in (estimate, target))
    return functional.mse_loss(estimate, target)


def complex_compressed(estimate: Tensor, target: Tensor, power: float = 0.3, floor: float = FLOOR) -> Tensor:
    """Mean of |S^ |S^| ** (power - 1) - S |S| ** (power - 1)| ** 2 over complex spectra (*, F, N): as `compressed`, and
    sensitive to the phase."""
    sides = (torch.view_as_real(side) for side in (estimate, target))
    estimate, target = (side * (side.square().sum(-1, keepdim=True) + floor**2) ** ((power - 1) / 2) for side in sides)
    return (estimate - target).square().sum(-1).mean()


def cross_entropy(estimate: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of shares in [0, 1]; targets beyond count as the nearest end."""
    return functional.binary_cross_entropy(estimate, target.clamp(0.0, 1.0))


def negative_si_sdr(estimate: Tensor, target: Tensor, ceiling_db: float = 30.0) -> Tensor:
    """Minus the SI-SDR in dB (Le Roux et al. 2019, arXiv:1811.02508), waveforms (B, T) at rms near 1, averaged.

    The distortion counts as at least `ceiling_db` below the target, so that clips near the ceiling have little gradient
    (Wisdom et al. 2020, arXiv:2006.12701, eq. 3). SI-SDR is the same for a waveform of opposite sign, and 3 of 17
    trainings with an estimated phase ended there: below LOWEST_CORRELATION, -10 dB, the loss goes on as a straight
    line, up to 51 dB for the opposite waveform. It leaves the gain free: only in a sum with a loss that fixes it.
    Silence on either side gives a finite value with a finite slope.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    # A floor of 1e-4 for the product of the levels: silence correlates with nothing.
    lengths = (estimate.square().sum(-1) * target.square().sum(-1)).clamp_min((1e-4 * target.shape[-1]) ** 2).sqrt()
    correlation = (estimate * target).sum(-1) / lengths
    bounded = correlation.clamp_min(LOWEST_CORRELATION)
    speech = bounded.square()  # share of the estimate's energy
    distortion = 1 - speech + 10 ** (-ceiling_db / 10) * speech
    line = _SLOPE_DB * (correlation - bounded)
    return -(10 * torch.log10(speech / distortion) + line).mean()


class MultiResolution(nn.Module):
    """Spectral convergence and log-magnitude distance, averaged over windows of WINDOWS_MS with 75 % overlap.

    || |S^| - |S| || / || |S| || for each signal, plus the mean of |ln |S^| - ln |S|| (Yamamoto et al. 2020,
    arXiv:1910.11480, eqs. 4 to 6). Departures: a window is as long as its transform, and magnitudes have a floor of
    -60 dB for a signal at rms 1, below which the logarithm would count inaudible differences.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        lengths = [round(window * sample_rate / 1000) for window in WINDOWS_MS]
        self.spectrograms = nn.ModuleList(Spectrogram(length, length // 4) for length in lengths)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of waveforms (B, T)."""
        total = torch.zeros((), device=estimate.device)
        for spectrogram in self.spectrograms:
            estimated, clean = (magnitude(spectrogram(side), floor=1e-3) for side in (estimate, target))
            difference = torch.linalg.vector_norm(estimated - clean, dim=(1, 2))  # its slope at 0 is 0, not NaN
            # The floor keeps the norm of a silent target above 0, but so small that the quotient needs a bound.
            convergence = (difference / torch.linalg.vector_norm(clean, dim=(1, 2))).clamp_max(10.0)
            total = total + convergence.mean() + (estimated.log() - clean.log()).abs().mean()
        return total / len(self.spectrograms)


# For each term the signal that it compares, and its distance, or the class that makes it for a sample rate.
TERMS: Mapping[str, tuple[str, Distance | type[MultiResolution] | type[Perceptual]]] = {
    "l1": ("feature", functional.l1_loss),
    "l2": ("feature", functional.mse_loss),
    "huber": ("feature", partial(functional.huber_loss, delta=HUBER_THRESHOLD)),
    "bce": ("output", cross_entropy),
    "compressed": ("magnitude", compressed),
    "complex": ("spectrum", complex_compressed),
    "multi_resolution": ("waveform", MultiResolution),
    "perceptual": ("waveform", Perceptual),
    "si_sdr": ("waveform", negative_si_sdr),
}


class Loss(nn.Module):
    """A weighted sum of terms, by name: `Loss("compressed+si_sdr", 16_000, {"si_sdr": 0.02})`.

    Args:
        weights: of terms whose weight is not that of LOSS_WEIGHTS.

    Raises:
        ValueError: an unknown term, a weight of a term that is not in the sum, or nothing that fixes the gain.
    """

    def __init__(self, name: str, sample_rate: int, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = {term: LOSS_WEIGHTS[term] for term in loss_terms(name)}
        for term, weight in (weights or {}).items():
            if term not in self.weights:
                raise ValueError(f"loss_weights: {term!r}, expected terms of {name!r}")
            self.weights[term] = weight
        self.needs = {TERMS[term][0] for term in self.weights}  # fields of `Signals` that the terms compare
        self.distances: dict[str, Distance] = {}
        for term in self.weights:
            distance = TERMS[term][1]
            self.distances[term] = distance(sample_rate) if isinstance(distance, type) else distance
        self.parts = nn.ModuleList(part for part in self.distances.values() if isinstance(part, nn.Module))

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        """Scalar loss."""
        values = []
        for term, weight in self.weights.items():
            signal = TERMS[term][0]
            values.append(weight * self.distances[term](getattr(estimate, signal), getattr(target, signal)))
        return torch.stack(values).sum()
