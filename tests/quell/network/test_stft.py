"""Synthesis inverts analysis, analysis equals librosa's, and bins have the same power at every window length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quell.network.stft import FLOOR, Spectrogram, magnitude

# Hops that divide the window and hops that do not, windows of odd length, and the shortest there is.
WINDOWS = [(2, 1), (3, 1), (64, 32), (64, 16), (64, 23), (65, 32), (65, 7), (100, 33), (127, 1), (512, 200)]


@pytest.mark.parametrize(("win_length", "hop_length"), WINDOWS)
def test_synthesis_of_an_analysis_is_the_waveform(win_length, hop_length):
    spectrogram = Spectrogram(win_length, hop_length)
    for length in (1, 7, 1_009):  # 1009 is prime: no hop divides it
        waveform = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
        back = spectrogram.inverse(spectrogram(waveform), length)
        assert (back - waveform).abs().max() <= 1e-5  # some 1e-7 for each float32 sum of up to 127 frames


@pytest.mark.parametrize(("win_length", "hop_length"), WINDOWS)
def test_the_same_number_of_frames_covers_every_sample(win_length, hop_length):
    spectrogram = Spectrogram(win_length, hop_length)
    for length in (1, 7, 1_009):
        spectrum = spectrogram(torch.zeros(1, length))
        frames = (length - 1 + win_length - hop_length) // hop_length + 1
        assert spectrum.shape == (1, win_length // 2 + 1, frames)
        # The first frame holds the first hop at its end; the last one starts at or before the last sample.
        last_start = (frames - 1) * hop_length - (win_length - hop_length)
        assert last_start <= length - 1 < last_start + hop_length


@pytest.mark.parametrize(("win_length", "hop_length"), [(64, 32), (64, 23), (65, 21), (127, 40), (512, 128)])
def test_analysis_equals_librosa_without_centring_after_zeros(win_length, hop_length):
    import librosa

    waveform = torch.randn(1, 1_009, generator=torch.Generator().manual_seed(0))
    spectrogram = Spectrogram(win_length, hop_length)
    spectrum = spectrogram(waveform)[0].numpy()
    # Zeros until the first frame ends with the first hop of samples, and after the end.
    padded = np.pad(waveform[0].numpy(), (win_length - hop_length, win_length))
    window = spectrogram.analysis.numpy()
    expected = librosa.stft(padded, n_fft=win_length, hop_length=hop_length, window=window, center=False)
    np.testing.assert_allclose(spectrum, expected[:, : spectrum.shape[1]], atol=1e-5)  # float32; measured 8e-7


def test_analysis_is_librosas_centred_one_a_frame_earlier_at_an_overlap_of_4():
    import librosa

    # Our first frame starts win_length - hop_length samples before the signal, a centred one win_length // 2 before it.
    waveform = torch.randn(1, 2_000, generator=torch.Generator().manual_seed(0))
    spectrogram = Spectrogram(512, 128)
    window = spectrogram.analysis.numpy()
    expected = librosa.stft(waveform[0].numpy(), n_fft=512, hop_length=128, window=window, pad_mode="constant")
    found = spectrogram(waveform)[0, :, 1 : 1 + expected.shape[1]].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("win_length", "hop_length"), [(32, 16), (65, 21), (256, 64), (512, 128)])
def test_white_noise_of_rms_1_has_bins_of_mean_power_1(win_length, hop_length):
    waveform = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    power = Spectrogram(win_length, hop_length)(waveform).abs().square()
    # Hundreds of independent frames and more: the mean over all bins has a standard deviation below 0.5 %.
    assert power.mean().item() == pytest.approx(1.0, abs=0.02)
    inner = power[0, 1:-1].mean(1)
    assert inner.min() > 0.75 and inner.max() < 1.25  # one bin: 390 independent frames at least, 5 % each


@pytest.mark.parametrize(("win_length", "hop_length"), [(64, 32), (64, 20), (65, 16), (256, 64)])
def test_a_tone_is_in_its_bin(win_length, hop_length):
    time = torch.arange(2_000, dtype=torch.float64)
    for bin_ in (2, 5, win_length // 4, win_length // 2 - 2):
        tone = torch.sin(2 * math.pi * bin_ / win_length * time).float()
        power = Spectrogram(win_length, hop_length)(tone[None])[0].abs().square()
        inner = power[:, win_length // hop_length : -(win_length // hop_length) - 1]
        assert (inner.argmax(0) == bin_).all()
        # The square root of a Hann window keeps 99 % of a tone within one bin on each side.
        assert inner[bin_ - 1 : bin_ + 2].sum() > 0.98 * inner.sum()


def test_magnitude_is_the_power_of_the_modulus_and_has_a_finite_slope_at_zero():
    spectrum = torch.tensor([[3 + 4j, -5j, 0j]], requires_grad=True)
    compressed = magnitude(spectrum, 0.3)
    assert compressed[0, :2].tolist() == pytest.approx([5**0.3, 5**0.3], rel=1e-6)  # float32
    assert compressed[0, 2].item() == pytest.approx(FLOOR**0.3, rel=1e-6)
    compressed.sum().backward()
    assert torch.isfinite(torch.view_as_real(spectrum.grad)).all()


@pytest.mark.parametrize(("win_length", "hop_length"), [(64, 33), (64, 64), (65, 33), (64, 0), (64, -4)])
def test_a_hop_above_half_a_window_or_below_1_is_refused_with_its_value(win_length, hop_length):
    most = win_length // 2
    message = f"hop_length: {hop_length}, expected 1 to {most} for win_length {win_length}"
    with pytest.raises(ValueError, match=message):
        Spectrogram(win_length, hop_length)


def test_a_window_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="win_length: 1, expected at least 2 samples"):
        Spectrogram(1, 1)
