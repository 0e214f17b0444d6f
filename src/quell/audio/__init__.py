"""Sound files and waveforms, with numpy alone."""

from quell.audio.formats import ENCODINGS, Format, Raw
from quell.audio.mono import mono, read_mono
from quell.audio.reader import READ_BLOCK, SUFFIXES, AudioFile, find, read, seconds
from quell.audio.resampling import FloatArray, resample
from quell.audio.writer import write, writing

__all__ = [
    "ENCODINGS",
    "READ_BLOCK",
    "SUFFIXES",
    "AudioFile",
    "FloatArray",
    "Format",
    "Raw",
    "find",
    "mono",
    "read",
    "read_mono",
    "resample",
    "seconds",
    "write",
    "writing",
]
