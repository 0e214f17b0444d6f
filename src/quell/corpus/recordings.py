"""A corpus's configuration, its recordings, and the noisy/clean partners among them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, Self

Kind = Literal["clean", "noisy", "noise", "room"]
SHARES: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
FOLDERS = "folders"


@dataclass(frozen=True)
class Recording:
    """A file of the corpus, with its group and split."""

    kind: Kind
    path: str  # relative to its folder, with forward slashes
    group: str
    category: str  # top folder ("rain"), the stratum of the splits; "" for clean speech
    split: str
    digest: str = ""  # of the file's bytes, by `scan`

    @property
    def name(self) -> str:
        """Name in `CorpusConfig.skip`."""
        return f"{self.kind}/{self.path}"


@dataclass(frozen=True)
class CorpusConfig:
    """Recordings of a corpus, their rate and their groups.

    They are clean speech and noise to be mixed, or clean speech and noisy versions of it at the same paths but for the
    suffix.

    Grouping rules are explained by `quell.corpus.splits.group_of`.
    """

    clean: Path
    noise: Path | None
    sample_rate: int = 16_000  # Hz
    group_clean: str = "parent"
    group_noise: str = "file"
    # Share of each split; or FOLDERS, where each side has a folder for each split; or the path of a CSV file with the
    # columns path (of a recording or folder, relative to the CSV file) and split.
    splits: Mapping[str, float] | str = field(default_factory=lambda: dict(SHARES))
    hours: float = 0.0  # of clean speech, over all splits; 0 means all
    rooms: Path | None = None  # folder of room impulse responses, for training only
    skip: frozenset[str] = frozenset()  # "clean/<path>", "noise/<path>": recordings to leave out
    noisy: Path | None = None  # noisy versions of the clean recordings, instead of noise
    kinds: tuple[str, ...] = ()  # folders of noise to use; empty means all
    trim_db: float = 0.0  # beginnings and ends of clean speech this far below its loudest frame are cut; 0 keeps them
    remix: bool = False  # the noise of pairs is also mixed with other speech

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of each split, by which groups are assigned and `hours` divided."""
        return SHARES if isinstance(self.splits, str) else self.splits

    def folder(self, kind: Kind) -> Path:
        folder = {"clean": self.clean, "noisy": self.noisy, "noise": self.noise, "room": self.rooms}[kind]
        assert folder is not None
        return folder

    def path(self, recording: Recording) -> Path:
        return self.folder(recording.kind) / recording.path

    def without(self, names: Iterable[str]) -> Self:
        """The configuration without some recordings, by `Recording.name`."""
        return replace(self, skip=self.skip | frozenset(names))


def stem(path: str) -> str:
    """The path without suffix, which a noisy recording and its clean version share."""
    return str(PurePosixPath(path).with_suffix(""))


def partners(recordings: Iterable[Recording]) -> list[tuple[Recording, Recording]]:
    """(noisy, clean) recordings of the same path but for the suffix."""
    sides: dict[str, dict[str, Recording]] = {"clean": {}, "noisy": {}}
    for recording in recordings:
        if recording.kind in sides:
            sides[recording.kind].setdefault(stem(recording.path), recording)
    return [(noisy, sides["clean"][name]) for name, noisy in sides["noisy"].items() if name in sides["clean"]]
