"""Losses are zero for equal signals, agree with their formulas, and always have a finite slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from quell.config import FIX_GAIN, LOSS_WEIGHTS
from quell.metrics import intrusive
from quell.network.stft import Spectrogram, magnitude
from quell.training.losses import (
    HUBER_THRESHOLD,
    Loss,
    MultiResolution,
    Signals,
    complex_compressed,
    compressed,
    negative_si_sdr,
)

RATE = 2_000  # Hz: the windows of multi_resolution are 32, 64 and 128 samples
SUMS = [
    "compressed+si_sdr",
    "compressed+complex+perceptual+si_sdr",
    "l1+si_sdr",
    "huber+compressed",
    "bce+multi_resolution+si_sdr",
    "l1+l2+huber",
]
NAMES = [*FIX_GAIN, *SUMS]
CLIPPED = torch.ones(2, 500)
CLIPPED[:, ::7] = -1.0


def signals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def side(waveform):
    """One side of a comparison, all of whose signals grow with the level."""
    spectrum = Spectrogram(64, 32)(waveform)
    level = magnitude(spectrum)
    return Signals(level, level / (1 + level), level.sqrt(), waveform, spectrum)


def loss_of(name, estimate, target, weights=None):
    return Loss(name, RATE, weights)(side(estimate), side(target))


def random_side(seed):
    generator = torch.Generator().manual_seed(seed)
    planes = (torch.rand(2, 9, 5, generator=generator) for _ in range(3))
    spectrum = torch.complex(signals(2, 9, 5, seed=seed), signals(2, 9, 5, seed=seed + 10))
    return Signals(*planes, signals(2, 200, seed=seed), spectrum)


@pytest.mark.parametrize("name", [name for name in NAMES if "bce" not in name and "si_sdr" not in name])
def test_equal_signals_have_no_loss(name):
    assert loss_of(name, signals(2, 500), signals(2, 500)).item() == 0.0


def test_bce_is_smallest_for_equal_shares_and_zero_where_they_are_0_or_1():
    share = torch.rand(1, 9, 5, generator=torch.Generator().manual_seed(0))
    loss = Loss("bce", RATE)

    def value(estimate, target):
        return loss(Signals(estimate, estimate), Signals(target, target)).item()

    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    assert value(share, share) == pytest.approx(entropy.item(), rel=1e-5)
    assert all(value(other, share) > value(share, share) for other in (share**1.1, share**0.9, 1 - share))
    assert value(share.round(), share.round()) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_more_noise_is_more_loss(name):
    clean, noise = signals(2, 500), signals(2, 500, seed=1)
    values = [loss_of(name, clean + share * noise, clean).item() for share in (0.1, 0.3, 1.0, 3.0)]
    assert values == sorted(values) and len(set(values)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_gain_is_more_loss(name):
    clean = signals(2, 500)
    right = loss_of(name, clean, clean)
    assert loss_of(name, 0.5 * clean, clean) > loss_of(name, 0.9 * clean, clean) > right
    assert loss_of(name, 2.0 * clean, clean) > loss_of(name, 1.1 * clean, clean) > right


def test_l1_and_l2_are_means_over_features():
    estimate, target = random_side(0), random_side(1)
    difference = estimate.feature - target.feature
    assert Loss("l1", RATE)(estimate, target).item() == pytest.approx(difference.abs().mean().item(), rel=1e-6)
    assert Loss("l2", RATE)(estimate, target).item() == pytest.approx(difference.square().mean().item(), rel=1e-6)


@pytest.mark.parametrize(("difference", "expected"), [(0.02, 0.02**2 / 2), (0.05, 0.05**2 / 2), (0.5, 0.05 * 0.475)])
def test_huber_is_a_square_below_its_threshold_and_a_line_above(difference, expected):
    assert HUBER_THRESHOLD == 0.05
    target = torch.full((1, 3, 2), 0.3)
    loss = Loss("huber", RATE)(Signals(target, None, target + difference), Signals(target, None, target))
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # float32: 0.3 + 0.02 is good to 1e-7


def test_bce_equals_its_formula_and_clamps_targets_beyond_the_scale():
    estimate, target = random_side(0), random_side(1)
    share, goal = estimate.output, target.output
    expected = -(goal * share.log() + (1 - goal) * (1 - share).log()).mean()
    assert Loss("bce", RATE)(estimate, target).item() == pytest.approx(expected.item(), rel=1e-5)
    beyond = target._replace(output=3 * goal - 1)
    clamped = functional.binary_cross_entropy(share, (3 * goal - 1).clamp(0, 1))
    assert Loss("bce", RATE)(estimate, beyond).item() == pytest.approx(clamped.item(), rel=1e-6)


def test_compressed_is_the_squared_difference_of_powers_of_0_3():
    estimate, target = torch.full((1, 3, 2), 4.0), torch.full((1, 3, 2), 9.0)
    assert compressed(estimate, target).item() == pytest.approx((4**0.3 - 9**0.3) ** 2, rel=1e-5)
    assert Loss("compressed", RATE)(Signals(estimate), Signals(target)).item() == compressed(estimate, target).item()


def test_compressed_has_a_finite_slope_at_a_mask_of_zero():
    estimate = torch.zeros(1, 3, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(compressed(estimate, torch.ones(1, 3, 2)), estimate)
    assert torch.isfinite(slope).all()


def test_complex_equals_compressed_for_equal_phases_and_counts_a_difference_of_phases():
    estimate, target = random_side(0).magnitude + 0.1, random_side(1).magnitude + 0.1
    phase = 3 * random_side(2).feature
    one, other = torch.polar(estimate, phase), torch.polar(target, phase)
    assert complex_compressed(one, other).item() == pytest.approx(compressed(estimate, target).item(), rel=1e-4)
    # Opposite phases: the distance is twice the compressed magnitude.
    assert complex_compressed(-one, one).item() == pytest.approx((4 * estimate**0.6).mean().item(), rel=1e-4)


def numpy_magnitude(waveform, length):
    """Magnitudes in float64; the first frame ends with the first hop of samples."""
    hop, lead = length // 4, length - length // 4
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length))
    window /= np.sqrt(np.sum(window**2))
    padded = np.concatenate([np.zeros(lead), waveform, np.zeros(length)])
    frames = (len(waveform) - 1 + lead) // hop + 1
    spectra = [np.fft.rfft(window * padded[hop * n : hop * n + length]) for n in range(frames)]
    return np.sqrt(np.abs(np.array(spectra)) ** 2 + 1e-3**2)


@pytest.mark.parametrize("length", [1, 33, 257])
def test_multi_resolution_equals_numpy(length):
    estimate, target = signals(3, length), signals(3, length, seed=1)
    values = []
    for one, other in zip(estimate.double().numpy(), target.double().numpy(), strict=True):
        for window in (32, 64, 128):
            found, clean = numpy_magnitude(one, window), numpy_magnitude(other, window)
            convergence = np.linalg.norm(found - clean) / np.linalg.norm(clean)
            values.append(min(convergence, 10.0) + np.abs(np.log(found) - np.log(clean)).mean())
    assert MultiResolution(RATE)(estimate, target).item() == pytest.approx(np.mean(values), rel=1e-4)  # float32


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_weighted_sum_of_its_terms(name):
    estimate, target = random_side(0), random_side(1)
    terms = name.split("+")
    free = [term for term in terms if term not in FIX_GAIN]
    parts = {term: Loss(f"l1+{term}" if term in free else term, RATE, {term: 1.0}) for term in terms}
    values = {term: part(estimate, target).item() for term, part in parts.items()}
    for term in free:
        values[term] -= Loss("l1", RATE)(estimate, target).item()
    expected = sum(LOSS_WEIGHTS[term] * value for term, value in values.items())
    assert Loss(name, RATE)(estimate, target).item() == pytest.approx(expected, rel=1e-4)
    weights = {term: 0.3 + i for i, term in enumerate(terms)}
    expected = sum(weights[term] * value for term, value in values.items())
    assert Loss(name, RATE, weights)(estimate, target).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_needs_the_signals_that_its_terms_compare_and_no_others(name):
    loss, terms = Loss(name, RATE), set(name.split("+"))
    compared = {
        "output": {"bce"},
        "feature": {"l1", "l2", "huber"},
        "magnitude": {"compressed"},
        "spectrum": {"complex"},
        "waveform": {"si_sdr", "multi_resolution", "perceptual"},
    }
    assert loss.needs == {signal for signal, users in compared.items() if terms & users}
    without = dict.fromkeys(compared.keys() - loss.needs)
    estimate, target = random_side(0), random_side(1)
    bare = loss(estimate._replace(**without), target._replace(**without))
    assert bare.item() == loss(estimate, target).item()


@pytest.mark.parametrize("gain", [0.01, 0.5, 100.0])
def test_si_sdr_loss_ignores_gain_and_offset(gain):
    clean, noisy = signals(2, 500), signals(2, 500) + signals(2, 500, seed=1)
    # float32 sums of 500 squares are good to 1e-6, 10 log10 of that is 1e-5 dB.
    assert negative_si_sdr(gain * noisy + 0.01 * gain, clean).item() == pytest.approx(
        negative_si_sdr(noisy, clean).item(), abs=1e-4
    )


@pytest.mark.parametrize("snr_db", [-10, 0, 5])
def test_si_sdr_loss_agrees_with_the_metric_far_below_its_ceiling(snr_db):
    clean, noise = signals(1, 4_000), signals(1, 4_000, seed=1)
    noisy = clean + 10 ** (-snr_db / 20) * noise
    metric = intrusive.si_sdr(noisy[0].numpy(), clean[0].numpy())
    # A ceiling at 30 dB adds a part of 10 ** (-(30 - x) / 10) to the distortion: 0.014 dB at 5 dB.
    assert -negative_si_sdr(noisy, clean).item() == pytest.approx(metric, abs=0.02)


def test_si_sdr_loss_stops_at_the_ceiling():
    clean = signals(1, 4_000)
    assert -negative_si_sdr(clean, clean).item() == pytest.approx(30.0, abs=1e-3)
    assert -negative_si_sdr(clean, clean, ceiling_db=10.0).item() == pytest.approx(10.0, abs=1e-3)


@pytest.mark.parametrize("length", [500, 1])
@pytest.mark.parametrize("name", NAMES)
def test_silence_and_clipping_on_either_side_have_a_finite_slope(name, length):
    kinds = [signals(2, 500), torch.zeros(2, 500), CLIPPED]
    for estimate in kinds:
        for target in kinds:
            estimate = estimate[:, :length].clone().requires_grad_()
            loss = loss_of(name, estimate, target[:, :length])
            (slope,) = torch.autograd.grad(loss, estimate)
            assert torch.isfinite(loss) and torch.isfinite(slope).all()


def test_si_sdr_loss_falls_steadily_from_the_waveform_of_opposite_sign_to_the_target():
    clean, noise = signals(2, 4_000), signals(2, 4_000, seed=1)
    steps = torch.linspace(-1, 1, 201)
    losses = torch.stack([negative_si_sdr(step * clean + (1 - step.abs()) * noise, clean) for step in steps])
    assert (losses.diff() < 0).all() and losses.diff().abs().max() < 5  # dB a step: no jump
    assert losses[0].item() == pytest.approx(51, abs=1)


@pytest.mark.parametrize("silent", ["target", "both"])
def test_si_sdr_loss_of_a_silent_target_has_no_slope(silent):
    estimate = torch.zeros(2, 500) if silent == "both" else signals(2, 500)
    estimate.requires_grad_()
    negative_si_sdr(estimate, torch.zeros(2, 500)).backward()
    assert not estimate.grad.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mse", "loss: 'mse' in 'mse', expected terms out of l1, l2, huber, bce, compressed"),
        ("l1+snr", "loss: 'snr' in 'l1+snr', expected terms"),
        ("l1+huber+l1", "loss: 'l1' in 'l1+huber+l1', expected terms out of .*, each once, joined by +"),
        ("", "loss: '' in '', expected terms"),
        ("si_sdr", "loss: 'si_sdr' leaves the gain free, expected a sum with one of l1, l2, huber, bce, compressed"),
    ],
)
def test_a_loss_with_unknown_repeated_or_only_gain_free_terms_is_refused(name, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        Loss(name, RATE)


def test_a_weight_of_a_term_outside_the_sum_is_refused():
    with pytest.raises(ValueError, match="loss_weights: 'hubre', expected terms of 'l1'"):
        Loss("l1", 8_000, {"hubre": 2.0})
