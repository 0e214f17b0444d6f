"""Filters add up, in dB, to what their points say."""

from __future__ import annotations

import pytest
import torch

from quell.mixing.augmentation import OCTAVES, coloured, octaves

CPU = torch.device("cpu")


@pytest.mark.parametrize("bins", [2, 51, 16_001])
def test_octave_weights_add_up_to_one_and_are_linear_between_octaves(bins):
    weights = octaves(bins, CPU)
    assert weights.shape == (OCTAVES, bins)
    assert weights.sum(0).tolist() == pytest.approx([1.0] * bins, abs=1e-6)
    assert weights[0, 0] == 1 and weights[-1, -1] == 1
    if bins == 16_001:
        assert [weights[:, place].argmax().item() for place in (250, 500, 1_000, 2_000, 4_000, 8_000)] == [
            1,
            2,
            3,
            4,
            5,
            6,
        ]
        assert weights[6, 12_000].item() == weights[7, 12_000].item() == 0.5


@pytest.mark.parametrize("samples", [2, 401, 1_600])
@pytest.mark.parametrize("gain_db", [-12.0, 0.0, 6.0])
def test_the_same_gain_at_every_point_is_a_gain(samples, gain_db):
    waveforms = torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    found = coloured(waveforms, torch.full((3, OCTAVES), gain_db))
    assert torch.allclose(found, 10 ** (gain_db / 20) * waveforms, atol=1e-5)


def test_a_gain_at_one_point_changes_only_that_band_of_its_own_waveform():
    waveforms = torch.randn(2, 1_600, generator=torch.Generator().manual_seed(0))
    gains_db = torch.zeros(2, OCTAVES)
    gains_db[1, 5] = 10.0  # a quarter of the sample rate, to zero at an eighth and at a half
    change_db = 20 * torch.log10(torch.fft.rfft(coloured(waveforms, gains_db)) / torch.fft.rfft(waveforms)).abs()
    assert change_db[0].max() < 1e-2
    assert change_db[1].argmax() == 400 // 2 and change_db[1].max().item() == pytest.approx(10.0, abs=1e-2)
    assert change_db[1, :100].max() < 1e-2 and change_db[1, 400:].max() < 1e-2
