"""Recordings that the tests of the package write, and what such files are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import sounds

from quell.corpus.recordings import CorpusConfig


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Writes a recording, of 500 samples of noise unless others are given."""

    def write(path: Path, samples=None, rate=8_000, subtype="PCM_16") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * np.random.default_rng(0).standard_normal(500) if samples is None else samples
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture(scope="session")
def stored() -> Callable[[Path], tuple[int | str, ...]]:
    """Rate, channels, length and format of a recording."""

    def stored(path: Path) -> tuple[int | str, ...]:
        info = soundfile.info(path)
        return info.samplerate, info.channels, info.frames, info.format, info.subtype, info.endian

    return stored


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    return sounds.recordings_of(tmp_path / "recordings")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
