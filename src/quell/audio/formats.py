"""How sound is stored: what is needed to read samples without a header, and to write a file like another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of raw samples: what others call them, and libsndfile.
ENCODINGS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
FLOATS = ("FLOAT", "DOUBLE")
LOSSY = ("VORBIS", "OPUS", "MPEG")  # so their names begin
DEEP = ("20", "24", "32")  # so the names of those with more than 16 bits end
LOUDEST = 16.0  # 24 dB above full scale


@dataclass(frozen=True)
class Format:
    """How a sound file is stored: what is needed to write another one like it."""

    sample_rate: int  # Hz
    container: str  # libsndfile's word: "WAV", "FLAC", "OGG"
    subtype: str  # "PCM_16", "FLOAT", "VORBIS"
    endian: str = "FILE"
    tags: tuple[tuple[str, str], ...] = ()  # title, artist, ...

    def __str__(self) -> str:
        return f"{self.container}/{self.subtype} at {self.sample_rate} Hz"

    @property
    def limit(self) -> float:
        """The loudest sample that can be stored; full scale is 1."""
        if self.subtype in FLOATS:
            return math.inf
        # Some encoders end the process at 120 dB above full scale.
        return LOUDEST if self.subtype.startswith(LOSSY) else 1.0

    @property
    def highest(self) -> float:
        """`limit`, or the first step of 16 or 24 bits below 1, which some formats take for -1."""
        return 1 - 2.0 ** -(23 if self.subtype.endswith(DEEP) else 15) if self.limit == 1 else self.limit


@dataclass(frozen=True)
class Raw:
    """What samples without a header are: interleaved, little-endian."""

    sample_rate: int  # Hz
    channels: int
    subtype: str  # "PCM_16", "PCM_24", "PCM_32" or "FLOAT"
