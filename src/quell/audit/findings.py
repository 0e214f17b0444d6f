"""The rules of an audit: damaged files, unlike pairs, leaks and copies between splits, too few recordings."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quell.audit import audio_fingerprint
from quell.audit.inspection import Inspection
from quell.corpus.decoding import SILENT
from quell.corpus.recordings import CorpusConfig, Kind, Recording, partners
from quell.corpus.scan import leaks, unpaired
from quell.corpus.splits import SPLITS

CLIPPED = 1e-4  # share of the samples; most recordings have a few clipped peaks
OFFSET = 0.1  # of the recording's rms
PAUSES: Mapping[Kind, float] = {"clean": 0.6, "noisy": 0.95, "noise": 0.95}  # share of the frames; noises may be rare
LOWEST_RANGE_DB = 15.0  # of clean speech
LOWEST_RATE = 0.95  # of the corpus's sample rate
# In each split; with less, scores are a matter of luck or cannot be computed.
SHORTEST_S: Mapping[Kind, float] = {"clean": 3.0, "noisy": 3.0, "noise": 1.0}
SPOKEN_S = 1.0  # of frames as loud as speech
SPEECH: tuple[Kind, ...] = ("clean", "noisy")
SCORABLE_S = 1.0  # the shortest utterance that PESQ and STOI score
FEWEST_GROUPS = 5  # speakers in a split used for scoring
FEWEST_SOURCES = 3  # of a kind of noise: one for each split
UNLIKE = 0.1  # correlation of a noisy recording with its clean version at -20 dB SNR

Severity = Literal["error", "warning"]
Readable = Mapping[Recording, Inspection]
Inspections = Mapping[Recording, Inspection | str]  # the error of a file that cannot be read


@dataclass(frozen=True)
class Pairing:
    """Alignment of a noisy recording with its clean version."""

    lag_s: float  # by which the noisy one is late
    snr_db: float
    correlation: float  # -1 to 1


@dataclass(frozen=True)
class Finding:
    """A problem of a corpus."""

    severity: Severity
    kind: str
    names: tuple[str, ...]  # of the recordings to leave out
    text: str  # <file or group>: <found>, expected <needed>; <what to do>


def judge(config: CorpusConfig, inspections: Inspections, pairings: Mapping[str, Pairing]) -> list[Finding]:
    """All findings, errors first."""
    recordings = list(inspections)
    readable = {one: measured for one, measured in inspections.items() if isinstance(measured, Inspection)}
    findings = [
        *(
            Finding("error", "unreadable", (one.name,), text)
            for one, text in inspections.items()
            if isinstance(text, str)
        ),
        *(Finding("error", "alone", *problem) for problem in unpaired(config, recordings)),
        *_unlike(readable, pairings),
        *(Finding("error", "leak", *problem) for problem in leaks(config, recordings)),
        *_copies(readable),
        *_short(config, readable),
        *_odd(config, readable),
        *_few(recordings),
    ]
    return sorted(findings, key=lambda finding: finding.severity)


def usable(inspections: Inspections, split: str, kind: Kind) -> list[tuple[Recording, Inspection]]:
    """The recordings of a split and kind that can be read and are not silent, with their measurements."""
    return [
        (recording, measured)
        for recording, measured in inspections.items()
        if (recording.split, recording.kind) == (split, kind)
        and isinstance(measured, Inspection)
        and measured.peak >= SILENT
    ]


def _unlike(readable: Readable, pairings: Mapping[str, Pairing]) -> Iterator[Finding]:
    """Pairs of two lengths or rates, or without correlation."""
    for noisy, clean in partners(readable):
        one, other, names = readable[noisy], readable[clean], (noisy.name, clean.name)
        if one.sample_rate != other.sample_rate:
            text = f"{one.sample_rate} Hz, expected {other.sample_rate} Hz as {clean.name}; resample one of them"
            yield Finding("error", "unlike", names, f"{noisy.name}: {text}")
        elif one.seconds != other.seconds:
            text = f"{one.seconds:.3f} s, expected {other.seconds:.3f} s as {clean.name}; cut them alike"
            yield Finding("error", "unlike", names, f"{noisy.name}: {text}")
        elif other.peak >= SILENT and pairings[noisy.name].correlation < UNLIKE:
            found = f"a correlation of {pairings[noisy.name].correlation:.2f} with {clean.name}"
            text = f"{found}, expected at least {UNLIKE:g}; it seems to be of something else"
            yield Finding("warning", "unlike", names, f"{noisy.name}: {text}")


def _copies(readable: Readable) -> Iterator[Finding]:
    """The same samples in two groups, and the same sound in two splits."""
    by_digest: dict[str, list[Recording]] = defaultdict(list)
    for recording, inspection in readable.items():
        if inspection.peak >= SILENT:
            by_digest[inspection.digest].append(recording)
    duplicates = set()
    for copies in by_digest.values():
        first, *others = sorted(copies, key=lambda one: SPLITS.index(one.split))
        groups = {("speech" if one.kind in SPEECH else one.kind, one.group) for one in copies}
        if len(groups) > 1:
            names = tuple(one.name for one in others)
            duplicates |= set(names)
            text = f"the same audio as {' and '.join(names)}, expected each recording in one group; remove the copies"
            yield Finding("error", "duplicate", names, f"{first.name}: {text}")
    recordings = list(readable)
    for match in audio_fingerprint.matches([inspection.fingerprint for inspection in readable.values()]):
        pair = (recordings[match.one], recordings[match.other])
        one, other = sorted(pair, key=lambda recording: SPLITS.index(recording.split))
        if one.split != other.split and not {one.name, other.name} & duplicates:
            text = (
                f"{match.seconds:.1f} s sound like {other.name} ({one.split} and {other.split}), expected them in one "
                "split; put them into one group or leave one out"
            )
            yield Finding("warning", "copy", (other.name,), f"{one.name}: {text}")


def _short(config: CorpusConfig, readable: Readable) -> Iterator[Finding]:
    for split in SPLITS:
        for kind in SPEECH if config.noisy is not None else ("clean", "noise"):
            inspected = [inspection for _, inspection in usable(readable, split, kind)]
            lengths, needed = [inspection.seconds for inspection in inspected], SHORTEST_S[kind]
            speech_s = sum(inspection.speech_s for inspection in inspected)
            if sum(lengths) < needed:
                text = f"{sum(lengths):.1f} s of {kind} recordings, expected at least {needed:g} s; add some"
            elif kind in SPEECH and speech_s < SPOKEN_S:
                found = f"{speech_s:.1f} s of speech in {sum(lengths):.1f} s of {kind} recordings, the rest is silence"
                text = f"{found}, expected at least {SPOKEN_S:g} s; add some, or leave the silent ones out"
            elif kind == "clean" and max(lengths) < SCORABLE_S:
                text = f"none of {len(lengths)} utterances lasts {SCORABLE_S:g} s, expected some; add longer ones"
            else:
                continue
            yield Finding("error", "short", (), f"{split} split: {text}")


def _odd(config: CorpusConfig, readable: Readable) -> Iterator[Finding]:
    for recording, inspection in readable.items():
        for kind, text in _oddities(config, recording, inspection):
            yield Finding("warning", kind, (recording.name,), f"{recording.name}: {text}")


def _oddities(config: CorpusConfig, recording: Recording, one: Inspection) -> Iterator[tuple[str, str]]:
    if one.peak < SILENT:
        yield "silent", "silent, expected sound; it is left out"
        return
    if one.clipped > CLIPPED:
        yield "clipped", f"{one.clipped:.2%} of the samples clip, expected at most {CLIPPED:.2%}; record it softer"
    if abs(one.offset) > OFFSET * one.rms:
        share = abs(one.offset) / one.rms
        yield "offset", f"an offset of {share:.0%} of its level, expected at most {OFFSET:.0%}; filter it"
    if one.pauses > PAUSES.get(recording.kind, 1.0):
        most = PAUSES[recording.kind]
        yield "pauses", f"{one.pauses:.0%} of it is silence, expected at most {most:.0%}; trim it"
    if recording.kind == "clean" and 0 < one.range_db < LOWEST_RANGE_DB:
        needed = f"expected {LOWEST_RANGE_DB:g} dB between loud and soft in clean speech; its noise is learnt as speech"
        yield "noisy", f"an SNR of {one.range_db:.0f} dB at most, {needed}, so leave it out"
    native_hz = min(one.sample_rate, one.upsampled_hz or one.sample_rate)
    if native_hz < LOWEST_RATE * config.sample_rate and recording.kind != "room":
        how = "since it is" if native_hz == one.sample_rate else "as if it was"
        ends = f"nothing above {native_hz / 2:g} Hz, {how} recorded at {native_hz} Hz"
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
    for category, groups in sorted(sources.items()):
        if len(groups) < FEWEST_SOURCES:
            text = f"{len(groups)} sources, expected at least {FEWEST_SOURCES}, one for each split; add recordings"
            yield Finding("warning", "groups", (), f"noise/{category}: {text}")
