"""Losses vanish where they should, agree with the metric, and always have a finite slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quell import metrics
from quell.losses import SPECTRAL, Loss, compressed, negative_si_sdr
from quell.spectrogram import Spectrogram

NAMES = ["l1", "huber", "compressed", "compressed+si_sdr", "l1+si_sdr", "huber+compressed"]


def signals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(name, estimate, target, weight=0.01):
    loss, spectrogram = Loss(name, 0.5, weight), Spectrogram(64, 32)
    waveforms = (estimate, target) if loss.needs_waveforms else None
    return loss(spectrogram(estimate), spectrogram(target), waveforms)


@pytest.mark.parametrize("name", SPECTRAL)
def test_equal_signals_have_no_spectral_loss(name):
    assert loss_of(name, signals(2, 500), signals(2, 500)).item() == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_more_noise_is_more_loss(name):
    clean, noise = signals(2, 500), signals(2, 500, seed=1)
    values = [loss_of(name, clean + share * noise, clean).item() for share in (0.1, 0.3, 1.0, 3.0)]
    assert values == sorted(values) and values[0] < 0.5 * values[-1]


@pytest.mark.parametrize("name", SPECTRAL)
def test_spectral_losses_fix_the_gain(name):
    clean = signals(2, 500)
    assert loss_of(name, 0.5 * clean, clean) > loss_of(name, 0.9 * clean, clean) > 0


def test_terms_compare_magnitudes_to_the_power():
    estimate, target = torch.full((1, 3, 2), 4 + 0j), torch.full((1, 3, 2), 9j)
    assert Loss("l1", 0.5, 0.0)(estimate, target, None).item() == pytest.approx(1.0, rel=1e-6)  # |2 - 3|
    assert Loss("huber", 0.5, 0.0)(estimate, target, None).item() == pytest.approx(0.5, rel=1e-6)  # 1 ** 2 / 2
    assert Loss("huber", 1.0, 0.0)(estimate, target, None).item() == pytest.approx(4.5, rel=1e-6)  # 5 - 1 / 2
    assert compressed(estimate, target).item() == pytest.approx((4**0.3 - 9**0.3) ** 2, rel=1e-5)


def test_a_sum_is_the_sum_of_its_terms():
    clean, noisy = signals(2, 500), signals(2, 500) + signals(2, 500, seed=1)
    parts = loss_of("compressed", noisy, clean) + 0.03 * negative_si_sdr(noisy, clean)
    assert loss_of("compressed+si_sdr", noisy, clean, weight=0.03).item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.mark.parametrize("gain", [0.01, 0.5, -1.0, 100.0])
def test_si_sdr_loss_ignores_gain_and_offset(gain):
    clean, noisy = signals(2, 500), signals(2, 500) + signals(2, 500, seed=1)
    # float32 sums of 500 squares are good to 1e-6, 10 log10 of that is 1e-5 dB; eps adds 1e-8 / (500 * 1e-4).
    assert negative_si_sdr(gain * noisy + 0.01 * gain, clean).item() == pytest.approx(
        negative_si_sdr(noisy, clean).item(), abs=1e-4
    )


@pytest.mark.parametrize("snr_db", [-10, 0, 5])
def test_si_sdr_loss_agrees_with_the_metric_far_under_its_ceiling(snr_db):
    clean, noise = signals(1, 4_000), signals(1, 4_000, seed=1)
    noisy = clean + 10 ** (-snr_db / 20) * noise
    metric = metrics.si_sdr(noisy[0].numpy(), clean[0].numpy())
    # A ceiling at 30 dB adds a part of 10 ** (-(30 - x) / 10) to the distortion: 0.014 dB at 5 dB.
    assert -negative_si_sdr(noisy, clean).item() == pytest.approx(metric, abs=0.02)


def test_si_sdr_loss_stops_at_the_ceiling():
    clean = signals(1, 4_000)
    assert -negative_si_sdr(clean, clean).item() == pytest.approx(30.0, abs=1e-3)
    assert -negative_si_sdr(clean, clean, ceiling_db=10.0).item() == pytest.approx(10.0, abs=1e-3)


@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_silence_on_either_side_has_a_finite_slope(name, silent):
    estimate = torch.zeros(2, 500) if silent != "target" else signals(2, 500)
    target = torch.zeros(2, 500) if silent != "estimate" else signals(2, 500)
    estimate.requires_grad_()
    loss = loss_of(name, estimate, target)
    loss.backward()
    assert np.isfinite(loss.item())
    assert torch.isfinite(estimate.grad).all()


@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
def test_si_sdr_loss_of_silence_has_no_slope(silent):
    estimate = torch.zeros(2, 500) if silent != "target" else signals(2, 500)
    target = torch.zeros(2, 500) if silent != "estimate" else signals(2, 500)
    estimate.requires_grad_()
    negative_si_sdr(estimate, target).backward()
    # A silent estimate: exactly none. A silent target leaves 10 / ln 10 * 2 e / (e @ e + eps), here with e @ e = 500.
    assert estimate.grad.abs().max() <= (0.1 if silent == "target" else 0.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mse", "loss: 'mse' in 'mse', expected terms out of l1, huber, compressed, si_sdr"),
        ("l1+snr", "loss: 'snr' in 'l1+snr', expected terms"),
        ("", "loss: '' in '', expected terms"),
        ("si_sdr", "loss: 'si_sdr' leaves the gain free, expected a sum with one of l1, huber, compressed"),
    ],
)
def test_a_loss_that_cannot_be_trained_with_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        Loss(name, 0.3, 0.01)
