"""What stands between a network and the dashboard, which itself lets anybody do anything: who may ask, for what, and
what a browser may do with the answer."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from quell_tuning import environment
from quell_tuning.errors import UsageError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

READING = ("GET", "HEAD", "OPTIONS")
# What a page may write. All else would break what Quell relies on: a study's name is in its file and in folders, and a
# trial's scores, attributes, artifacts and end are its worker's.
WRITING = re.compile(
    r"PUT /api/studies/\d+/(\d+/)?note|DELETE /api/studies/\d+"
    r"|POST /api/artifacts/\d+(/\d+)?|DELETE /api/artifacts/\d+/[^/]+"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again every time, and sent again where it changed
}
# Of the page, beside its own policy; and of all else, which loads nothing. A recording opened by itself is media.
PAGE_POLICY = "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
POLICY = f"default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; {PAGE_POLICY}"


class Refusal(Exception):
    """A request that is not answered: an HTTP status, and a line that says why."""

    def __init__(self, status: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or {}


def password(file: Path | None) -> str | None:
    """What was asked for by a file, else by QUELL_DASHBOARD_PASSWORD; None without either.

    Raises:
        UsageError: it is empty, or the file cannot be read.
    """
    if file is None:
        source, found = environment.DASHBOARD_PASSWORD.name, environment.DASHBOARD_PASSWORD.get()
        if found is None:
            return None
    else:
        source = str(file)
        try:
            found = file.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise UsageError(f"{file}: {reason}, expected a file that holds a password; check the path") from None
    if not found.strip() or "\n" in found:
        what = "more than one line" if found.strip() else "empty"
        raise UsageError(f"{source}: {what}, expected a password; write one there")
    return found


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is this machine's own and nobody else's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check(host: str, password: str | None) -> None:
    """Raises UsageError for an address that others reach without a password."""
    if password is None and not is_loopback(host):
        raise UsageError(
            f"--host: {host} without a password, expected one where others can reach the dashboard; "
            f"give --password-file or {environment.DASHBOARD_PASSWORD.name}, or leave --host out"
        )


class Guard:
    """Lets through what may be asked for; the rest is answered with a status and a reason.

    Args:
        password: for HTTP basic, with any user name. Without one only this machine is let in: names of it in the
            request, too, so that no other site can pass itself off as this one (DNS rebinding).
        read_only: refuse all that writes.
    """

    def __init__(self, app: WSGIApplication, password: str | None, read_only: bool) -> None:
        self.app = app
        self.password = password
        self.read_only = read_only

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            return start_response(status, _secured(headers), exc_info)

        try:
            self._check(environ)
            return self.app(environ, start)
        except Refusal as refusal:
            return _refuse(refusal, environ, start)

    def _check(self, environ: WSGIEnvironment) -> None:
        if self.password is not None:
            if not _knows(environ.get("HTTP_AUTHORIZATION", ""), self.password):
                asked = {"WWW-Authenticate": 'Basic realm="quell", charset="UTF-8"'}
                raise Refusal("401 Unauthorized", "a password is needed, under any user name", asked)
        elif not is_loopback(_hostname(environ.get("HTTP_HOST", ""))):
            raise Refusal("403 Forbidden", "asked for under a name that is not this machine's own, without a password")
        path = environ["PATH_INFO"]
        if not path.isascii():  # the dashboard leaves out what is not UTF-8, and would see another path than we
            raise Refusal("404 Not Found", "no such page")
        if environ["REQUEST_METHOD"] in READING:
            return
        if self.read_only:
            raise Refusal("403 Forbidden", "this dashboard is read-only")
        if _from_elsewhere(environ):
            raise Refusal("403 Forbidden", "asked by another site's page")
        if not WRITING.fullmatch(f"{environ['REQUEST_METHOD']} {path.rstrip('/')}"):
            raise Refusal("403 Forbidden", "only notes and artifacts are written here; all else is `quell tune`'s")


def _knows(authorization: str, password: str) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    try:
        given = base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(given, password.encode())


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _from_elsewhere(environ: WSGIEnvironment) -> bool:
    """Whether a browser says that another site's page asks; it sends the password along with that, too."""
    if "HTTP_SEC_FETCH_SITE" in environ:
        return environ["HTTP_SEC_FETCH_SITE"] not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")


def _secured(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
    given = {name.lower() for name, _ in kept}
    policy = PAGE_POLICY if "content-security-policy" in given else POLICY
    ours = [(name, value) for name, value in HEADERS.items() if name.lower() not in given]
    return [*kept, *ours, ("Content-Security-Policy", policy)]


def _refuse(refusal: Refusal, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The reason as the dashboard's page shows it, or as a line of text."""
    if environ["PATH_INFO"].startswith("/api/"):
        kind, text = "application/json", json.dumps({"reason": str(refusal)})
    else:
        kind, text = "text/plain; charset=utf-8", f"{refusal}\n"
    body = text.encode()
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **refusal.headers}
    start_response(refusal.status, list(headers.items()))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
