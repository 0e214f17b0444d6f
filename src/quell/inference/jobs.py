"""What a recording is to become, and what came out; without torch, for those who only ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quell import audio
from quell.errors import AudioError


@dataclass(frozen=True)
class DenoiseOptions:
    """How much of the input stays in the output.

    Args:
        wet: share of the denoised signal, 0 to 1.
        attenuation_limit_db: noise is lowered by so many dB at most; None sets no limit.

    Raises:
        ValueError: out of range.
    """

    wet: float = 1.0
    attenuation_limit_db: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.wet <= 1:
            raise ValueError(f"wet: {self.wet}, expected 0 to 1")
        if self.attenuation_limit_db is not None and not self.attenuation_limit_db >= 0:
            raise ValueError(f"attenuation limit: {self.attenuation_limit_db} dB, expected at least 0")

    @property
    def denoised(self) -> float:
        """Share of the denoised signal after both."""
        limit = self.attenuation_limit_db
        return self.wet * (1 - (0.0 if limit is None else 10 ** (-limit / 20)))


@dataclass(frozen=True)
class Report:
    """What came out of one recording."""

    seconds: float
    peak: float  # full scale is 1
    limited: int  # samples beyond what the format holds


@dataclass(frozen=True)
class DenoiseJob:
    """One file to denoise and where the result goes."""

    source: Path
    target: Path


class JobResult(NamedTuple):
    """A job that ended: with a report, or with what is wrong with its file."""

    job: DenoiseJob
    report: Report | None
    error: AudioError | None


def seconds(path: Path) -> float:
    """Length of a recording; 0 where it does not say. What is wrong with it is said when it is its turn."""
    try:
        recording = audio.AudioFile(path)
    except Exception:
        return 0.0
    return recording.frames / recording.stored.sample_rate
