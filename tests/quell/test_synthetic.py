"""Made noises are as loud as each other, differ in kind, and are the seed's."""

from __future__ import annotations

import pytest
import torch

from quell.synthetic import DEPTH_DB, noises


def drawn(count, samples, seed=0):
    return noises(count, samples, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [1, 2, 401, 16_000])
def test_noises_have_a_mean_square_of_1(samples):
    assert drawn(200, samples).square().mean(1).tolist() == pytest.approx([1.0] * 200, abs=1e-3)


def test_noises_are_the_seeds():
    assert torch.equal(drawn(3, 400, seed=1), drawn(3, 400, seed=1))
    assert not torch.equal(drawn(3, 400, seed=1), drawn(3, 400, seed=2))


def test_there_are_tones_and_hisses_steady_noises_and_bursts():
    waveforms = drawn(400, 16_000)
    power = torch.fft.rfft(waveforms).abs().square()
    flatness = power.clamp_min(1e-12).log().mean(1).exp() / power.mean(1)
    assert (flatness < 1e-3).float().mean() > 0.1 and (flatness > 0.1).float().mean() > 0.1
    levels_db = 10 * torch.log10(waveforms.unflatten(1, (40, 400)).square().mean(2).clamp_min(1e-12))
    spread_db = levels_db.quantile(0.9, dim=1) - levels_db.quantile(0.1, dim=1)
    assert (spread_db < 6).float().mean() > 0.1 and (spread_db > DEPTH_DB / 2).float().mean() > 0.1
