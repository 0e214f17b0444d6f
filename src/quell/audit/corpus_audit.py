"""Every recording of a corpus, read whole and judged before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quell.audio.alignment import measured_snr_db, read
from quell.audit.findings import Finding, Inspected, Pairing, judge, usable
from quell.audit.inspection import Inspection, inspect
from quell.corpus.recordings import CorpusConfig, Kind, Recording, partners
from quell.corpus.scan import find
from quell.errors import AudioError
from quell.progress import Progress


@dataclass(frozen=True)
class Audit:
    """All recordings of a corpus, what each is, and what is wrong."""

    config: CorpusConfig
    recordings: list[Recording]
    inspected: Inspected
    pairings: Mapping[str, Pairing]  # by the name of the noisy recording
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def of(self, split: str, kind: Kind) -> list[tuple[Recording, Inspection]]:
        """The recordings of one side of a split that can be read and are not silent."""
        return usable(self.recordings, self.inspected, split, kind)


def audit(config: CorpusConfig, processes: int = 1, progress: Progress | None = None) -> Audit:
    """Reads every recording whole and judges it.

    Raises:
        CorpusError: a folder that is missing or empty, a name without a group or a split, or too few groups.
    """
    recordings = find(config)
    inspected: dict[str, Inspection | str] = {}
    if progress is not None:
        progress(0, len(recordings))
    for done, (name, found) in enumerate(_inspect_all(config, recordings, processes), 1):
        inspected[name] = found
        if progress is not None:
            progress(done, len(recordings))
    pairings = dict(_pair_all(config, recordings, inspected, processes))
    return Audit(config, recordings, inspected, pairings, judge(config, recordings, inspected, pairings))


def without(known: Audit, names: Iterable[str]) -> Audit:
    """The audit of the corpus without some recordings, which need not be read again for it.

    Raises:
        CorpusError: as `audit`.
    """
    config = known.config.without(names)
    recordings = find(config)
    findings = judge(config, recordings, known.inspected, known.pairings)
    return Audit(config, recordings, known.inspected, known.pairings, findings)


def _inspect_all(
    config: CorpusConfig, recordings: Sequence[Recording], processes: int
) -> Iterator[tuple[str, Inspection | str]]:
    paths = [config.folder(recording.kind) / recording.path for recording in recordings]
    names = [recording.name for recording in recordings]
    if processes < 2:
        yield from zip(names, map(_inspect, paths), strict=True)
        return
    from quell.processes import pool

    with pool(processes) as executor:
        yield from zip(names, executor.map(_inspect, paths, chunksize=8), strict=True)


def _pair_all(
    config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected, processes: int
) -> Iterator[tuple[str, Pairing]]:
    """Of the pairs that can be read; at the rate of the corpus."""
    pairs = [
        (noisy, clean)
        for noisy, clean in partners(recordings)
        if not isinstance(inspected[noisy.name], str) and not isinstance(inspected[clean.name], str)
    ]
    jobs = [
        (config.folder("noisy") / noisy.path, config.folder("clean") / clean.path, config.sample_rate)
        for noisy, clean in pairs
    ]
    names = [noisy.name for noisy, _ in pairs]
    if processes < 2 or not jobs:
        yield from zip(names, map(_pair, jobs), strict=True)
        return
    from quell.processes import pool

    with pool(processes) as executor:
        yield from zip(names, executor.map(_pair, jobs, chunksize=8), strict=True)


def _pair(job: tuple[Path, Path, int]) -> Pairing:
    found = read(*job)
    return Pairing(found.lag / job[2], measured_snr_db(found.noisy, found.clean), found.correlation)


def _inspect(path: Path) -> Inspection | str:
    try:
        return inspect(path)
    except AudioError as error:
        return str(error)
