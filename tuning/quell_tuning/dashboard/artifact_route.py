"""Serves the artifacts that a study or trial lists, with HTTP ranges, never as HTML.

The dashboard's own route has no ranges, so that a browser cannot seek in a recording, and serves an HTML file as a page
of the dashboard, with all its rights.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from quell_tuning.artifacts.artifact_store import ArtifactStore, has_sum, is_damaged
from quell_tuning.dashboard.access_control import Refusal
from quell_tuning.optuna_private import ARTIFACT_KEY

log = logging.getLogger("quell")

# /artifacts/<study>/<artifact> and /artifacts/<study>/<trial>/<artifact>; numbers in a database have at most 18 digits.
PATH = re.compile(r"/artifacts/(?P<study>\d{1,18})/(?:(?P<trial>\d{1,18})/)?(?P<artifact>[0-9a-fA-F-]{1,64})")
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)
# Types that a browser shows or plays inside the page and that hold no scripts. An SVG file may hold some.
INLINE = re.compile(r"audio/.*|image/(png|jpeg|webp|gif)")
CHUNK = 1 << 16


@dataclass
class Artifacts:
    """Answers all paths under /artifacts; other requests go on to `app`."""

    app: WSGIApplication
    storage: BaseStorage
    store: ArtifactStore

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if not path.startswith("/artifacts"):
            return self.app(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise Refusal("405 Method Not Allowed", "artifacts are read here, and uploaded under /api/artifacts")
        match = PATH.fullmatch(path)
        listed = match and self._listed(match)
        if not listed:
            raise Refusal("404 Not Found", "no such artifact, expected one that a study or a trial lists")
        headers = [*_headers(listed), ("ETag", f'"{listed["artifact_id"]}"')]
        return self._send(listed["artifact_id"], headers, environ, start_response)

    def _listed(self, match: re.Match[str]) -> dict[str, Any] | None:
        """What the study or trial lists of an artifact; None when it does not list it."""
        study, trial = int(match["study"]), match["trial"]
        try:
            if trial is None:
                attributes: Mapping[str, Any] = self.storage.get_study_system_attrs(study)
            else:
                attributes = self.storage.get_trial(int(trial)).system_attrs
        except KeyError:
            return None
        listed = json.loads(attributes.get(ARTIFACT_KEY + match["artifact"], "null"))  # null: deleted on the page
        return None if listed is None else {**listed, "artifact_id": match["artifact"]}

    def _send(
        self, artifact: str, headers: list[tuple[str, str]], environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        if environ.get("HTTP_IF_NONE_MATCH") == f'"{artifact}"':
            start_response("304 Not Modified", headers)
            return []
        file = self._open(artifact)
        size = file.seek(0, os.SEEK_END)
        requested = _requested(environ, artifact, size)
        part = range(size) if requested is None else requested
        if requested is not None and not part:
            file.close()
            whole = {"Content-Range": f"bytes */{size}"}
            raise Refusal("416 Range Not Satisfiable", f"{size} bytes, expected a range that begins in them", whole)
        headers += [("Accept-Ranges", "bytes"), ("Content-Length", str(len(part)))]
        if requested:
            headers.append(("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}"))
        start_response("206 Partial Content" if requested else "200 OK", headers)
        if environ["REQUEST_METHOD"] == "HEAD":
            file.close()
            return []
        return _Pieces(file, part)

    def _open(self, artifact: str) -> BinaryIO:
        """The artifact as a seekable file, checked. One of ours is under 1 MB, as most that are uploaded are."""
        try:
            file = self.store.open_reader(artifact)
            if file.seekable() and not has_sum(artifact):
                return file
            with file:
                content = file.read()
        except ArtifactNotFound:
            raise Refusal("404 Not Found", f"{artifact}: listed, but its file is gone from the artifacts") from None
        except Exception as error:  # stores raise errors of their own: OSError, those of botocore
            log.warning("artifact %s: %s: %s", artifact, type(error).__name__, " ".join(str(error).split()))
            raise Refusal("503 Service Unavailable", f"{artifact}: the artifacts cannot be read now") from error
        if is_damaged(artifact, content):
            raise Refusal("404 Not Found", f"{artifact}: damaged, expected the content that was stored")
        return BytesIO(content)


def _requested(environ: WSGIEnvironment, artifact: str, size: int) -> range | None:
    """The bytes that a request asks for (RFC 9110, section 14); empty when the file has none of them.

    None, the whole file, without a range, for several ranges, for one that cannot be parsed, and for one of another
    version.
    """
    match = RANGE.fullmatch(environ.get("HTTP_RANGE", "").strip())
    if not match or environ.get("HTTP_IF_RANGE", f'"{artifact}"') != f'"{artifact}"':
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size) if last else None
    if not last:
        return range(int(first), size)
    return range(int(first), min(size, int(last) + 1)) if int(first) <= int(last) else None


@dataclass
class _Pieces:
    """A part of a file in chunks; the server closes it, also when the client disconnects."""

    file: BinaryIO
    part: range

    def __iter__(self) -> Iterator[bytes]:
        self.file.seek(self.part.start)
        for start in self.part[::CHUNK]:
            yield self.file.read(min(CHUNK, self.part.stop - start))

    def close(self) -> None:
        self.file.close()


def _headers(listed: Mapping[str, Any]) -> list[tuple[str, str]]:
    mimetype = str(listed.get("mimetype"))
    if listed.get("encoding") or not TYPE.fullmatch(mimetype):  # compressed: the type is that of the content
        mimetype = "application/octet-stream"
    disposition = "inline" if INLINE.fullmatch(mimetype) else "attachment"
    name = Path(str(listed.get("filename") or "")).name or "artifact"
    plain = re.sub(r"[^\w.() -]", "_", name, flags=re.ASCII)
    return [
        ("Content-Type", mimetype),
        ("Content-Disposition", f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"),
        ("Cache-Control", "private, max-age=86400, immutable"),  # the content of an id never changes
    ]
