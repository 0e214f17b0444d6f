"""Sound files and waveforms, with numpy alone."""

from quell.audio.files import SUFFIXES, UNREAD, find, left_out, unread
from quell.audio.formats import ENCODINGS, Format, Raw
from quell.audio.mono import mono, read_mono
from quell.audio.reader import READ_BLOCK, AudioFile, read, seconds
from quell.audio.resampling import FloatArray, resample
from quell.audio.writer import write, writing

__all__ = [
    "ENCODINGS",
    "READ_BLOCK",
    "SUFFIXES",
    "UNREAD",
    "AudioFile",
    "FloatArray",
    "Format",
    "Raw",
    "find",
    "left_out",
    "mono",
    "read",
    "read_mono",
    "resample",
    "seconds",
    "unread",
    "write",
    "writing",
]
