"""Metrics are those of their papers and packages, and muting a clip never pays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pesq as pesq_package
import pystoi
import pytest

from quell.metrics import intrusive
from quell.metrics.intrusive import EPS, UNITS, WORST, available, binary_iou, score_clip, si_sdr

NAMES = ("pesq", "stoi", "estoi", "si_sdr")


def tone(frequency, rate=8_000):
    return np.sin(2 * np.pi * frequency / rate * np.arange(rate)).astype(np.float32)


@pytest.fixture(scope="module")
def clean(speech):
    return speech(1.2)


@pytest.fixture(scope="module")
def noisy(clean, noise):
    return clean + 0.3 * noise(1.2)


@pytest.mark.parametrize("snr_db", [-10, 0, 20, 40])
def test_si_sdr_of_orthogonal_noise_is_its_snr(snr_db):
    # Whole periods in one second: orthogonal to float32's rounding, 1e-7 of the tone and 1e-3 dB at 40 dB.
    estimate = tone(440) + np.float32(10 ** (-snr_db / 20)) * tone(1_000)
    assert si_sdr(estimate, tone(440)) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize("gain", [0.01, 0.5, -1, 100])
def test_si_sdr_ignores_gain_and_offset_of_either_side(clean, noisy, gain):
    expected = si_sdr(noisy, clean)
    # EPS is 1e-8 of energies that are 1e-3 and more, float32 rounds at 1e-7: 1e-4 dB.
    assert si_sdr(gain * noisy + np.float32(0.01 * gain), clean) == pytest.approx(expected, abs=1e-3)
    assert si_sdr(noisy, gain * clean + np.float32(0.01 * gain)) == pytest.approx(expected, abs=1e-3)


def test_si_sdr_falls_as_noise_rises_and_silence_is_the_worst(clean, noise):
    scores = [si_sdr(clean + share * noise(1.2), clean) for share in (0, 0.1, 1, 10, 100)]
    scores += [si_sdr(0 * clean, clean)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == WORST["si_sdr"] == pytest.approx(10 * np.log10(EPS))
    assert si_sdr(clean, 0 * clean) == WORST["si_sdr"]
    assert si_sdr(0 * clean, 0 * clean) == WORST["si_sdr"]


def test_si_sdr_of_other_lengths_is_refused(clean):
    with pytest.raises(ValueError, match=r"estimate: shape \(9599,\), expected that of target, \(9600,\)"):
        si_sdr(clean[1:], clean)


@pytest.mark.parametrize(("sample_rate", "mode"), [(8_000, "nb"), (16_000, "wb")])
def test_pesq_and_stoi_are_those_of_their_packages(speech, noise, sample_rate, mode):
    clean = speech(1.2, sample_rate, seed=4)
    noisy = clean + 0.1 * noise(1.2, sample_rate)
    expected = {
        "pesq": pesq_package.pesq(sample_rate, clean, noisy, mode),
        "stoi": pystoi.stoi(clean, noisy, sample_rate),
        "estoi": pystoi.stoi(clean, noisy, sample_rate, extended=True),
    }
    # pystoi's ESTOI adds random numbers of 1e-16 to avoid dividing by 0.
    assert score_clip(noisy, clean, sample_rate, tuple(expected)).values == pytest.approx(expected, abs=1e-9)


def test_the_clean_clip_scores_best_and_a_noisier_one_lower(clean, noisy, noise):
    rows = [score_clip(estimate, clean, 8_000, NAMES) for estimate in (clean, noisy, noisy + noise(1.2, seed=1))]
    for name in NAMES:
        values = [row.values[name] for row in rows]
        assert values == sorted(values, reverse=True) and len(set(values)) == 3, name
    assert rows[0].values["pesq"] == pytest.approx(4.549, abs=1e-3)  # the top of P.862.1's curve
    assert rows[0].values["stoi"] == pytest.approx(1.0, abs=1e-6)
    assert all(row.failed == () for row in rows)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_silent_and_broken_estimates_score_worst_and_count_as_failed(clean, value):
    estimate = np.full_like(clean, value)
    assert score_clip(estimate, clean, 8_000, NAMES) == intrusive.ClipScore(WORST, NAMES)
    estimate = clean.copy()
    estimate[100] = value
    failed = () if value == 0 else NAMES
    assert score_clip(estimate, clean, 8_000, NAMES).failed == failed


def test_no_estimate_scores_under_silence(clean, noise):
    silence = score_clip(0 * clean, clean, 8_000, NAMES).values
    for estimate in (noise(1.2), -clean, clean[::-1].copy(), np.roll(clean, 4_000)):
        values = score_clip(estimate, clean, 8_000, NAMES).values
        assert all(values[name] >= silence[name] for name in NAMES)


@pytest.mark.parametrize("level", [1e-10, 1e-20, 1e-30, 1e-42])
def test_an_estimate_close_to_silence_is_scored(clean, level):
    found = score_clip(np.float32(level) * clean + np.float32(level), clean, 8_000, NAMES)
    assert all(WORST[name] <= found.values[name] < 4.6 for name in NAMES)


@pytest.mark.parametrize("length", [1, 2, 100, 255, 300, 1_000, 3_000])
def test_a_clip_too_short_for_pesq_and_stoi_fails_in_these_alone(clean, length):
    start = np.abs(clean[:5_000]).argmax()
    short = clean[start : start + length]
    found = score_clip(short, short, 8_000, NAMES)
    assert set(found.failed) >= {"stoi", "estoi"} and "si_sdr" not in found.failed
    assert {name: found.values[name] for name in found.failed} == {name: WORST[name] for name in found.failed}


def test_a_target_without_speech_scores_worst_with_the_reason(clean):
    found = score_clip(clean, 0 * clean, 8_000, ("pesq", "stoi", "si_sdr"))
    assert found.values == {name: WORST[name] for name in found.values} and "pesq" in found.failed
    with pytest.raises(ArithmeticError, match=r"PESQ: .*No utterances detected"):
        intrusive.pesq(clean, 0 * clean, 8_000)
    with pytest.raises(ArithmeticError, match=r"STOI: Not enough STFT frames"):
        intrusive.stoi(clean[:2_000], clean[:2_000], 8_000)


def test_a_value_that_is_no_number_counts_as_failed(clean, monkeypatch):
    monkeypatch.setattr(pesq_package, "pesq", lambda *_: np.nan)
    monkeypatch.setattr(pystoi, "stoi", lambda *_, **__: np.nan)
    with pytest.raises(ArithmeticError, match="PESQ: nan"):
        intrusive.pesq(clean, clean, 8_000)
    with pytest.raises(ArithmeticError, match="STOI: nan"):
        intrusive.stoi(clean, clean, 8_000)
    assert score_clip(clean, clean, 8_000, NAMES).failed == ("pesq", "stoi", "estoi")


def test_pesq_at_another_rate_is_refused_and_not_offered(clean):
    with pytest.raises(ValueError, match="sample_rate: 44100 Hz, expected 8000 or 16000 Hz for PESQ"):
        intrusive.pesq(clean, clean, 44_100)
    assert available(44_100) == ("stoi", "estoi", "si_sdr")
    assert available(8_000) == available(16_000) == NAMES == tuple(UNITS)


def test_metrics_do_not_import_torch():
    script = (
        "import sys, numpy as np; from quell.metrics.intrusive import *\n"
        "x = np.random.default_rng(0).standard_normal(8000).astype('f4')\n"
        "score_clip(x, x, 8000, available(8000)); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"


def test_estoi_of_the_same_clip_is_the_same_to_the_last_digit_and_leaves_numpys_random_state() -> None:
    rng = np.random.default_rng(3)
    clean = np.repeat(rng.standard_normal(20), 800).astype(np.float32) * rng.standard_normal(16_000).astype(np.float32)
    noisy = clean + 0.3 * rng.standard_normal(16_000).astype(np.float32)
    before = np.random.get_state()[1].tolist()
    scores = {intrusive.stoi(noisy, clean, 16_000, extended=True) for _ in range(5)}
    assert len(scores) == 1
    assert np.random.get_state()[1].tolist() == before


def test_pesq_of_long_recordings_is_the_mean_of_pieces_that_hold_speech(speech, monkeypatch):
    clean = speech(3.0)
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    whole = intrusive.pesq(noisy, clean, 8_000)
    monkeypatch.setattr(intrusive, "PESQ_S", 3.0)
    assert intrusive.pesq(noisy, clean, 8_000) == whole
    monkeypatch.setattr(intrusive, "PESQ_S", 1.6)
    halves = [intrusive.pesq(noisy[part], clean[part], 8_000) for part in (slice(12_000), slice(12_000, None))]
    assert intrusive.pesq(noisy, clean, 8_000) == pytest.approx(np.mean(halves))
    silent = np.concatenate([clean, np.zeros_like(clean)])
    hiss = np.concatenate([noisy, noisy - clean])
    assert intrusive.pesq(hiss, silent, 8_000) == pytest.approx(np.mean(halves))
    muted = np.concatenate([noisy[:12_000], np.zeros(12_000, np.float32)])
    assert intrusive.pesq(muted, clean, 8_000) == pytest.approx((halves[0] + WORST["pesq"]) / 2)
    with pytest.raises(ArithmeticError, match="PESQ: no utterance in any piece"):
        intrusive.pesq(noisy, np.zeros_like(clean), 8_000)


def test_pesq_scores_clips_with_more_utterances_than_its_package_holds():
    # 100 bursts in 50 s end the process that scores them in one piece.
    rng, time = np.random.default_rng(0), np.arange(50 * 8_000) / 8_000
    bursts = (0.1 * rng.standard_normal(len(time)) * (time % 0.5 < 0.25)).astype(np.float32)
    noisy = bursts + 0.001 * rng.standard_normal(len(time)).astype(np.float32)
    assert 1 < intrusive.pesq(noisy, bursts, 8_000) < 4.64


@pytest.mark.parametrize(
    ("estimate", "target", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], 1 / 3),
        ([1, 1, 1, 0], [0, 1, 1, 0], 2 / 3),
        ([1, 0], [0, 1], 0.0),
        ([0.9, 0.1], [0.6, 0.4], 1.0),  # only sides of the threshold count
        ([0, 0], [0, 1], 0.0),
        ([0, 0], [0, 0], 1.0),
        ([0.5, 1], [0, 1], 1.0),  # the threshold itself is not above
    ],
)
def test_iou_is_the_share_of_common_bins_among_all_bins(estimate, target, expected):
    estimate, target = np.array([estimate], np.float32), np.array([target], np.float32)
    assert binary_iou(estimate, target) == binary_iou(target, estimate) == expected
    # The threshold is where the scale is cut.
    assert binary_iou(2 * estimate - 1, 2 * target - 1, threshold=0.0) == expected


def test_iou_of_independent_halves_is_a_third_and_symmetric():
    rng = np.random.default_rng(0)
    one, other = rng.random((100, 400)), rng.random((100, 400))
    assert binary_iou(one, other) == binary_iou(other, one)
    # A quarter of the bins is in both and three quarters in either; 4 deviations of a share of 30 000.
    assert binary_iou(one, other) == pytest.approx(1 / 3, abs=4 * (2 / 9 / 30_000) ** 0.5)
    assert binary_iou(one, one) == 1.0
