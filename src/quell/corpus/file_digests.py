"""Content digests of files, cached by size and times, so that unchanged files are not read again."""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from quell import check_sums
from quell.atomic import replacing
from quell.errors import AudioError

# A file modified less than this before it is read may change again without a change of its times.
SETTLED_S = 2.0


class Digests:
    """Digests of files, cached in a file of `folder` by `save`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "digests.json"
        try:
            self._cache: dict[str, list[object]] = dict(check_sums.read_json(self._file))
        except (OSError, ValueError, TypeError, AttributeError, check_sums.DamagedFileError):
            self._cache = {}
        self._changed = False

    def of(self, path: Path) -> str:
        """Digest of a file's bytes, 32 hex digits.

        Raises:
            AudioError: the file cannot be read.
        """
        try:
            stat = path.stat()
            if not S_ISREG(stat.st_mode):  # reading a pipe would block
                raise AudioError(f"{path}: not a file, expected a sound file; repair it or leave it out")
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            name = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
            entry = self._cache.get(name)
            if isinstance(entry, list) and entry[:-1] == state:
                return str(entry[-1])
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise AudioError(f"{path}: {error.strerror}, expected a sound file; repair it or leave it out") from error
        if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_S:
            self._cache[name] = [*state, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Writes the cache; without it, files are read again."""
        if self._changed:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._file) as partial:
                    partial.write_text(check_sums.sealed_json(self._cache))
