"""Recordings and a study small enough to search over in seconds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

STUDY = """
[study]
name = "tiny"
trials = 3
score = "si_sdr"

[corpus]
sample_rate = 8000
group_noise = "file"

[training]
segment_s = 0.25
audio_hours = 0.08
rungs_audio_hours = [0.03, 0.08]
validation_mixtures = 6

[search]
win_ms = 16
overlap = 2
depth = { low = 2, high = 3 }
base_channels = 4
batch_size = 4
"""


@pytest.fixture(scope="session")
def tiny_study() -> str:
    """A study file's text."""
    return STUDY


@pytest.fixture(scope="session")
def tiny_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 speakers (harmonic tones in syllables) and 2 kinds of noise, 8 kHz WAV: SI-SDR can score them."""
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    time = np.arange(2 * 8000) / 8000
    for speaker in range(8):
        folder = root / "speech" / f"s{speaker}"
        folder.mkdir(parents=True)
        for take in range(3):
            pitch = 100 + 20 * speaker + 5 * take
            voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
            syllables = np.clip(np.sin(2 * np.pi * 3 * time + take), 0, None)
            soundfile.write(folder / f"{take}.wav", 0.1 * voice * syllables, 8000)
    for kind, colour in (("white", 0.0), ("brown", 0.95)):
        folder = root / "noise" / kind
        folder.mkdir(parents=True)
        for source in range(8):
            white = rng.standard_normal(len(time))
            noise = white.copy()
            for index in range(1, len(noise)):
                noise[index] += colour * noise[index - 1]
            soundfile.write(folder / f"{source}.wav", 0.05 * noise / np.abs(noise).max(), 8000)
    return root
