"""Audits a corpus before training: reads every recording whole and applies the rules of `findings`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from quell.audio.alignment import measured_snr_db, read
from quell.audit.findings import Finding, Inspections, Pairing, judge, usable
from quell.audit.inspection import Inspection, inspect
from quell.corpus.recordings import CorpusConfig, Kind, Recording, partners
from quell.corpus.scan import find
from quell.errors import AudioError
from quell.processes import pool
from quell.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Audit:
    """All recordings of a corpus with their measurements, and the findings."""

    config: CorpusConfig
    recordings: list[Recording]
    inspections: Inspections
    pairings: Mapping[str, Pairing]  # by the name of the noisy recording
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def of(self, split: str, kind: Kind) -> list[tuple[Recording, Inspection]]:
        """The recordings of a split and kind that can be read and are not silent."""
        return usable(self.recordings, self.inspections, split, kind)


def audit(config: CorpusConfig, processes: int = 1, progress: Progress | None = None) -> Audit:
    """Reads every recording whole and judges it.

    Raises:
        CorpusError: a folder is missing or empty, a name has no group or split, or there are too few groups.
    """
    recordings = find(config)
    inspections: dict[str, Inspection | str] = {}
    if progress is not None:
        progress(0, len(recordings))
    paths = [config.path(recording) for recording in recordings]
    for recording, inspection in zip(recordings, _map(_inspect, paths, processes), strict=True):
        inspections[recording.name] = inspection
        if progress is not None:
            progress(len(inspections), len(recordings))
    pairings = _pairings(config, recordings, inspections, processes)
    return Audit(config, recordings, inspections, pairings, judge(config, recordings, inspections, pairings))


def without(audit: Audit, names: Iterable[str]) -> Audit:
    """The audit of the corpus without some recordings; reads no recording.

    Raises:
        CorpusError: as `audit`.
    """
    config = audit.config.without(names)
    recordings = find(config)
    findings = judge(config, recordings, audit.inspections, audit.pairings)
    return Audit(config, recordings, audit.inspections, audit.pairings, findings)


def _pairings(
    config: CorpusConfig, recordings: Sequence[Recording], inspections: Inspections, processes: int
) -> dict[str, Pairing]:
    """Of the pairs that can be read; measured at the rate of the corpus."""
    pairs = [
        (noisy, clean)
        for noisy, clean in partners(recordings)
        if not isinstance(inspections[noisy.name], str) and not isinstance(inspections[clean.name], str)
    ]
    jobs = [(config.path(noisy), config.path(clean), config.sample_rate) for noisy, clean in pairs]
    return dict(zip([noisy.name for noisy, _ in pairs], _map(_pair, jobs, processes), strict=True))


def _map(function: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    if processes < 2 or not items:
        yield from map(function, items)
        return
    with pool(processes) as executor:
        yield from executor.map(function, items, chunksize=8)


def _pair(job: tuple[Path, Path, int]) -> Pairing:
    aligned = read(*job)
    return Pairing(aligned.lag / job[2], measured_snr_db(aligned.noisy, aligned.clean), aligned.correlation)


def _inspect(path: Path) -> Inspection | str:
    try:
        return inspect(path)
    except AudioError as error:
        return str(error)
