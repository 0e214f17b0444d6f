"""Answers in JSON, each computed and encoded once for all who ask for it at the same time."""

import gzip
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from quell_tuning.dashboard.access_control import READ_METHODS

# Smaller answers are not compressed: on a network that gains nothing.
SMALL_BYTES = 4096
# The same for everybody who may read. All trials of a study of 10,000 take seconds to encode.
SHARED = re.compile(r"/api/studies(/\d+(/param_importances)?)?")
# An answer is sent again until it is this old, or as old as it took to compute: then half of a core is left to others,
# however many pages are open. Each asks every 10 s, and after what it wrote itself.
FRESH_S = 2.0
KEPT = 32  # answers, the largest of a few MB


class Answer(NamedTuple):
    """An answer as it is sent."""

    status: str
    headers: dict[str, str]
    body: Iterable[bytes]
    exc_info: Any


class SharedAnswers:
    """Answers by their request: one that is being computed, or is still fresh, serves all who ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._answers: OrderedDict[Any, Future[Answer]] = OrderedDict()
        self._fresh_until: dict[Any, float] = {}  # by the monotonic clock; without those that are being computed

    def get(self, key: Any, compute: Callable[[], Answer]) -> Answer:
        with self._lock:
            first = key not in self._answers or time.monotonic() > self._fresh_until.get(key, math.inf)
            if first:
                self._forget(key)
                self._answers[key] = Future()
                while len(self._answers) > KEPT:
                    self._forget(next(iter(self._answers)))
            answer = self._answers[key]
        if first:
            self._compute(key, answer, compute)
        return answer.result()

    def clear(self) -> None:
        """Forgets all answers, also those that are being computed: something was written."""
        with self._lock:
            self._answers.clear()
            self._fresh_until.clear()

    def _compute(self, key: Any, answer: Future[Answer], compute: Callable[[], Answer]) -> None:
        began = time.monotonic()
        try:
            answer.set_result(compute())
        except BaseException as error:  # a refusal is none of Exception
            answer.set_exception(error)
        with self._lock:
            if self._answers.get(key) is not answer:  # cleared meanwhile
                return
            if answer.exception() is None and answer.result().status.startswith("200"):
                now = time.monotonic()
                self._fresh_until[key] = now + max(FRESH_S, now - began)
            else:
                self._forget(key)

    def _forget(self, key: Any) -> None:
        self._answers.pop(key, None)
        self._fresh_until.pop(key, None)


@dataclass
class JsonAnswers:
    """Makes JSON answers never empty, as the page's scripts need, gzips them (to a tenth, with 1000 trials), and
    computes an answer that several ask for once."""

    app: WSGIApplication
    shared: SharedAnswers = field(default_factory=SharedAnswers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The dashboard's static files fail without it.
        encodings = environ.setdefault("HTTP_ACCEPT_ENCODING", "")
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].rstrip("/")
        if method == "GET" and SHARED.fullmatch(path):
            key = (path, environ.get("QUERY_STRING", ""), "gzip" in encodings)
            answer = self.shared.get(key, lambda: self._answer(environ))
        else:
            answer = self._answer(environ)
            if method not in READ_METHODS:
                self.shared.clear()
        start_response(answer.status, list(answer.headers.items()), answer.exc_info)
        return answer.body

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        started: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            started[:] = status, dict(headers), exc_info

        body = self.app(environ, start)
        status, headers, exc_info = started
        if status.startswith("204"):  # optuna-dashboard 0.21 parses the body as JSON, fails, and reports an error
            return Answer("200 OK", {"Content-Type": "application/json", "Content-Length": "2"}, [b"{}"], exc_info)
        if headers.get("Content-Type") != "application/json":
            return Answer(status, headers, body, exc_info)
        whole = b"".join(body)
        if len(whole) > SMALL_BYTES and "gzip" in environ["HTTP_ACCEPT_ENCODING"]:
            whole = gzip.compress(whole, compresslevel=1, mtime=0)
            headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(whole)), "Vary": "Accept-Encoding"}
        return Answer(status, headers, [whole], exc_info)
