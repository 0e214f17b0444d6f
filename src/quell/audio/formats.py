"""How sound files are stored: container, sub-format and tags of a file, and the layout of samples without a header."""

import math
from dataclasses import dataclass

# Encodings of samples without a header: ffmpeg's name and libsndfile's.
ENCODINGS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
FLOATS = ("FLOAT", "DOUBLE")
LOSSY = ("VORBIS", "OPUS", "MPEG")  # prefixes of their names
DEEP = ("20", "24", "32")  # suffixes of sub-formats with more than 16 bits
LOUDEST = 16.0  # 24 dB above full scale


@dataclass(frozen=True)
class Format:
    """All that is needed to write a sound file like another one, but for the channels."""

    sample_rate: int  # Hz
    container: str  # libsndfile's name: "WAV", "FLAC", "OGG"
    subtype: str  # "PCM_16", "FLOAT", "VORBIS"
    endian: str = "FILE"
    tags: tuple[tuple[str, str], ...] = ()  # title, artist, ...

    def __str__(self) -> str:
        return f"{self.container}/{self.subtype} at {self.sample_rate} Hz"

    @property
    def limit(self) -> float:
        """The largest magnitude of a sample that can be stored; full scale is 1."""
        if self.subtype in FLOATS:
            return math.inf
        # Some lossy encoders end the process at 120 dB above full scale.
        return LOUDEST if self.subtype.startswith(LOSSY) else 1.0

    @property
    def highest(self) -> float:
        """The largest positive sample: `limit`, or one step of 16 or 24 bits below 1, which some formats wrap to -1."""
        return 1 - 2.0 ** -(23 if self.subtype.endswith(DEEP) else 15) if self.limit == 1 else self.limit


@dataclass(frozen=True)
class Raw:
    """How samples without a header are stored: interleaved, little-endian."""

    sample_rate: int  # Hz
    channels: int
    subtype: str  # "PCM_16", "PCM_24", "PCM_32" or "FLOAT"
