"""Folders of recordings to evaluate on, with or without their clean versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quell import audio
from quell.errors import CorpusError


@dataclass(frozen=True)
class Pair:
    """A noisy recording and, where there is one, the clean one inside it."""

    label: str  # the noisy file's path inside its folder
    noisy: Path
    clean: Path | None
    sample_rate: int  # Hz, of both
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def pair_up(noisy: Path, clean: Path | None) -> list[Pair]:
    """The recordings of a folder by path, each with its clean one: that of the same path but for the suffix. Only
    headers are read.

    Raises:
        AudioError: a file cannot be read.
        CorpusError: a folder without recordings, a recording without its partner or with another length or rate than
            it.
    """
    found = _named(noisy)
    partners: dict[str, Path | None] = dict.fromkeys(found)
    if clean is not None:
        references = _named(clean)
        _refuse_alone(found, references, clean, "clean")
        _refuse_alone(references, found, noisy, "noisy")
        partners |= references
    return [_pair(path, partners[name], str(path.relative_to(noisy))) for name, path in found.items()]


def _named(folder: Path) -> dict[str, Path]:
    """Recordings by path without suffix."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder, expected recordings; check the path")
    named: dict[str, Path] = {}
    for path in audio.find(folder):
        name = str(path.relative_to(folder).with_suffix(""))
        if name in named:
            raise CorpusError(f"{path}: same name as {named[name].name}, expected one recording each; remove one")
        named[name] = path
    if not named:
        raise CorpusError(f"{folder}: no sound files, expected recordings; check the path")
    return named


def _refuse_alone(named: dict[str, Path], others: dict[str, Path], folder: Path, kind: str) -> None:
    alone = [name for name in named if name not in others]
    if alone:
        more = f" (and {len(alone) - 1} more like it)" if len(alone) > 1 else ""
        raise CorpusError(
            f"{named[alone[0]]}: no {kind} partner{more}, expected {folder / alone[0]}.*; add it or remove this one"
        )


def _pair(noisy: Path, clean: Path | None, label: str) -> Pair:
    recording = audio.Recording(noisy)
    rate, frames = recording.stored.sample_rate, recording.frames
    if clean is not None:
        reference = audio.Recording(clean)
        theirs = reference.stored.sample_rate
        if rate != theirs:
            raise CorpusError(f"{noisy}: sampled at {rate} Hz, expected {theirs} Hz as {clean}; resample one of them")
        refuse_length(noisy, frames, clean, reference.frames)
    return Pair(label, noisy, clean, rate, frames)


def refuse_length(noisy: Path, frames: int, clean: Path, needed: int) -> None:
    """Raises CorpusError when two recordings differ in length."""
    if frames != needed:
        raise CorpusError(f"{noisy}: {frames} samples, expected {needed} as {clean}; cut them alike")
