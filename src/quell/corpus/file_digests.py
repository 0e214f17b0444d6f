"""Digests of files, remembered: a file of the same size and times is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from stat import S_ISREG

from quell.atomic import replacing
from quell.errors import AudioError

# A file that was written so shortly before it was read may be written again within the clock's tick of its times.
SETTLED_S = 2.0


class Digests:
    """Of the bytes of files; `save` remembers them in a file of this folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "digests.json"
        try:
            self._known: dict[str, list[object]] = dict(json.loads(self._file.read_text()))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._changed = False

    def of(self, path: Path) -> str:
        """32 hex digits.

        Raises:
            AudioError: the file cannot be read.
        """
        try:
            stat = path.stat()
            if not S_ISREG(stat.st_mode):  # a pipe would be waited for
                raise AudioError(f"{path}: not a file, expected a sound file; repair it or leave it out")
            now = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            name = os.path.abspath(path)  # noqa: PTH100 - a link is another file's name
            known = self._known.get(name)
            if isinstance(known, list) and known[:-1] == now:
                return str(known[-1])
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise AudioError(f"{path}: {error.strerror}, expected a sound file; repair it or leave it out") from error
        if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_S:
            self._known[name] = [*now, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Best effort: what cannot be remembered is read again."""
        if not self._changed:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as partial:
                partial.write_text(json.dumps(self._known))
        except OSError:
            return
