"""Finds sound files below a folder: those that are read, and those that are not."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import soundfile

from quell.errors import AudioError

# Suffixes that libsndfile reads. A file with another suffix is not a recording (README, CSV, ...).
OTHER_SUFFIXES = {".aif", ".aifc", ".bwf", ".iff", ".mp2", ".oga", ".opus", ".snd", ".sph"}
SUFFIXES = frozenset({f".{name.lower()}" for name in soundfile.available_formats()} | OTHER_SUFFIXES) - {".raw"}
# Of sound and films that it does not read.
UNREAD = frozenset(
    {".3gp", ".aac", ".ac3", ".amr", ".ape", ".avi", ".dff", ".dsf", ".dts", ".eac3", ".m4a", ".m4b", ".mka", ".mkv"}
    | {".mov", ".mp4", ".mpc", ".ra", ".tta", ".webm", ".wma", ".wv"}
)


def find(folder: Path) -> list[Path]:
    """Recordings under `folder` at any depth, sorted by path; links to folders are followed, hidden files and folders
    ignored.

    Raises:
        AudioError: a folder that cannot be listed.
    """
    return sorted(_with_suffix(folder, SUFFIXES))


def unread(folders: Iterable[Path]) -> Counter[str]:
    """How many files of sound under folders are not read, by their suffix. Errors as `find`."""
    return Counter(path.suffix.lower() for folder in folders for path in _with_suffix(folder, UNREAD))


def left_out(counts: Counter[str]) -> str:
    """What is left out, in words: "3 files that are not read (2 .m4a, 1 .wma), expected WAV, FLAC, ...; ..."."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return f"{counts.total()} files that are not read ({kinds}), expected WAV, FLAC, Ogg or MP3; convert them"


def _with_suffix(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise AudioError(f"{error.filename}: {error.strerror}, expected a folder that can be read; check its rights")

    ancestors: dict[str, frozenset[str]] = {}  # of each folder, with links resolved
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real, above = os.path.realpath(where), ancestors.pop(where, frozenset())
        if real in above:  # a link to an ancestor
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        ancestors |= {os.path.join(where, name): above | {real} for name in folders}  # noqa: PTH118 - os.walk's key
        paths = (Path(where, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.suffix.lower() in suffixes and (path.is_file() or path.is_symlink()))
