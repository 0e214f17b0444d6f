"""The short-time Fourier transform and its inverse, as a module.

Own unfold -> rfft and irfft -> overlap-add instead of torch.stft and torch.istft: as many frames cover each sample, so
nothing clicks at the ends; one sample is a legal input; length and batch stay dynamic when the module is scripted or
exported. Frames are not centred: the first one ends with the first hop of samples, as librosa.stft has it with
center=False after win_length - hop_length zeros.
"""

import torch
from torch import Tensor, nn

# Its square is added to power spectra before a root: the slope of |X|^0.3 is unbounded at 0. With signals at rms 1 and
# a window of unit energy, white noise has |X| near 1, so this floor lies at -100 dB. Below 1e-5 runtimes disagree by up
# to 7e-4.
FLOOR = 1e-5


class Spectrogram(nn.Module):
    """Analysis and synthesis with a square-root Hann window; synthesis inverts analysis exactly.

    The window has unit energy: white noise of rms 1 has bins of mean power 1 at every window length, so that features
    mean the same in every configuration. Synthesis divides by the sum of squared windows, hence any hop up to half a
    window is exact.

    Args:
        win_length: samples per frame, at least 2; also the number of points of the transform.
        hop_length: samples between frames, 1 to win_length // 2.

    Raises ValueError for a length outside these ranges.
    """

    analysis: Tensor
    dual: Tensor

    def __init__(self, win_length: int, hop_length: int) -> None:
        super().__init__()
        if win_length < 2:
            raise ValueError(f"win_length: {win_length}, expected at least 2 samples")
        # Above half a window the sum of windows is close to 0 between frames, which amplifies errors of a mask.
        if not 0 < hop_length <= win_length // 2:
            raise ValueError(f"hop_length: {hop_length}, expected 1 to {win_length // 2} for win_length {win_length}")
        self.win_length = win_length
        self.hop_length = hop_length
        self.bins = win_length // 2 + 1
        window = torch.hann_window(win_length, dtype=torch.float64).clamp_min(0).sqrt()
        window = window / window.square().sum().sqrt()
        frames = -(-win_length // hop_length)
        padded = torch.zeros(frames * hop_length, dtype=torch.float64)
        padded[:win_length] = window.square()
        covered = padded.view(frames, hop_length).sum(0).repeat(frames)[:win_length]
        self.register_buffer("analysis", window.float(), persistent=False)
        self.register_buffer("dual", (window / covered).float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Complex spectrum (B, F, N) of a waveform (B, T), T >= 1; F = win_length // 2 + 1 bins and
        N = (T - 1 + win_length - hop_length) // hop_length + 1 frames."""
        lead = self.win_length - self.hop_length
        frames = (waveform.shape[-1] - 1 + lead) // self.hop_length + 1
        trail = (frames - 1) * self.hop_length + self.win_length - lead - waveform.shape[-1]
        padded = torch.nn.functional.pad(waveform, (lead, trail))
        framed = padded.unfold(-1, self.win_length, self.hop_length) * self.analysis
        spectrum: Tensor = torch.fft.rfft(framed)
        return spectrum.transpose(1, 2)

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Waveform of `length` samples from a complex spectrum (B, F, N); returns (B, length)."""
        framed = torch.fft.irfft(spectrum.transpose(1, 2), n=self.win_length) * self.dual
        total = (spectrum.shape[-1] - 1) * self.hop_length + self.win_length
        summed = torch.nn.functional.fold(
            framed.transpose(1, 2), (1, total), (1, self.win_length), stride=(1, self.hop_length)
        )
        lead = self.win_length - self.hop_length
        return summed[:, 0, 0, lead : lead + length]


def magnitude(spectrum: Tensor, power: float = 1.0, floor: float = FLOOR) -> Tensor:
    """(|X|^2 + floor^2) ** (power / 2), shape of `spectrum`: never 0, so every exponent has a finite slope."""
    squared = torch.view_as_real(spectrum).square().sum(-1)
    return (squared + floor**2) ** (0.5 * power)
