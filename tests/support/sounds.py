"""Sounds, recordings and small corpora that tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from quell.corpus.recordings import CorpusConfig

ESC = r"^\d-(\d+)-"  # the source in the names of ESC-50's recordings


def tone(seconds=0.1, rate=8_000, frequency=400):
    return 0.3 * np.sin(2 * np.pi * frequency / rate * np.arange(round(seconds * rate)))


def write(path: Path, samples, rate=8_000, subtype="PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def recordings_of(folder: Path, speakers=3, takes=1, sources=3) -> CorpusConfig:
    """Tones of 0.1 s in folders of speakers, and others as rain."""
    for speaker in range(speakers):
        for take in range(takes):
            write(folder / "clean" / f"s{speaker}" / f"{take}.wav", tone(frequency=300 + 10 * speaker + take))
    for source in range(sources):
        write(folder / "noise" / "rain" / f"{source}.wav", tone(frequency=1_000 + source))
    return CorpusConfig(folder / "clean", folder / "noise", 8_000)
