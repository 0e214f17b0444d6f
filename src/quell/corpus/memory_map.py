"""The decoded corpus: one int16 memory map per split, which every worker opens.

Each process checks the samples of a recording when it first reads them, and not again. Nothing is read for its check
sum alone: each training copies the whole split into memory, and the sums take about as long as one such copy (CRC-32
2.7 GB/s, copy 2.4 GB/s; benchmarks/damage.py). A mark for the machine, instead of for the process, would miss what is
damaged afterwards.
"""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quell import audio, check_sums
from quell.corpus.recordings import Kind, stem
from quell.errors import CorpusError

# The index of a store, and what it is called once damage was found: it is then no store, and `prepare` builds another.
INDEX, WITHDRAWN = "index.json", "damaged.json"
AGAIN = "tune the study again, which decodes it again"
ITEM_BYTES = 2  # of a sample


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
    """The decoded recordings of one split. Each is peak-normalised, so its level carries no information.

    Attributes:
        samples: all recordings one after the other, shape (T,), a read-only memory map.
        file: that is mapped; None for samples in memory.
        sums: CRC-32 of each clip's samples. Those that are not here are not checked.
    """

    samples: NDArray[np.int16] = field(compare=False)  # equal clips say enough
    clips: list[Clip]
    file: Path | None = field(default=None, compare=False)
    sums: Mapping[Clip, int] = field(default_factory=dict, compare=False, repr=False)
    _checked: set[Clip] = field(default_factory=set, init=False, compare=False, repr=False)

    def of(self, kind: Kind) -> list[Clip]:
        return [clip for clip in self.clips if clip.kind == kind]

    def pairs(self) -> list[tuple[Clip, Clip]]:
        """(noisy, clean) recordings of the same speech, sample by sample; their common level is kept."""
        clean = {stem(clip.path): clip for clip in self.of("clean")}
        return [(clip, clean[stem(clip.path)]) for clip in self.of("noisy")]

    def stored(self, clip: Clip) -> NDArray[np.int16]:
        """The samples of a clip, shape (T,), in the memory map. Raises CorpusError where they are damaged."""
        samples = self.samples[clip.offset : clip.offset + clip.length]
        if clip in self.sums and clip not in self._checked:
            if zlib.crc32(samples.data) != self.sums[clip]:
                self._withdraw(clip)
            self._checked.add(clip)
        return samples

    def whole(self) -> NDArray[np.int16]:
        """`samples`, checked. Raises CorpusError where they are damaged."""
        for clip in self.clips:
            self.stored(clip)
        return self.samples

    def waveform(self, clip: Clip, part: slice = slice(None)) -> audio.FloatArray:
        """One clip, or a part of it, as float32, shape (T,), full scale at 1. Errors as `stored`."""
        return self.stored(clip)[part].astype(np.float32) / np.float32(32768)

    def _withdraw(self, clip: Clip) -> None:
        assert self.file is not None
        again = np.fromfile(self.file, np.int16, clip.length, offset=ITEM_BYTES * clip.offset)
        if zlib.crc32(again.data) != self.sums[clip]:  # else another process has built the store again meanwhile
            withdraw(self.file.parent)
        found = f"{self.file}: damaged samples of {clip.path}"
        raise CorpusError(f"{found}, expected those that were decoded; {AGAIN}")


@dataclass(frozen=True)
class Corpus:
    """A decoded corpus, opened from its store."""

    folder: Path
    fingerprint: str
    sample_rate: int
    splits: dict[str, Split]

    @property
    def has_sums(self) -> bool:
        """Whether damage can be noticed: stores of an earlier Quell have no check sums."""
        return all(len(split.sums) == len(split.clips) for split in self.splits.values())

    def minutes(self, split: str, kind: Kind) -> float:
        return sum(clip.length for clip in self.splits[split].of(kind)) / self.sample_rate / 60

    def with_validation_in_train(self) -> Self:
        """The corpus with the validation recordings added to the train split, whose samples are then in memory."""
        train, validation = self.splits["train"], self.splits["validation"]
        shifted = [replace(clip, offset=clip.offset + len(train.samples)) for clip in validation.clips]
        both = Split(np.concatenate([train.whole(), validation.whole()]), [*train.clips, *shifted])
        return replace(self, fingerprint=f"{self.fingerprint}+validation", splits={**self.splits, "train": both})


def open_store(folder: Path) -> Corpus:
    """Opens a corpus decoded by `quell.corpus.store.prepare`.

    Raises:
        CorpusError: `folder` has none, or its index or the length of a file is not as it was written.
    """
    try:
        index = check_sums.read_json(folder / INDEX)
        splits = {name: _split(folder / f"{name}.int16", name, index) for name in index["splits"]}
    except FileNotFoundError as error:
        raise CorpusError(
            f"{folder}: no decoded corpus, expected index.json; name the recordings by --corpus"
        ) from error
    except (check_sums.DamagedFileError, ValueError, LookupError, TypeError) as error:
        withdraw(folder)
        raise CorpusError(f"{folder}: a damaged corpus, expected what was decoded; {AGAIN}") from error
    return Corpus(folder, folder.name, index["sample_rate"], splits)


def _split(file: Path, name: str, index: dict[str, Any]) -> Split:
    clips = [Clip(**clip) for clip in index["splits"][name]]
    length = sum(clip.length for clip in clips)
    if not file.exists() or file.stat().st_size != ITEM_BYTES * length:
        raise ValueError(f"{file}: another length, expected {ITEM_BYTES * length} bytes")
    samples = np.memmap(file, np.int16, "r") if length else np.zeros(0, np.int16)  # an empty file cannot be mapped
    sums = dict(zip(clips, index["sums"][name], strict=True)) if "sums" in index else {}
    return Split(samples, clips, file, sums)


def withdraw(folder: Path) -> None:
    """Takes a damaged store out of use: the next `prepare` decodes what is damaged again, and copies the rest."""
    with suppress(OSError):  # in a folder that cannot be written nothing is rebuilt, and reading raises again
        (folder / INDEX).replace(folder / WITHDRAWN)
