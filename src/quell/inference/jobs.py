"""Options, jobs and results of denoising; without torch, so that the command line starts fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quell.errors import AudioError


@dataclass(frozen=True)
class DenoiseOptions:
    """How much of the input stays in the output.

    Args:
        wet: share of the denoised signal, 0 to 1.
        attenuation_limit_db: most dB by which noise is attenuated; None sets no limit.

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
        """Share of the denoised signal in the output, 0 to 1, after both options."""
        limit = self.attenuation_limit_db
        return self.wet * (1 - (0.0 if limit is None else 10 ** (-limit / 20)))


class Report(NamedTuple):
    """Facts of one denoised recording."""

    peak: float  # full scale is 1
    limited: int  # samples beyond the range of the format
    tags_lost: bool = False  # some of the recording's tags, marks or pictures are not in the output


class DenoiseJob(NamedTuple):
    """One file to denoise and where the result goes."""

    source: Path
    target: Path
    overwrite: bool = False  # a file that is in the target's place when the result is there


class JobResult(NamedTuple):
    """A job that ended: with a report, or with what is wrong with the file."""

    job: DenoiseJob
    report: Report | None
    error: AudioError | None
