"""Whoever asks at the same time gets one answer, computed and encoded once; after a write it is computed again."""

import gzip
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from quell_tuning.dashboard import json_answers
from quell_tuning.dashboard.access_control import Refusal
from quell_tuning.dashboard.json_answers import JsonAnswers


class Page:
    """An application that counts what it computes, and waits in it for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.computed: list[str] = []
        self.status = "200 OK"
        self.answers = JsonAnswers(self)

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        self.computed.append(environ["PATH_INFO"])
        number = len(self.computed)
        self.go.wait(30)
        if self.status == "refused":
            raise Refusal("503 Service Unavailable", "away")
        start_response(self.status, [("Content-Type", "application/json")])
        return [json.dumps({"number": number, "much": "x" * 5000}).encode()]

    def ask(
        self, path: str = "/api/studies/1", query: str = "after=0", method: str = "GET", encodings: str = "gzip"
    ) -> Any:
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_ACCEPT_ENCODING": encodings,
        }
        started: list[Any] = []
        body = b"".join(self.answers(environ, lambda *given: started.append(given)))
        return started[0][0], json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)["number"]


@pytest.fixture
def page() -> Page:
    return Page()


def test_twenty_clients_at_the_same_moment_get_one_answer(page: Page, wait_for: Callable[..., Any]) -> None:
    page.go.clear()
    with ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(page.ask) for _ in range(20)]
        wait_for(lambda: page.computed)
        page.go.set()
        assert {answer.result() for answer in asked} == {("200 OK", 1)}


def test_an_answer_is_fresh_for_a_moment_and_of_its_request_only(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [page.ask()[1] for _ in range(3)] == [1, 1, 1]
    assert page.ask(query="after=7")[1] == 2
    assert page.ask(encodings="")[1] == 3
    assert page.ask("/api/studies/2")[1] == 4
    assert [page.ask("/api/meta")[1] for _ in range(2)] == [5, 6]  # of no study: not shared
    now = time.monotonic()
    for later_s, number in ((1.9, 1), (2.1, 7)):
        monkeypatch.setattr(json_answers.time, "monotonic", lambda later_s=later_s: now + later_s)
        assert page.ask()[1] == number


def test_an_answer_that_took_long_is_fresh_for_as_long(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(json_answers.time, "monotonic", lambda: clock[0])
    page.go.wait = lambda timeout: clock.__setitem__(0, clock[0] + 8.0)  # type: ignore[method-assign]
    assert page.ask()[1] == 1
    for now, number in ((15.9, 1), (16.1, 2)):
        clock[0] = now
        assert page.ask()[1] == number


def test_what_a_client_wrote_is_in_the_next_answer(page: Page, wait_for: Callable[..., Any]) -> None:
    page.go.clear()
    with ThreadPoolExecutor(1) as other:
        early = other.submit(page.ask)
        wait_for(lambda: page.computed)
        page.go.set()
        page.ask("/api/studies/1/note", method="PUT")
        late = page.ask()[1]
    assert (late, early.result()[1]) == (3, 1)
    assert page.ask()[1] == 3


@pytest.mark.parametrize("status", ["404 Not Found", "refused"])
def test_an_error_is_not_kept(page: Page, status: str) -> None:
    page.status = status
    if status == "refused":
        with pytest.raises(Refusal):
            page.ask()
    else:
        assert page.ask()[0] == status
    page.status = "200 OK"
    assert page.ask() == ("200 OK", 2)


def test_no_more_answers_are_kept_than_there_is_room_for(page: Page) -> None:
    for number in range(json_answers.KEPT + 1):
        page.ask(query=f"after={number}")
    assert page.ask(query="after=1")[1] == 2
    assert page.ask(query="after=0")[1] == json_answers.KEPT + 2
