"""DNSMOS is what speechmos computes, and muting a recording never pays."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from quell.audio import resample
from quell.datasets.espeak import SPEECH_RATE, Espeak
from quell.errors import PackageError
from quell.metrics import dnsmos


@pytest.fixture
def installed():
    for package in dnsmos.PACKAGES:
        pytest.importorskip(package)


def test_values_are_those_of_speechmos(installed, speech):
    from speechmos import dnsmos as reference

    signal = speech(2.0, 16_000)
    expected = reference.run(signal, 16_000)
    found = dnsmos.score_clip(signal)
    assert found.failed == ()
    # One thread adds in another order.
    assert found.values == pytest.approx({name: expected[key] for name, key in dnsmos.KEYS.items()}, abs=1e-3)


def test_noise_costs_background_and_overall_quality(installed, noise):
    pytest.importorskip("espeakng_loader")
    text = "The quick brown fox jumps over the lazy dog."
    take = Espeak(0).say("en+m1", text, words_per_minute=150, volume=60, pitch=50)
    clean = resample((take / 32_768).astype(np.float32), SPEECH_RATE, 16_000)
    added = noise(5.0, 16_000)[: len(clean)]
    found = [dnsmos.score_clip(clean + level * added).values for level in (0.0, 0.3, 3.0)]
    for name in ("bak", "ovrl"):
        assert found[0][name] > found[1][name] > found[2][name]


def test_samples_beyond_full_scale_are_clipped(installed, speech):
    loud = 4 * speech(1.0, 16_000)
    assert dnsmos.score_clip(loud) == dnsmos.score_clip(np.clip(loud, -1, 1))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_silent_or_broken_recording_has_the_worst_value(bad):
    found = dnsmos.score_clip(np.full(16_000, bad, np.float32))
    assert found.values == dict.fromkeys(dnsmos.NAMES, 1.0)
    assert found.failed == dnsmos.NAMES


@pytest.mark.parametrize("package", dnsmos.PACKAGES)
def test_a_missing_package_names_the_extra_in_one_line(package, monkeypatch):
    monkeypatch.setattr(dnsmos, "find_spec", lambda name: None if name == package else sys)
    with pytest.raises(PackageError, match=rf"^{package}: not installed, .*pip install 'quell-denoiser\[dnsmos\]'$"):
        dnsmos.require()
