"""Recordings on disk -> splits by group -> one decoded int16 memory map per split, opened by every worker."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quell import audio
from quell.errors import AudioError, CorpusError
from quell.splits import SPLITS, group_of, point, split_groups

Kind = Literal["clean", "noise", "room"]
Progress = Callable[[int, int], None]  # recordings done, recordings in all

# Version of the decoded files. Raise it when the same recordings would be decoded to other samples.
DECODER = 1


@dataclass(frozen=True)
class CorpusConfig:
    """Which recordings, at which rate, and what must stay together.

    Grouping rules are explained by `quell.splits.group_of`.
    """

    clean: Path
    noise: Path
    sample_rate: int = 16_000  # Hz
    group_clean: str = "parent"
    group_noise: str = "file"
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    hours: float = 0.0  # of clean speech, over all splits; 0 takes everything
    rooms: Path | None = None  # folder of room impulse responses, heard in training only


@dataclass(frozen=True)
class Recording:
    """One file of the corpus and where it belongs."""

    kind: Kind
    path: str  # relative to its folder, with forward slashes
    group: str
    category: str  # top folder ("rain"), the stratum of the splits; "" for clean speech
    split: str
    digest: str  # of the file's bytes


@dataclass(frozen=True)
class Clip:
    """A decoded recording: samples[offset : offset + length] of its split."""

    kind: Kind
    path: str
    group: str
    category: str
    offset: int
    length: int


@dataclass(frozen=True)
class Split:
    """The decoded recordings of one split. Samples are scaled to use the whole range: their level says nothing."""

    path: Path
    clips: list[Clip]

    @cached_property
    def samples(self) -> NDArray[np.int16]:
        """All recordings one after the other, shape (T,), a read-only memory map."""
        return np.memmap(self.path, dtype=np.int16, mode="r")

    def of(self, kind: Kind) -> list[Clip]:
        return [clip for clip in self.clips if clip.kind == kind]

    def waveform(self, clip: Clip) -> audio.FloatArray:
        """One clip as float32, shape (T,), full scale at 1."""
        return self.samples[clip.offset : clip.offset + clip.length].astype(np.float32) / np.float32(32768)


@dataclass(frozen=True)
class Corpus:
    """A decoded corpus, opened from its store."""

    folder: Path
    fingerprint: str
    sample_rate: int
    splits: dict[str, Split]

    def minutes(self, split: str, kind: Kind) -> float:
        return sum(clip.length for clip in self.splits[split].of(kind)) / self.sample_rate / 60


def prepare(config: CorpusConfig, store: Path, progress: Progress | None = None) -> Corpus:
    """The decoded corpus, opened from `store` when these very files were decoded before, else decoded now.

    A build goes to a folder of its own and is renamed at the end: one that is interrupted leaves nothing under the
    final name, and of two at once the first one wins.

    Raises:
        AudioError: a recording that cannot be used.
        CorpusError: a folder that is missing or empty, or too few groups for three splits.
    """
    recordings = scan(config)
    fingerprint = _fingerprint(config, recordings)
    folder = store / fingerprint
    if not (folder / "index.json").exists():
        building = store / f".{fingerprint}.{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            _decode(config, recordings, building, progress)
            building.rename(folder)
        except OSError as error:
            if not (folder / "index.json").exists():
                raise CorpusError(f"{folder}: {error}, expected room for the decoded corpus; free the disk") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return open_store(folder)


def open_store(folder: Path) -> Corpus:
    """A corpus that `prepare` decoded.

    Raises:
        CorpusError: there is none in `folder`.
    """
    try:
        index = json.loads((folder / "index.json").read_text())
    except FileNotFoundError as error:
        raise CorpusError(
            f"{folder}: no decoded corpus, expected index.json; name the recordings by --corpus"
        ) from error
    splits = {
        name: Split(folder / f"{name}.int16", [Clip(**clip) for clip in clips])
        for name, clips in index["splits"].items()
    }
    return Corpus(folder, folder.name, index["sample_rate"], splits)


def scan(config: CorpusConfig) -> list[Recording]:
    """Every recording with its group and split, sorted by kind and path; file contents are hashed, not decoded.

    Raises:
        CorpusError: as `prepare`.
    """
    found: list[Recording] = []
    sides: tuple[tuple[Kind, Path, str], ...] = (
        ("clean", config.clean, config.group_clean),
        ("noise", config.noise, config.group_noise),
    )
    for kind, folder, rule in sides:
        if not folder.is_dir():
            raise CorpusError(
                f"{folder}: no such folder, expected the {kind} recordings; give --corpus or QUELL_CORPUS"
            )
        paths = [path.relative_to(folder) for path in audio.find(folder)]
        if not paths:
            raise CorpusError(f"{folder}: no sound files, expected {kind} recordings (WAV, FLAC, Ogg, ...); add some")
        groups = {path: group_of(path, rule) for path in paths}
        folders_of = {path: path.parts[0] if kind == "noise" and len(path.parts) > 1 else "" for path in paths}
        categories: dict[str, str] = {}
        for path in paths:  # a group in two folders counts for the first: it must move as one
            categories.setdefault(groups[path], folders_of[path])
        try:
            assigned = split_groups(categories, config.splits)
        except CorpusError as error:
            raise CorpusError(f"{folder}: {error}") from None
        for path in paths:
            place = (groups[path], folders_of[path], assigned[groups[path]])
            found.append(Recording(kind, path.as_posix(), *place, _digest(folder / path)))
    return found + ([] if config.rooms is None else _scan_rooms(config.rooms))


def _scan_rooms(folder: Path) -> list[Recording]:
    if not folder.is_dir() or not (paths := audio.find(folder)):
        raise CorpusError(f"{folder}: no room responses, expected a folder of impulse responses; take corpus.rooms out")
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [Recording("room", name, name, "", "train", _digest(folder / name)) for name in names]


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _fingerprint(config: CorpusConfig, recordings: Iterable[Recording]) -> str:
    settings = asdict(config) | {"clean": None, "noise": None, "splits": dict(config.splits), "decoder": DECODER}
    del settings["rooms"]  # the responses count as recordings
    text = json.dumps([settings, [asdict(recording) for recording in recordings]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decode(config: CorpusConfig, recordings: list[Recording], folder: Path, progress: Progress | None) -> None:
    """Writes one memory map per split and the index; `hours` is used up in the order of the names' hashes."""
    clips: dict[str, list[Clip]] = {name: [] for name in SPLITS}
    written = dict.fromkeys(SPLITS, 0)
    speech = dict.fromkeys(SPLITS, 0)
    order = sorted(recordings, key=lambda r: point(r.path)) if config.hours else recordings
    files = {name: (folder / f"{name}.int16").open("wb") for name in SPLITS}
    try:
        for done, recording in enumerate(order):
            if progress is not None:
                progress(done, len(order))
            split = recording.split
            enough = config.hours * config.splits[split] * 3600 * config.sample_rate
            if recording.kind == "clean" and config.hours and speech[split] >= enough:
                continue
            samples = _decode_one(config, recording)
            samples.tofile(files[split])
            place = (written[split], len(samples))
            clips[split].append(Clip(recording.kind, recording.path, recording.group, recording.category, *place))
            written[split] += len(samples)
            speech[split] += len(samples) if recording.kind == "clean" else 0
    finally:
        for file in files.values():
            file.close()
    index = {
        "sample_rate": config.sample_rate,
        "splits": {name: [asdict(clip) for clip in sorted(clips[name], key=lambda c: c.path)] for name in SPLITS},
    }
    (folder / "index.json").write_text(json.dumps(index))


def _decode_one(config: CorpusConfig, recording: Recording) -> NDArray[np.int16]:
    """int16 samples with the peak at full scale, so that quiet recordings lose no digits.

    Digital silence at the ends of a noise is cut: published clips are padded with it, and a crop of it has no SNR.
    """
    folder = {"clean": config.clean, "noise": config.noise, "room": config.rooms}[recording.kind]
    assert folder is not None
    path = folder / recording.path
    waveform = audio.read_mono(path, config.sample_rate)
    peak = float(np.abs(waveform).max())
    if peak < 1e-4:  # -80 dB of full scale: nothing was recorded
        raise AudioError(f"{path}: silent (peak {peak:.1e}), expected {recording.kind} recordings; remove it")
    samples = np.round(waveform * (32767 / peak)).astype(np.int16)
    if recording.kind == "noise":
        sounding = np.flatnonzero(np.abs(samples) > 1)
        samples = samples[sounding[0] : sounding[-1] + 1]
    return samples
