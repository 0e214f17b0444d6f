"""What is wrong with recordings before anything is trained on them: files, leaks between splits, too little of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quell import fingerprint
from quell.errors import AudioError
from quell.inspection import Inspection, inspect
from quell.recordings import CorpusConfig, Kind, Progress, Recording, find, leaks
from quell.splits import SPLITS
from quell.store import SILENT

CLIPPED = 1e-4  # share of the samples: a few peaks are cut off in most recordings
OFFSET = 0.1  # of the recording's rms
PAUSES: Mapping[Kind, float] = {"clean": 0.6, "noise": 0.95}  # share of the frames; barks and bells are rare
LOWEST_RANGE_DB = 15.0  # of clean speech
LOWEST_RATE = 0.95  # of the corpus's sample rate
# Of a split that is scored: less than this is a matter of luck or cannot be scored at all.
SHORTEST_S: Mapping[Kind, float] = {"clean": 3.0, "noise": 1.0}
SCORABLE_S = 1.0  # an utterance that PESQ and STOI take
FEWEST_GROUPS = 5  # speakers in a split that is scored
FEWEST_SOURCES = 3  # of a kind of noise: one for each split

Severity = Literal["error", "warning"]
Inspected = Mapping[str, Inspection | str]  # by `Recording.name`; what is wrong with a file that cannot be read


@dataclass(frozen=True)
class Finding:
    """Something to know, or to mend, before a study begins."""

    severity: Severity
    kind: str
    names: tuple[str, ...]  # of the recordings that would have to be left out
    text: str  # <file or group>: <found>, expected <needed>; <what to do>


@dataclass(frozen=True)
class Audit:
    """All recordings of a corpus, what each is, and what is wrong."""

    config: CorpusConfig
    recordings: list[Recording]
    inspected: Inspected
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def of(self, split: str, kind: Kind) -> list[tuple[Recording, Inspection]]:
        """The recordings of one side of a split that can be read and are not silent."""
        return _usable(self.recordings, self.inspected, split, kind)


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
    return Audit(config, recordings, inspected, judge(config, recordings, inspected))


def without(known: Audit, names: Iterable[str]) -> Audit:
    """The audit of the corpus without some recordings, which need not be read again for it.

    Raises:
        CorpusError: as `audit`.
    """
    config = known.config.without(names)
    recordings = find(config)
    return Audit(config, recordings, known.inspected, judge(config, recordings, known.inspected))


def judge(config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected) -> list[Finding]:
    """What is wrong, errors first."""
    findings = [
        *_unreadable(config, recordings, inspected),
        *_leaks(config, recordings),
        *_copies(config, recordings, inspected),
        *_short(config, recordings, inspected),
        *_odd(config, recordings, inspected),
        *_few(recordings),
    ]
    return sorted(findings, key=lambda finding: finding.severity)


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


def _inspect(path: Path) -> Inspection | str:
    try:
        return inspect(path)
    except AudioError as error:
        return str(error)


def _usable(
    recordings: Iterable[Recording], inspected: Inspected, split: str, kind: Kind
) -> list[tuple[Recording, Inspection]]:
    found = []
    for recording in recordings:
        what = inspected[recording.name]
        if (recording.split, recording.kind) == (split, kind) and not isinstance(what, str) and what.peak >= SILENT:
            found.append((recording, what))
    return found


def _unreadable(config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected) -> Iterator[Finding]:
    for recording in recordings:
        found = inspected[recording.name]
        if isinstance(found, str):
            yield Finding("error", "unreadable", (recording.name,), found)


def _leaks(config: CorpusConfig, recordings: Sequence[Recording]) -> Iterator[Finding]:
    for (kind, group), splits in leaks(recordings).items():
        among = [one for one in recordings if (one.kind, one.group) == (kind, group)]
        (home, _), *_ = Counter(one.split for one in among).most_common()
        names = tuple(one.name for one in among if one.split != home)
        text = f"{config.folder(kind)}: group {group!r} lies in {' and '.join(splits)}, expected one split; move it"
        yield Finding("error", "leak", names, text)


def _copies(config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected) -> Iterator[Finding]:
    """The same samples under the names of two groups, and the same sound in two splits."""
    readable = [
        (recording, found) for recording in recordings if not isinstance(found := inspected[recording.name], str)
    ]
    same: dict[str, list[Recording]] = defaultdict(list)
    for recording, found in readable:
        if found.peak >= SILENT:
            same[found.digest].append(recording)
    known = set()
    for copies in same.values():
        first, *others = sorted(copies, key=lambda one: SPLITS.index(one.split))
        groups = {(one.kind, one.group) for one in copies}
        if len(groups) > 1:
            known |= {one.name for one in others}
            also = " and ".join(one.name for one in others)
            text = f"the same audio as {also}, expected each recording in one group; remove the copies"
            yield Finding("error", "duplicate", tuple(one.name for one in others), f"{first.name}: {text}")
    for match in fingerprint.matches([(found.marks, found.heard) for _, found in readable]):
        one, other = sorted((readable[match.one][0], readable[match.other][0]), key=lambda r: SPLITS.index(r.split))
        if one.split != other.split and not {one.name, other.name} & known:
            text = (
                f"{match.seconds:.1f} s sound like {other.name} ({one.split} and {other.split}), expected them in one "
                "split; put them into one group or leave one out"
            )
            yield Finding("warning", "copy", (other.name,), f"{one.name}: {text}")


def _short(config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected) -> Iterator[Finding]:
    for split in SPLITS:
        for kind in SHORTEST_S:
            lengths = [found.seconds for _, found in _usable(recordings, inspected, split, kind)]
            needed = SHORTEST_S[kind]
            if sum(lengths) < needed:
                text = f"{sum(lengths):.1f} s of {kind} recordings, expected at least {needed:g} s; add some"
            elif kind == "clean" and max(lengths) < SCORABLE_S:
                text = f"none of {len(lengths)} utterances lasts {SCORABLE_S:g} s, expected some; add longer ones"
            else:
                continue
            yield Finding("error", "short", (), f"{split} split: {text}")


def _odd(config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected) -> Iterator[Finding]:
    for recording in recordings:
        found = inspected[recording.name]
        if not isinstance(found, str):
            for kind, text in _oddities(config, recording, found):
                yield Finding("warning", kind, (recording.name,), f"{recording.name}: {text}")


def _oddities(config: CorpusConfig, recording: Recording, found: Inspection) -> Iterator[tuple[str, str]]:
    if found.peak < SILENT:
        yield "silent", "silent, expected sound; it is left out"
        return
    if found.clipped > CLIPPED:
        yield "clipped", f"{found.clipped:.2%} of the samples clip, expected at most {CLIPPED:.2%}; record it softer"
    if abs(found.offset) > OFFSET * found.rms:
        share = abs(found.offset) / found.rms
        yield "offset", f"an offset of {share:.0%} of its level, expected at most {OFFSET:.0%}; filter it"
    if found.pauses > PAUSES.get(recording.kind, 1.0):
        most = PAUSES[recording.kind]
        yield "pauses", f"{found.pauses:.0%} of it is silence, expected at most {most:.0%}; trim it"
    if recording.kind == "clean" and 0 < found.range_db < LOWEST_RANGE_DB:
        needed = f"expected {LOWEST_RANGE_DB:g} dB between loud and soft in clean speech; what is noise in it is learnt"
        yield "noisy", f"an SNR of {found.range_db:.0f} dB at most, {needed}, so leave it out"
    if 0 < found.upsampled_hz < LOWEST_RATE * config.sample_rate and recording.kind != "room":
        ends = f"nothing above {found.upsampled_hz / 2:g} Hz, as if it was recorded at {found.upsampled_hz} Hz"
        yield "upsampled", f"{ends}, expected {config.sample_rate} Hz; leave it out, or lower corpus.sample_rate"


def _few(recordings: Sequence[Recording]) -> Iterator[Finding]:
    for split in SPLITS[1:]:
        groups = {one.group for one in recordings if (one.kind, one.split) == ("clean", split)}
        if len(groups) < FEWEST_GROUPS:
            text = f"{len(groups)} groups of speech, expected at least {FEWEST_GROUPS}; its scores are those of few"
            yield Finding("warning", "groups", (), f"{split} split: {text} voices")
    sources: dict[str, set[str]] = defaultdict(set)
    for one in recordings:
        if one.kind == "noise":
            sources[one.category].add(one.group)
    for category, found in sorted(sources.items()):
        if len(found) < FEWEST_SOURCES:
            text = f"{len(found)} sources, expected at least {FEWEST_SOURCES}, one for each split; add recordings"
            yield Finding("warning", "groups", (), f"noise/{category}: {text}")
