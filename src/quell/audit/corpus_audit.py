"""Audits a corpus before training: reads every recording whole and applies the rules of `findings`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from quell import audio
from quell.audio.alignment import measured_snr_db, read
from quell.audit.findings import Finding, Inspections, Pairing, judge, usable
from quell.audit.inspection import Inspection, inspect
from quell.child_processes.child_pool import ChildPool, described
from quell.corpus.recordings import CorpusConfig, Kind, Recording, partners
from quell.corpus.scan import find
from quell.errors import AudioError
from quell.progress import Progress, ignore

T = TypeVar("T")
R = TypeVar("R")

BATCH = 8  # recordings that a process reads between two messages


@dataclass(frozen=True)
class Audit:
    """All recordings of a corpus with their measurements, and the findings."""

    config: CorpusConfig
    inspections: Inspections
    pairings: Mapping[str, Pairing]  # by the name of the noisy recording
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def of(self, split: str, kind: Kind) -> list[tuple[Recording, Inspection]]:
        """The recordings of a split and kind that can be read and are not silent."""
        return usable(self.inspections, split, kind)


def audit(config: CorpusConfig, processes: int = 1, progress: Progress = ignore) -> Audit:
    """Reads every recording whole and judges it.

    Raises:
        CorpusError: a folder is missing or empty, a name has no group or split, or there are too few groups.
    """
    recordings = find(config)
    inspections: dict[Recording, Inspection | str] = {}
    progress(0, len(recordings))
    paths = [config.path(recording) for recording in recordings]
    names = [recording.name for recording in recordings]
    for recording, inspection in zip(recordings, _map(_inspect, paths, names, processes), strict=True):
        inspections[recording] = inspection
        progress(len(inspections), len(recordings))
    # Of the pairs that can be read, at the rate of the corpus.
    pairs = partners(one for one, measured in inspections.items() if isinstance(measured, Inspection))
    jobs = [(config.path(noisy), config.path(clean), config.sample_rate) for noisy, clean in pairs]
    names = [noisy.name for noisy, _ in pairs]
    pairings = dict(zip(names, _map(_pair, jobs, names, processes), strict=True))
    findings = [*judge(config, inspections, pairings), *_unread(config)]
    return Audit(config, inspections, pairings, findings)


def _unread(config: CorpusConfig) -> Iterator[Finding]:
    for folder in dict.fromkeys(one for one in (config.clean, config.noise, config.noisy, config.rooms) if one):
        if counts := audio.unread([folder]):
            yield Finding("warning", "unread", (), f"{folder}: {audio.left_out(counts)}")


def without(audit: Audit, names: Iterable[str]) -> Audit:
    """The audit of the corpus without some recordings; reads no recording.

    Raises:
        CorpusError: as `audit`.
    """
    config = audit.config.without(names)
    by_name = {recording.name: inspection for recording, inspection in audit.inspections.items()}
    inspections = {recording: by_name[recording.name] for recording in find(config)}
    return Audit(config, inspections, audit.pairings, judge(config, inspections, audit.pairings))


def _map(function: Callable[[T], R], items: Sequence[T], names: Sequence[str], processes: int) -> Iterator[R]:
    if processes < 2 or not items:
        yield from map(function, items)
        return
    with ChildPool(processes) as children:
        results = []
        for start in range(0, len(items), BATCH):
            batch = slice(start, start + BATCH)
            results.append(children.submit(described("reading", names[batch]), _apply, function, items[batch]))
        for result in results:
            yield from result.result()


def _apply(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


def _pair(job: tuple[Path, Path, int]) -> Pairing:
    aligned = read(*job)
    return Pairing(aligned.lag / job[2], measured_snr_db(aligned.noisy, aligned.clean), aligned.correlation)


def _inspect(path: Path) -> Inspection | str:
    try:
        return inspect(path)
    except AudioError as error:
        return str(error)
