"""The decoded corpus: one int16 memory map per split, which every worker opens."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quell import audio
from quell.corpus.recordings import Kind, stem
from quell.errors import CorpusError


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
    """

    samples: NDArray[np.int16] = field(compare=False)  # equal clips say enough
    clips: list[Clip]

    def of(self, kind: Kind) -> list[Clip]:
        return [clip for clip in self.clips if clip.kind == kind]

    def pairs(self) -> list[tuple[Clip, Clip]]:
        """(noisy, clean) recordings of the same speech, sample by sample; their common level is kept."""
        clean = {stem(clip.path): clip for clip in self.of("clean")}
        return [(clip, clean[stem(clip.path)]) for clip in self.of("noisy")]

    def stored(self, clip: Clip) -> NDArray[np.int16]:
        """The samples of a clip, shape (T,), in the memory map."""
        return self.samples[clip.offset : clip.offset + clip.length]

    def waveform(self, clip: Clip, part: slice = slice(None)) -> audio.FloatArray:
        """One clip, or a part of it, as float32, shape (T,), full scale at 1."""
        return self.stored(clip)[part].astype(np.float32) / np.float32(32768)


@dataclass(frozen=True)
class Corpus:
    """A decoded corpus, opened from its store."""

    folder: Path
    fingerprint: str
    sample_rate: int
    splits: dict[str, Split]

    def minutes(self, split: str, kind: Kind) -> float:
        return sum(clip.length for clip in self.splits[split].of(kind)) / self.sample_rate / 60

    def with_validation_in_train(self) -> Self:
        """The corpus with the validation recordings added to the train split, whose samples are then in memory."""
        train, validation = self.splits["train"], self.splits["validation"]
        shifted = [replace(clip, offset=clip.offset + len(train.samples)) for clip in validation.clips]
        both = Split(np.concatenate([train.samples, validation.samples]), [*train.clips, *shifted])
        return replace(self, fingerprint=f"{self.fingerprint}+validation", splits={**self.splits, "train": both})


def open_store(folder: Path) -> Corpus:
    """Opens a corpus decoded by `quell.corpus.store.prepare`.

    Raises:
        CorpusError: `folder` has none.
    """
    try:
        index = json.loads((folder / "index.json").read_text())
    except FileNotFoundError as error:
        raise CorpusError(
            f"{folder}: no decoded corpus, expected index.json; name the recordings by --corpus"
        ) from error
    splits = {
        name: Split(_mapped(folder / f"{name}.int16"), [Clip(**clip) for clip in clips])
        for name, clips in index["splits"].items()
    }
    return Corpus(folder, folder.name, index["sample_rate"], splits)


def _mapped(path: Path) -> NDArray[np.int16]:
    if path.stat().st_size == 0:  # of silent recordings only; an empty file cannot be mapped
        return np.zeros(0, np.int16)
    return np.memmap(path, np.int16, "r")
