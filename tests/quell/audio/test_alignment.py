"""A pair of a noisy and a clean recording is aligned, and its SNR is measured."""

from __future__ import annotations

import numpy as np
import pytest

from quell.audio import alignment
from quell.audio.alignment import MOST_DB, align, measured_snr_db

RATE = 8_000


def white(length, seed):
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
@pytest.mark.parametrize("lag", [-3_000, -1, 0, 1, 777, 3_999])
def test_the_lag_is_found_and_both_sides_are_cut_to_the_common_duration(lag, snr_db):
    clean, noise = white(20_000, 1), white(20_000, 2) * 10 ** np.float32(-snr_db / 20)
    late = np.roll(np.pad(clean, 4_000), lag)[4_000:-4_000]
    found = align(late + noise, clean, RATE)
    assert found.lag == lag
    assert len(found.noisy) == len(found.clean) == 20_000 - abs(lag)
    assert measured_snr_db(found.noisy, found.clean) == pytest.approx(snr_db, abs=0.3)
    assert found.correlation == pytest.approx(1 / np.sqrt(1 + 10 ** (-snr_db / 10)), abs=0.12)


@pytest.mark.parametrize("lengths", [(30_000, 20_000), (20_000, 30_000), (9_000, 40_000)])
def test_correlation_in_blocks_equals_the_whole(monkeypatch, lengths):
    noisy, clean = white(lengths[0], 1), white(lengths[1], 2)
    whole = alignment._correlation(noisy, clean, 4_000)
    monkeypatch.setattr(alignment, "CORRELATED", 7_001)
    np.testing.assert_allclose(alignment._correlation(noisy, clean, 4_000), whole, atol=1e-9)
    late = -1_234
    expected = sum(
        float(noisy[place + late]) * float(clean[place]) for place in range(-late, min(lengths[1], lengths[0] - late))
    )
    assert whole[4_000 + late] == pytest.approx(expected)


def test_unrelated_recordings_are_uncorrelated():
    assert align(white(20_000, 1), white(20_000, 2), RATE).correlation < 0.05


def test_silence_and_single_samples_correlate_with_nothing():
    for length in (1, 2, 100):
        found = align(np.zeros(length, np.float32), white(length, 0), RATE)
        assert found.correlation == 0 and len(found.noisy) == len(found.clean)
    assert measured_snr_db(white(50, 0), np.zeros(50, np.float32)) == -MOST_DB
    assert measured_snr_db(white(50, 0), white(50, 0)) == MOST_DB
