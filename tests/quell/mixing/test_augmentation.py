"""Devices' effects: what they leave, what they take, and nothing moved in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quell.audio.alignment import align, measured_snr_db
from quell.mixing.augmentation import CODECS, band_limited, clipped, coded

RATE = 16_000


def tones(hz, seconds=1.0):
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.stack([torch.sin(2 * torch.pi * f * time) for f in hz])


def test_a_band_limit_removes_only_what_is_above_its_edge():
    hz = (100, 2_900, 3_000, 3_300, 7_000)
    limited = band_limited(tones(hz), torch.full((5, 1), 3_000.0), RATE)
    left = limited.square().mean(1) / 0.5
    assert left[:3].tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    assert left[3:].max() < 1e-6
    torch.testing.assert_close(limited[0], tones((100,))[0], atol=1e-4, rtol=0)  # no delay


@pytest.mark.parametrize("depth_db", [-15.0, -6.0, 0.0])
def test_clipping_cuts_at_a_share_of_the_peak(depth_db):
    wave = tones((440, 880)) * torch.tensor([[0.5], [2.0]])
    cut = clipped(wave, torch.full((2, 1), depth_db))
    most = wave.abs().amax(1, keepdim=True) * 10 ** (depth_db / 20)
    torch.testing.assert_close(cut, wave.clamp(-most, most))
    assert not clipped(torch.zeros(1, 5), torch.tensor([[-3.0]])).any()


@pytest.mark.parametrize("codec", range(len(CODECS)), ids=[name for name, _ in CODECS])
@pytest.mark.parametrize("rate", [8_000, 16_000])
@pytest.mark.parametrize("length", [4_000, 16_001])
def test_a_codec_keeps_timing_level_and_most_of_the_sound(speech, codec, rate, length):
    voice = speech(length / rate + 0.01, rate)[:length]
    back = coded(voice, rate, codec, 0.6)
    assert back.shape == voice.shape and back.dtype == np.float32
    assert align(back, voice, rate).lag == 0
    assert 5 < measured_snr_db(back, voice) < 40
    assert 0.8 < np.linalg.norm(back) / np.linalg.norm(voice) < 1.1


@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_a_codec_does_not_depend_on_the_level(speech, gain):
    voice = speech(1.0, RATE)
    # Rounding turns a decision of the encoder here and there.
    assert measured_snr_db(coded(np.float32(gain) * voice, RATE, 0, 0.6), gain * coded(voice, RATE, 0, 0.6)) > 25


def test_silence_passes_a_codec():
    assert not coded(np.zeros(500, np.float32), RATE, 1, 0.5).any()
