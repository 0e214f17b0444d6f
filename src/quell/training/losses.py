"""What training minimises. All losses take the estimate first (e) and average over the batch; t is the target.

| term | formula, averaged | of | source |
|---|---|---|---|
| l1 | abs(e - t) | features: magnitudes on the scale that the network sees | |
| l2 | (e - t)^2 | features | |
| huber | d^2 / 2 up to HUBER_THRESHOLD h, then h (d - h / 2), d = abs(e - t) | features | Huber 1964 |
| bce | -t ln e - (1 - t) ln (1 - e) | outputs of the network, as shares in [0, 1] | Good 1952 |
| compressed | (e^0.3 - t^0.3)^2 | magnitudes | Wilson et al. 2018; Braun and Tashev 2021 |
| complex | abs(e abs(e)^-0.7 - t abs(t)^-0.7)^2 | complex spectra | Wilson et al. 2018; Braun and Tashev 2021 |
| multi_resolution | `MultiResolution` | spectra of the waveforms at 16, 32 and 64 ms | Yamamoto et al. 2020 |
| perceptual | `quell.training.perceptual_loss.Perceptual`, points of PESQ's scale | waveforms | ITU-T P.862 2001 |
| si_sdr | `negative_si_sdr` | waveforms | Le Roux et al. 2019 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from quell.config import LOSS_WEIGHTS, loss_terms
from quell.network.stft import FLOOR, Spectrogram, magnitude
from quell.training.perceptual_loss import Perceptual

# Features span 1 or 2, so that at the textbook's threshold of 1 Huber's loss would be half of l2.
HUBER_THRESHOLD = 0.05
WINDOWS_MS = (16, 32, 64)
# Of an estimate with its target at an SI-SDR of -10 dB, and what SI-SDR gains there by the correlation.
LOWEST_CORRELATION = 11**-0.5
_SLOPE_DB = 20 / math.log(10) / (LOWEST_CORRELATION * (1 - LOWEST_CORRELATION**2))
WAVEFORMS = frozenset({"multi_resolution", "perceptual", "si_sdr"})  # terms that hear waveforms


class Signals(NamedTuple):
    """One side of a comparison: the estimate's or the target's. What no term of a loss `needs` is None."""

    magnitude: Tensor  # (B, F, N)
    output: Tensor | None = None  # (B, F, N), of the network, or the ideal one
    feature: Tensor | None = None  # (B, F, N), the representation of `magnitude`
    waveform: Tensor | None = None  # (B, T), at rms near 1
    spectrum: Tensor | None = None  # (B, F, N), complex


def compressed(estimate: Tensor, target: Tensor, power: float = 0.3, floor: float = FLOOR) -> Tensor:
    """Mean of (|S^| ** power - |S|** power) ** 2 over magnitudes (*, F, N).

    The exponent 0.3 is about the ear's loudness (Wilson et al. 2018; Braun and Tashev 2021, arXiv:2009.12286).
    """
    # A root has no slope limit at 0, where a mask may lie.
    estimate, target = ((side.square() + floor**2) ** (power / 2) for side in (estimate, target))
    return functional.mse_loss(estimate, target)


def complex_compressed(estimate: Tensor, target: Tensor, power: float = 0.3, floor: float = FLOOR) -> Tensor:
    """Mean of |S^ |S^| ** (power - 1) - S |S| ** (power - 1)| ** 2 over complex spectra (*, F, N): `compressed` that
    hears the phase. Sources as there."""
    ours, theirs = (torch.view_as_real(side) for side in (estimate, target))
    ours, theirs = (
        side * (side.square().sum(-1, keepdim=True) + floor**2) ** ((power - 1) / 2) for side in (ours, theirs)
    )
    return (ours - theirs).square().sum(-1).mean()


def negative_si_sdr(estimate: Tensor, target: Tensor, ceiling_db: float = 30.0) -> Tensor:
    """Minus the SI-SDR in dB (Le Roux et al. 2019, arXiv:1811.02508), waveforms (B, T) at rms near 1, averaged.

    The distortion is taken as at least `ceiling_db` under the target, so that clips which are good already stop pulling
    (Wisdom et al. 2020, arXiv:2006.12701, eq. 3). SI-SDR is the same for a waveform upside down, and 3 of 17 trainings
    with an estimated phase ended there: below LOWEST_CORRELATION, -10 dB, the loss goes on as a straight line, up to
    51 dB for that waveform. It leaves the gain free: only in a sum with a loss that fixes it. Silence on either side
    gives a finite value with a finite slope.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    # A floor of 1e-4 for the product of the levels: silence correlates with nothing.
    lengths = (estimate.square().sum(-1) * target.square().sum(-1)).clamp_min((1e-4 * target.shape[-1]) ** 2).sqrt()
    correlation = (estimate * target).sum(-1) / lengths
    bounded = correlation.clamp_min(LOWEST_CORRELATION)
    wanted = bounded.square()
    distortion = 1 - wanted + 10 ** (-ceiling_db / 10) * wanted
    beyond = _SLOPE_DB * (correlation - bounded)
    return -(10 * torch.log10(wanted / distortion) + beyond).mean()


