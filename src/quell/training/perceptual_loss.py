"""A differentiable loss after PESQ (ITU-T P.862)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

WINDOW_S = 0.032  # the hop is half of it
BANDS = 49  # up to 8 kHz
BAND_HZ = (50.0, 0.98)  # from here up to this share of half the sample rate
SPEECH_HZ = (325.0, 3250.0)  # sets the level
LISTENING_DB = 79.0  # sound pressure of the speech
ZWICKER = 0.23  # exponent of loudness
QUIET_BAND = 50.0  # power, keeps the ratio of silent bands at 1
# Powers of frames and of bands over all frames, in units of the threshold's (0 dB = 1).
QUIET_FRAME = 5e3
QUIET_SPECTRUM = 1e3
LOUDEST = 45.0  # disturbance of a frame


class Perceptual(nn.Module):
    """Points of PESQ's scale that the estimate loses: 0.1 D + 0.0309 DA, averaged over the batch.

    After ITU-T P.862 (2001; Rix et al. 2001, "Perceptual evaluation of speech quality"): power spectra in Bark bands;
    a gain for each band, so that constant filtering costs nothing, and for each frame; loudness (Zwicker and Fastl
    1990); the difference in loudness less a quarter of the softer side, which is masked; D its norm over bands, DA its
    sum where the estimate is louder; loud frames count a little less. 4.5 minus this loss is P.862's raw score.

    Departures: no alignment in time, which training does not need; Bark scale by Schroeder et al. 1979 and threshold by
    Terhardt 1979 instead of P.862's tables; frames are averaged as squares, not as sixth powers within 20 of them,
    since single frames would dominate the gradient; and D and DA are compressed above 45 instead of limited, which
    keeps a slope.
    """

    analysis: Tensor
    bands: Tensor
    width: Tensor
    threshold: Tensor
    level: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        window = 2 * round(WINDOW_S * sample_rate / 2)
        bins = np.arange(window // 2 + 1) * sample_rate / window
        low, high = bark(np.array([BAND_HZ[0], BAND_HZ[1] * sample_rate / 2]))
        count = round(BANDS * (high - low) / np.ptp(bark(np.array([BAND_HZ[0], BAND_HZ[1] * 8_000]))))
        edges = np.linspace(low, high, count + 1)
        # Shares of a bin's own width that lie in each band.
        below, above = bark(np.maximum(bins - bins[1] / 2, 0)), bark(bins + bins[1] / 2)
        inside = np.minimum(above, edges[1:, None]) - np.maximum(below, edges[:-1, None])
        shares = np.clip(inside, 0, None) / (above - below) * (bins > 0)
        width = np.diff(edges)
        centre = 650 * np.sinh((edges[1:] + edges[:-1]) / 14)
        self.register_buffer("analysis", torch.hann_window(window))
        self.register_buffer("bands", torch.tensor(shares / width[:, None], dtype=torch.float32).T.contiguous())
        self.register_buffer("width", torch.tensor(width, dtype=torch.float32))
        self.register_buffer("threshold", torch.tensor(10 ** (quiet_db(centre) / 10), dtype=torch.float32))
        speech = (bins > SPEECH_HZ[0]) & (bins < SPEECH_HZ[1])
        self.register_buffer("level", torch.tensor(speech / 10 ** (LISTENING_DB / 10) * 2, dtype=torch.float32))
        # A tone of 1 kHz at 40 dB that fills one band is 1 sone.
        quiet = torch.tensor(10 ** (quiet_db(np.array(1_000.0)) / 10))
        self.sone = 1 / float(width[0] * _loudness(torch.tensor(1e4 / width[0]), quiet))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of waveforms (B, T), blind to the gain of either."""
        estimate, target = self._powers(estimate), self._powers(target)
        # First the target takes the estimate's spectral envelope, then the estimate the target's level, frame by frame.
        active = (target.sum(-1, keepdim=True) > 1e-3 * target.sum(-1, keepdim=True).amax(1, keepdim=True)).float()
        spectra = [(side * active).sum(1, True) + QUIET_SPECTRUM for side in (estimate, target)]
        target = target * (spectra[0] / spectra[1]).clamp(0.01, 100.0)
        gain = (target.sum(-1, keepdim=True) + QUIET_FRAME) / (estimate.sum(-1, keepdim=True) + QUIET_FRAME)
        gain = gain.clamp(3e-4, 5.0)
        estimate = estimate * torch.cat([gain[:, :1], 0.2 * gain[:, :-1] + 0.8 * gain[:, 1:]], 1)
        loudness, reference = (self.sone * _loudness(power, self.threshold) for power in (estimate, target))
        difference = ((loudness - reference).abs() - 0.25 * torch.minimum(loudness, reference)).clamp_min(0.0)
        ratio = ((estimate + QUIET_BAND) / (target + QUIET_BAND)) ** 1.2
        ratio = torch.where(ratio < 3, torch.zeros_like(ratio), ratio.clamp_max(12.0))
        weight = ((target.sum(-1) + 1e5) / 1e7) ** -0.04
        symmetric = ((difference.square() * self.width).sum(-1) * self.width.sum() + 1e-6).sqrt()
        asymmetric = (difference * ratio * self.width).sum(-1)
        return (0.1 * _over_time(symmetric * weight) + 0.0309 * _over_time(asymmetric * weight)).mean()

    def _powers(self, waveform: Tensor) -> Tensor:
        """Power densities over Bark, (B, frames, bands), at the listening level."""
        hop = len(self.analysis) // 2
        framed = functional.pad(waveform, (hop, hop)).unfold(-1, 2 * hop, hop) * self.analysis
        power = torch.view_as_real(torch.fft.rfft(framed)).square().sum(-1)
        level = (power * self.level).sum(-1).mean(-1)
        return power / (level[:, None, None] + 1e-14) @ self.bands


def bark(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Critical-band rate (Schroeder, Atal and Hall 1979)."""
    return 7 * np.arcsinh(hz / 650)


def quiet_db(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Threshold in quiet, dB of sound pressure (Terhardt 1979), at most 60."""
    khz = hz / 1_000
    threshold = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
    return np.minimum(threshold, 60.0)


def _loudness(power: Tensor, threshold: Tensor) -> Tensor:
    """Specific loudness up to a factor (Zwicker and Fastl 1990); 0 below the threshold."""
    return ((threshold / 0.5) ** ZWICKER * ((0.5 + 0.5 * power / threshold) ** ZWICKER - 1)).clamp_min(0.0)


def _over_time(disturbance: Tensor) -> Tensor:
    """Root mean square over frames, (B, frames) to (B,), of the disturbance, compressed above LOUDEST."""
    above = LOUDEST * (1 + (disturbance / LOUDEST).clamp_min(1.0).log())
    limited = torch.where(disturbance < LOUDEST, disturbance, above)
    return (limited.square().mean(-1) + 1e-6).sqrt()
