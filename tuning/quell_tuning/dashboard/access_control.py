"""Access control for optuna-dashboard, which has none: password, read-only mode, allowed writes, security headers."""

import base64
import binascii
import hmac
import ipaddress
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from quell_tuning import environment
from quell_tuning.errors import UsageError
from quell_tuning.loopback import is_loopback

READ_METHODS = ("GET", "HEAD", "OPTIONS")
# What a page may write. Other writes would break what Quell relies on: a study's name is also in its file and in
# folders, and a trial's scores, attributes, artifacts and state are set by its worker.
WRITES = re.compile(
    r"PUT /api/studies/\d+/(\d+/)?note|DELETE /api/studies/\d+"
    r"|POST /api/artifacts/\d+(/\d+)?|DELETE /api/artifacts/\d+/[^/]+"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # revalidated at every use, and sent again only if it changed
}
# Added to the page's own policy; and the policy of every other answer, which loads nothing but media, since a recording
# may be opened by itself.
PAGE_POLICY = "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
POLICY = f"default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; {PAGE_POLICY}"


# Wrong passwords from one address before it waits; then 1 s, doubled with every further one, and at most a minute.
FREE_GUESSES = 5
LONGEST_WAIT_S = 60.0
FORGOTTEN_S = 900.0  # after so long without a wrong one
ADDRESSES = 10_000  # that are remembered


class Refusal(BaseException):
    """A request is refused: an HTTP status, and the reason in one line.

    Not an Exception: optuna-dashboard would catch those that its storage raises.
    """

    def __init__(self, status: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or {}


def password(file: Path | None) -> str | None:
    """The password in the file, else in QUELL_DASHBOARD_PASSWORD; None without either.

    Raises:
        UsageError: it is empty or more than one line, or the file cannot be read.
    """
    if file is None:
        source, text = environment.DASHBOARD_PASSWORD.name, environment.DASHBOARD_PASSWORD.get()
        if text is None:
            return None
    else:
        source = str(file)
        try:
            text = file.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise UsageError(f"{file}: {reason}, expected a file that holds a password; check the path") from None
    if not text.strip() or "\n" in text:
        what = "more than one line" if text.strip() else "empty"
        raise UsageError(f"{source}: {what}, expected a password; write one there")
    return text


def check(host: str, password: str | None) -> None:
    """Raises UsageError where other machines could reach the dashboard without a password."""
    if password is None and not is_loopback(host):
        raise UsageError(
            f"--host: {host} without a password, expected one where others can reach the dashboard; "
            f"give --password-file or {environment.DASHBOARD_PASSWORD.name}, or leave --host out"
        )


class Guesses:
    """Wrong passwords by address, and how long an address waits before its next one is looked at.

    No thread sleeps meanwhile: there are few. A right password does not make up for wrong ones, since an attacker and a
    user may have one address, as behind a proxy.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when the last one was

    def add(self, address: str) -> None:
        key, now = _network(address), time.monotonic()
        with self._lock:
            self._wrong[key] = self._count(key, now) + 1, now
            self._wrong.move_to_end(key)
            while len(self._wrong) > ADDRESSES:
                self._wrong.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Seconds until the next password from an address is looked at; 0 or less for now."""
        key, now = _network(address), time.monotonic()
        with self._lock:
            more = self._count(key, now) - FREE_GUESSES
            return min(2.0 ** min(more, 30), LONGEST_WAIT_S) - (now - self._wrong[key][1]) if more >= 0 else 0.0

    def _count(self, key: str, now: float) -> int:
        count, last = self._wrong.get(key, (0, now))
        return count if now - last < FORGOTTEN_S else 0


def _network(address: str) -> str:
    """The address, of IPv6 its network: one machine has 2 ** 64 addresses there."""
    return address if ":" not in address else str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))


@dataclass
class Guard:
    """Passes allowed requests on to `app`; answers the others with a status and a reason.

    Args:
        password: for HTTP basic, with any user name. Without one the request's host must be a name of this machine, so
            that no other site can stand in for it (DNS rebinding).
        read_only: refuse all writes.
    """

    app: WSGIApplication
    password: str | None = field(repr=False)
    read_only: bool
    guesses: Guesses = field(default_factory=Guesses, repr=False)

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
            self._check_password(environ.get("HTTP_AUTHORIZATION", ""), environ.get("REMOTE_ADDR", ""), self.password)
        elif not is_loopback(_hostname(environ.get("HTTP_HOST", ""))):
            raise Refusal("403 Forbidden", "asked for under a name that is not this machine's own, without a password")
        path = environ["PATH_INFO"]
        if not path.isascii():  # the dashboard drops bytes that are not UTF-8, and would see another path than this one
            raise Refusal("404 Not Found", "no such page")
        if environ["REQUEST_METHOD"] in READ_METHODS:
            return
        if self.read_only:
            raise Refusal("403 Forbidden", "this dashboard is read-only")
        if _cross_site(environ):
            raise Refusal("403 Forbidden", "asked by another site's page")
        if not WRITES.fullmatch(f"{environ['REQUEST_METHOD']} {path.rstrip('/')}"):
            raise Refusal("403 Forbidden", "only notes and artifacts are written here; `quell tune` writes the rest")

    def _check_password(self, authorization: str, address: str, password: str) -> None:
        if authorization and (wait_s := self.guesses.wait_s(address)) > 0:
            again = str(math.ceil(wait_s))
            reason = f"too many wrong passwords from your address; try again in {again} s"
            raise Refusal("429 Too Many Requests", reason, {"Retry-After": again})
        if _has_password(authorization, password):
            return
        if authorization:  # a browser asks without one first
            self.guesses.add(address)
        challenge = {"WWW-Authenticate": 'Basic realm="quell", charset="UTF-8"'}
        raise Refusal("401 Unauthorized", "a password is needed, under any user name", challenge)


def _has_password(authorization: str, password: str) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    try:
        candidate = base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(candidate, password.encode())


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _cross_site(environ: WSGIEnvironment) -> bool:
    """Whether the browser says that another site's page asks; it sends the password with such a request too."""
    if "HTTP_SEC_FETCH_SITE" in environ:
        return environ["HTTP_SEC_FETCH_SITE"] not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST")


def _secured(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    original = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
    names = {name.lower() for name, _ in original}
    policy = PAGE_POLICY if "content-security-policy" in names else POLICY
    added = [(name, value) for name, value in HEADERS.items() if name.lower() not in names]
    return [*original, *added, ("Content-Security-Policy", policy)]


def _refuse(refusal: Refusal, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the reason, as the JSON that the dashboard's page shows or as a line of text."""
    if environ["PATH_INFO"].startswith("/api/"):
        kind, text = "application/json", json.dumps({"reason": str(refusal)})
    else:
        kind, text = "text/plain; charset=utf-8", f"{refusal}\n"
    body = text.encode()
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **refusal.headers}
    start_response(refusal.status, list(headers.items()))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