class MultiResolution(nn.Module):
    """Spectral convergence and log-magnitude distance, averaged over windows of WINDOWS_MS with 75 % overlap.

    || |S^| - |S| || / || |S| || for each signal, plus the mean of |ln |S^| - ln |S|| (Yamamoto et al. 2020,
    arXiv:1910.11480, eqs. 4 to 6). Departures: a window's own length is that of its transform, and magnitudes end at
    -60 dB of a signal at rms 1, below which the logarithm would count what nobody hears.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        lengths = [round(window * sample_rate / 1000) for window in WINDOWS_MS]
        self.spectrograms = nn.ModuleList(Spectrogram(length, length // 4) for length in lengths)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of waveforms (B, T)."""
        total = torch.zeros((), device=estimate.device)
        for spectrogram in self.spectrograms:
            ours, theirs = (magnitude(spectrogram(side), floor=1e-3) for side in (estimate, target))
            apart = torch.linalg.vector_norm(ours - theirs, dim=(1, 2))  # its slope at 0 is 0, not NaN
            # The floor keeps the norm of a silent target above 0; what is added to it then needs a bound.
            convergence = (apart / torch.linalg.vector_norm(theirs, dim=(1, 2))).clamp_max(10.0)
            total = total + convergence.mean() + (ours.log() - theirs.log()).abs().mean()
        return total / len(self.spectrograms)


class Loss(nn.Module):
    """A weighted sum of terms, by name: `Loss("compressed+si_sdr", 16_000, {"si_sdr": 0.02})`.

    Args:
        weights: of terms that shall not have theirs of LOSS_WEIGHTS.

    Raises:
        ValueError: an unknown term, a weight of a term that is not there, or nothing that fixes the gain.
    """

    def __init__(self, name: str, sample_rate: int, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = {term: LOSS_WEIGHTS[term] for term in loss_terms(name)}
        for term, weight in (weights or {}).items():
            if term not in self.weights:
                raise ValueError(f"loss_weights: {term!r}, expected terms of {name!r}")
            self.weights[term] = weight
        self.multi_resolution = MultiResolution(sample_rate) if "multi_resolution" in self.weights else None
        self.perceptual = Perceptual(sample_rate) if "perceptual" in self.weights else None
        self.needs_output = "bce" in self.weights
        self.needs_feature = not {"l1", "l2", "huber"}.isdisjoint(self.weights)
        self.needs_spectrum = "complex" in self.weights
        self.needs_waveform = not WAVEFORMS.isdisjoint(self.weights)

    def forward(self, estimate: Signals, target: Signals) -> Tensor:
        """Scalar loss."""
        parts = [weight * self._term(term, estimate, target) for term, weight in self.weights.items()]
        return torch.stack(parts).sum()

    def _term(self, term: str, estimate: Signals, target: Signals) -> Tensor:
        if term == "compressed":
            return compressed(estimate.magnitude, target.magnitude)
        if term == "bce":
            assert estimate.output is not None and target.output is not None
            return functional.binary_cross_entropy(estimate.output, target.output.clamp(0.0, 1.0))
        if term == "complex":
            assert estimate.spectrum is not None and target.spectrum is not None
            return complex_compressed(estimate.spectrum, target.spectrum)
        if term in WAVEFORMS:
            assert estimate.waveform is not None and target.waveform is not None
            distances = {"multi_resolution": self.multi_resolution, "perceptual": self.perceptual}
            distance: Tensor = (distances.get(term) or negative_si_sdr)(estimate.waveform, target.waveform)
            return distance
        assert estimate.feature is not None and target.feature is not None
        if term == "l1":
            return functional.l1_loss(estimate.feature, target.feature)
        if term == "l2":
            return functional.mse_loss(estimate.feature, target.feature)
        return functional.huber_loss(estimate.feature, target.feature, delta=HUBER_THRESHOLD)
