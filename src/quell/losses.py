"""What training minimises. All losses take the estimate first and average over the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from quell.spectrogram import magnitude

# Terms that a loss may be a sum of: "l1", "huber", "compressed", "si_sdr", joined by "+".
SPECTRAL = ("l1", "huber", "compressed")
TERMS = (*SPECTRAL, "si_sdr")


def compressed(estimate: Tensor, target: Tensor, power: float = 0.3) -> Tensor:
    """Mean of (|S^| ** power - |S|** power) ** 2 over complex spectra (*, F, N).

    The exponent 0.3 is about the ear's loudness (Wilson et al. 2018; Braun and Tashev 2021, arXiv:2009.12286; we
    leave out their complex term: the phase stays the noisy one).
    """
    return functional.mse_loss(magnitude(estimate, power), magnitude(target, power))


def negative_si_sdr(estimate: Tensor, target: Tensor, ceiling_db: float = 30.0) -> Tensor:
    """Minus the SI-SDR in dB (Le Roux et al. 2019, arXiv:1811.02508), waveforms (B, T), averaged.

    The distortion is taken as at least `ceiling_db` under the target, so that clips which are good already stop pulling
    (Wisdom et al. 2020, arXiv:2006.12701, eq. 3). It leaves the gain free: only in a sum with a loss that fixes it.
    Silence on either side gives a finite value with a finite slope.
    """
    eps = 1e-8
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    scale = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + eps)
    wanted = (scale * target).square().sum(-1)
    distortion = (estimate - scale * target).square().sum(-1) + 10 ** (-ceiling_db / 10) * wanted
    return -10 * torch.log10((wanted + eps) / (distortion + eps)).mean()


class Loss:
    """A weighted sum of terms, by name: `Loss("compressed+si_sdr", power=0.3, si_sdr_weight=0.01)`.

    l1 and huber (threshold 1) compare magnitudes ** power, which is what the network sees; "compressed" keeps its own
    exponent. Spectral terms have weight 1, and si_sdr counts `si_sdr_weight` for each dB.

    Raises:
        ValueError: an unknown term, or nothing that fixes the gain.
    """

    def __init__(self, name: str, power: float, si_sdr_weight: float) -> None:
        self.terms = name.split("+")
        for term in self.terms:
            if term not in TERMS:
                raise ValueError(f"loss: {term!r} in {name!r}, expected terms out of {', '.join(TERMS)}, joined by +")
        if not set(self.terms) & set(SPECTRAL):
            raise ValueError(f"loss: {name!r} leaves the gain free, expected a sum with one of {', '.join(SPECTRAL)}")
        self.power = power
        self.si_sdr_weight = si_sdr_weight
        self.needs_waveforms = "si_sdr" in self.terms

    def __call__(self, estimate: Tensor, target: Tensor, waveforms: tuple[Tensor, Tensor] | None) -> Tensor:
        """Scalar loss of complex spectra (B, F, N); (estimate, target) waveforms (B, T) where `needs_waveforms`."""
        total = torch.zeros((), device=estimate.device)
        for term in self.terms:
            if term == "compressed":
                total = total + compressed(estimate, target)
            elif term == "si_sdr":
                assert waveforms is not None
                total = total + self.si_sdr_weight * negative_si_sdr(*waveforms)
            else:
                function = functional.l1_loss if term == "l1" else functional.smooth_l1_loss
                total = total + function(magnitude(estimate, self.power), magnitude(target, self.power))
        return total
