"""Recordings on disk: which there are, what must stay together, and which split each belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

Kind = Literal["clean", "noisy", "noise", "room"]
SHARES: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
FOLDERS = "folders"


@dataclass(frozen=True)
class CorpusConfig:
    """Which recordings, at which rate, and what must stay together: clean speech and noise to be mixed, or clean speech
    and noisy versions of it, by the same paths but for the suffix.

    Grouping rules are explained by `quell.corpus.splits.group_of`.
    """

    clean: Path
    noise: Path | None
    sample_rate: int = 16_000  # Hz
    group_clean: str = "parent"
    group_noise: str = "file"
    # Shares by which groups are dealt out; or FOLDERS, when each side has a folder for each split; or the path of a
    # CSV file with the columns path (of a recording or a folder, from where the CSV file is) and split.
    splits: Mapping[str, float] | str = field(default_factory=lambda: dict(SHARES))
    hours: float = 0.0  # of clean speech, over all splits; 0 takes everything
    rooms: Path | None = None  # folder of room impulse responses, heard in training only
    skip: frozenset[str] = frozenset()  # "clean/<path>", "noise/<path>": recordings to be left out
    noisy: Path | None = None  # noisy versions of the clean recordings, instead of noise
    kinds: tuple[str, ...] = ()  # folders of noise that are taken; all without any
    trim_db: float = 0.0  # of the loudest: softer beginnings and ends of clean speech are cut off; 0 keeps them
    remix: bool = False  # the noise of the pairs is mixed with other speech, too

    @property
    def shares(self) -> Mapping[str, float]:
        """Of each split, where they are dealt out or `hours` are."""
        return SHARES if isinstance(self.splits, str) else self.splits

    def folder(self, kind: Kind) -> Path:
        """Where recordings of a kind are."""
        found = {"clean": self.clean, "noisy": self.noisy, "noise": self.noise, "room": self.rooms}[kind]
        assert found is not None
        return found

    def without(self, names: Iterable[str]) -> CorpusConfig:
        """The same but for some recordings."""
        return replace(self, skip=self.skip | frozenset(names))


@dataclass(frozen=True)
class Recording:
    """One file of the corpus and where it belongs."""

    kind: Kind
    path: str  # relative to its folder, with forward slashes
    group: str
    category: str  # top folder ("rain"), the stratum of the splits; "" for clean speech
    split: str
    digest: str = ""  # of the file's bytes, by `scan`

    @property
    def name(self) -> str:
        """What `CorpusConfig.skip` calls it."""
        return f"{self.kind}/{self.path}"


def stem(path: str) -> str:
    """What a noisy recording and its clean version have in common: the path without suffix."""
    return str(PurePosixPath(path).with_suffix(""))


def partners(recordings: Iterable[Recording]) -> list[tuple[Recording, Recording]]:
    """(noisy, clean) recordings of the same path but for the suffix."""
    sides: dict[str, dict[str, Recording]] = {"clean": {}, "noisy": {}}
    for recording in recordings:
        if recording.kind in sides:
            sides[recording.kind].setdefault(stem(recording.path), recording)
    return [(noisy, sides["clean"][name]) for name, noisy in sides["noisy"].items() if name in sides["clean"]]
