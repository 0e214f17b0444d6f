"""What may be wrong with recordings: files, pairs, leaks between splits, too little of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quell.audit import audio_fingerprint
from quell.audit.inspection import Inspection
from quell.corpus.decoding import SILENT
from quell.corpus.recordings import CorpusConfig, Kind, Recording, partners
from quell.corpus.scan import leaks, unpaired
from quell.corpus.splits import SPLITS

CLIPPED = 1e-4  # share of the samples: a few peaks are cut off in most recordings
OFFSET = 0.1  # of the recording's rms
PAUSES: Mapping[Kind, float] = {
    "clean": 0.6,
    "noisy": 0.95,
    "noise": 0.95,
}  # share of the frames; barks and bells are rare
LOWEST_RANGE_DB = 15.0  # of clean speech
LOWEST_RATE = 0.95  # of the corpus's sample rate
# Of a split that is scored: less than this is a matter of luck or cannot be scored at all.
SHORTEST_S: Mapping[Kind, float] = {"clean": 3.0, "noisy": 3.0, "noise": 1.0}
SPEECH: tuple[Kind, ...] = ("clean", "noisy")
SCORABLE_S = 1.0  # an utterance that PESQ and STOI take
FEWEST_GROUPS = 5  # speakers in a split that is scored
FEWEST_SOURCES = 3  # of a kind of noise: one for each split
UNLIKE = 0.1  # correlation of a noisy recording with its clean version: that of -20 dB SNR

Severity = Literal["error", "warning"]
Inspected = Mapping[str, Inspection | str]  # by `Recording.name`; what is wrong with a file that cannot be read


@dataclass(frozen=True)
class Pairing:
    """How a noisy recording lies over its clean version."""

    lag_s: float  # by which the noisy one is late
    snr_db: float
    correlation: float  # their correlation, -1 to 1


@dataclass(frozen=True)
class Finding:
    """Something to know, or to mend, before a study begins."""

    severity: Severity
    kind: str
    names: tuple[str, ...]  # of the recordings that would have to be left out
    text: str  # <file or group>: <found>, expected <needed>; <what to do>


def judge(
    config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected, pairings: Mapping[str, Pairing]
) -> list[Finding]:
    """What is wrong, errors first."""
    findings = [
        *_unreadable(config, recordings, inspected),
        *(Finding("error", "alone", *problem) for problem in unpaired(config, recordings)),
        *_unlike(recordings, inspected, pairings),
        *(Finding("error", "leak", *problem) for problem in leaks(config, recordings)),
        *_copies(config, recordings, inspected),
        *_short(config, recordings, inspected),
        *_odd(config, recordings, inspected),
        *_few(recordings),
    ]
    return sorted(findings, key=lambda finding: finding.severity)


def usable(
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


def _unlike(
    recordings: Sequence[Recording], inspected: Inspected, pairings: Mapping[str, Pairing]
) -> Iterator[Finding]:
    """Pairs of two lengths or rates, or of two things."""
    for noisy, clean in partners(recordings):
        ours, theirs, both = inspected[noisy.name], inspected[clean.name], (noisy.name, clean.name)
        if isinstance(ours, str) or isinstance(theirs, str):
            continue
        if ours.sample_rate != theirs.sample_rate:
            text = f"{ours.sample_rate} Hz, expected {theirs.sample_rate} Hz as {clean.name}; resample one of them"
            yield Finding("error", "unlike", both, f"{noisy.name}: {text}")
        elif ours.seconds != theirs.seconds:
            text = f"{ours.seconds:.3f} s, expected {theirs.seconds:.3f} s as {clean.name}; cut them alike"
            yield Finding("error", "unlike", both, f"{noisy.name}: {text}")
        elif theirs.peak >= SILENT and pairings[noisy.name].correlation < UNLIKE:
            found = f"a correlation of {pairings[noisy.name].correlation:.2f} with {clean.name}"
            text = f"{found}, expected at least {UNLIKE:g}; it seems to be of something else"
            yield Finding("warning", "unlike", both, f"{noisy.name}: {text}")


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
        groups = {("speech" if one.kind in SPEECH else one.kind, one.group) for one in copies}
        if len(groups) > 1:
            known |= {one.name for one in others}
            also = " and ".join(one.name for one in others)
            text = f"the same audio as {also}, expected each recording in one group; remove the copies"
            yield Finding("error", "duplicate", tuple(one.name for one in others), f"{first.name}: {text}")
    for match in audio_fingerprint.matches([(found.marks, found.heard) for _, found in readable]):
        one, other = sorted((readable[match.one][0], readable[match.other][0]), key=lambda r: SPLITS.index(r.split))
        if one.split != other.split and not {one.name, other.name} & known:
            text = (
                f"{match.seconds:.1f} s sound like {other.name} ({one.split} and {other.split}), expected them in one "
                "split; put them into one group or leave one out"
            )
            yield Finding("warning", "copy", (other.name,), f"{one.name}: {text}")


def _short(config: CorpusConfig, recordings: Sequence[Recording], inspected: Inspected) -> Iterator[Finding]:
    for split in SPLITS:
        for kind in SPEECH if config.noisy is not None else ("clean", "noise"):
            lengths = [found.seconds for _, found in usable(recordings, inspected, split, kind)]
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
