"""Who may open the dashboard, what they may do there, and the headers of every answer."""

import base64
import json
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest
from quell_tuning import environment
from quell_tuning.dashboard import access_control
from quell_tuning.dashboard.access_control import Guard
from quell_tuning.errors import UsageError

PASSWORD = "open: sésame, 100 %"


def page(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """An application in the dashboard's place."""
    start_response("200 OK", [("Content-Security-Policy", "default-src 'self'"), ("Access-Control-Allow-Origin", "*")])
    return [b"page"]


def ask(
    app: Guard, path: str = "/dashboard", method: str = "GET", **headers: str
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body; headers of the request have the names of WSGI, such as HTTP_HOST."""
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_HOST": "127.0.0.1:8080", **headers}
    setup_testing_defaults(environ)
    started: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(app(environ, lambda status, headers, exc_info=None: started.append((status, headers))))
    ((status, answered),) = started
    return int(status[:3]), answered, body


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        basic("me", "sesame"),
        basic("me", ""),
        basic("me", PASSWORD + " "),
        basic(PASSWORD, "x"),
        basic("me", PASSWORD).removeprefix("Basic "),
        basic("me", PASSWORD).replace("Basic", "Bearer"),
        "Basic",
        "Basic %%%",
        "Basic \xff",
        "Basic /w==",  # a byte that is no UTF-8
    ],
)
def test_without_the_password_every_request_is_refused(authorization: str) -> None:
    for method, path in (("GET", "/dashboard"), ("GET", "/static/bundle.js"), ("DELETE", "/api/studies/1")):
        status, headers, body = ask(Guard(page, PASSWORD, False), path, method, HTTP_AUTHORIZATION=authorization)
        assert (status, b"page" in body) == (401, False)
        assert ("WWW-Authenticate", 'Basic realm="quell", charset="UTF-8"') in headers


@pytest.mark.parametrize("user", ["", "me", "jürgen"])
def test_the_password_is_enough_with_any_user_name_and_host_name(user: str) -> None:
    access = {"HTTP_AUTHORIZATION": basic(user, PASSWORD), "HTTP_HOST": "lab.example"}
    assert ask(Guard(page, PASSWORD, False), **access)[::2] == (200, b"page")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("127.8.9.1", 200),
        ("localhost:9999", 200),
        ("LOCALHOST", 200),
        ("[::1]:8080", 200),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("192.168.0.7:8080", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_password_only_host_names_of_this_machine_are_served(host: str, status: int) -> None:
    assert ask(Guard(page, None, False), HTTP_HOST=host)[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "FROBNICATE"])
def test_read_only_mode_refuses_writes(method: str) -> None:
    for path in ("/api/studies/1", "/api/studies/1/note", "/api/artifacts/1", "/"):
        assert ask(Guard(page, None, True), path, method)[0] == 403
    for read_method in ("GET", "HEAD", "OPTIONS"):
        assert ask(Guard(page, None, True), "/api/studies/1", read_method)[0] == 200


@pytest.mark.parametrize("password", [None, PASSWORD])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"HTTP_SEC_FETCH_SITE": "same-origin", "HTTP_ORIGIN": "https://proxy.example"}, 200),
        ({"HTTP_SEC_FETCH_SITE": "none"}, 200),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "same-site", "HTTP_ORIGIN": "http://127.0.0.1:3000"}, 403),
        ({"HTTP_ORIGIN": "http://127.0.0.1:8080"}, 200),
        ({"HTTP_ORIGIN": "http://127.0.0.1:3000"}, 403),
        ({"HTTP_ORIGIN": "http://evil.example"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
    ],
)
def test_another_sites_page_cannot_write(headers: dict[str, str], status: int, password: str | None) -> None:
    credentials = {} if password is None else {"HTTP_AUTHORIZATION": basic("me", password)}
    app = Guard(page, password, False)
    assert ask(app, "/api/studies/1/note", "PUT", **headers, **credentials)[0] == status
    assert ask(app, "/api/studies/1", "GET", **headers, **credentials)[0] == 200


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("PUT /api/studies/1/note", 200),
        ("PUT /api/studies/1/17/note", 200),
        ("DELETE /api/studies/1", 200),
        ("POST /api/artifacts/1", 200),
        ("POST /api/artifacts/1/17", 200),
        ("DELETE /api/artifacts/1/0a1b", 200),
        ("POST /api/studies", 403),
        ("POST /api/studies/1/rename", 403),
        ("POST /api/studies/1/rename/", 403),
        ("POST /api/studies/1/ren\xffame", 404),  # the dashboard drops the byte
        ("POST /api/trials/17/tell", 403),
        ("POST /api/trials/17/user-attrs", 403),
        ("POST /api/studies/1/preference", 403),
        ("POST /api/studies/1/17/skip", 403),
        ("DELETE /api/artifacts/1/17/0a1b", 403),
    ],
)
def test_only_notes_and_artifacts_may_be_written(request_line: str, status: int) -> None:
    method, path = request_line.split(" ")
    assert ask(Guard(page, None, False), path, method)[0] == status


def test_every_answer_has_the_security_headers() -> None:
    access = {"HTTP_AUTHORIZATION": basic("me", PASSWORD)}
    for answered in (ask(Guard(page, PASSWORD, False), **access), ask(Guard(page, PASSWORD, False))):
        headers = dict(answered[1])
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-cache"
        assert "Access-Control-Allow-Origin" not in headers


def test_the_page_keeps_its_own_policy_and_other_answers_load_nothing() -> None:
    def policies(path: str) -> list[str]:
        headers = ask(Guard(page, None, False), path, "GET")[1]
        return [value for name, value in headers if name == "Content-Security-Policy"]

    assert policies("/dashboard") == ["default-src 'self'", access_control.PAGE_POLICY]
    (policy,) = policies("/\xff")
    assert policy.startswith("default-src 'none'; ") and policy.endswith(access_control.PAGE_POLICY)


def test_a_refusal_is_json_under_api_and_text_elsewhere() -> None:
    _, headers, body = ask(Guard(page, None, True), "/api/studies/1", "DELETE")
    assert (dict(headers)["Content-Type"], json.loads(body)) == (
        "application/json",
        {"reason": "this dashboard is read-only"},
    )
    _, headers, body = ask(Guard(page, PASSWORD, True))
    assert (dict(headers)["Content-Length"], body) == (str(len(body)), b"a password is needed, under any user name\n")
    assert ask(Guard(page, PASSWORD, True), method="HEAD")[2] == b""


@pytest.mark.parametrize("content", [PASSWORD, f"{PASSWORD}\n", f"{PASSWORD}\r\n"])
def test_the_password_file_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    assert access_control.password(None) is None
    monkeypatch.setenv(environment.DASHBOARD_PASSWORD.name, "other")
    assert access_control.password(None) == "other"
    (tmp_path / "password").write_text(content, newline="")
    assert access_control.password(tmp_path / "password") == PASSWORD


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("a\nb\n", "more than one line"),
        (None, "No such file or directory"),
        (b"\xff", "not text"),
    ],
)
def test_an_empty_or_unreadable_password_file_is_refused(
    tmp_path: Path, content: str | bytes | None, problem: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=rf"password: {problem}, expected"):
        access_control.password(file)


def test_an_empty_password_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.DASHBOARD_PASSWORD.name, "")
    with pytest.raises(UsageError, match=r"QUELL_DASHBOARD_PASSWORD: empty, expected a password"):
        access_control.password(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "lab.example", "", "127.0.0.1.example", "localhost."])
def test_an_address_that_other_machines_can_reach_needs_a_password(host: str) -> None:
    with pytest.raises(UsageError, match=rf"--host: {host} without a password, .*QUELL_DASHBOARD_PASSWORD"):
        access_control.check(host, None)
    access_control.check(host, PASSWORD)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LocalHost"])
def test_an_address_that_only_this_machine_can_reach_needs_none(host: str) -> None:
    access_control.check(host, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the guesses: its only item."""
    now = [1000.0]
    monkeypatch.setattr(access_control.time, "monotonic", lambda: now[0])
    return now


def guess(app: Guard, password: str = "wrong", address: str = "192.0.2.1") -> int:
    return ask(app, HTTP_AUTHORIZATION=basic("me", password), REMOTE_ADDR=address)[0]


def test_wrong_passwords_of_an_address_wait_longer_and_longer_up_to_a_minute(clock: list[float]) -> None:
    app, waits = Guard(page, PASSWORD, False), []
    for _ in range(access_control.FREE_GUESSES):
        assert guess(app) == 401
    for _ in range(8):
        began = clock[0]
        while guess(app) == 429:
            clock[0] += 0.5
        waits.append(clock[0] - began)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    status, headers, body = ask(app, HTTP_AUTHORIZATION=basic("me", PASSWORD), REMOTE_ADDR="192.0.2.1")
    assert (status, dict(headers)["Retry-After"]) == (429, "60")  # the right one waits too, else it would be found
    assert body == b"too many wrong passwords from your address; try again in 60 s\n"
    assert guess(app, PASSWORD, "192.0.2.2") == 200  # another address does not wait
    assert ask(app, REMOTE_ADDR="192.0.2.1")[0] == 401  # who gives none is asked for it
    clock[0] += 60
    assert guess(app, PASSWORD) == 200
    assert guess(app) == 401 and guess(app) == 429  # the count stays: an attacker may share a user's address
    clock[0] += access_control.FORGOTTEN_S
    assert [guess(app) for _ in range(access_control.FREE_GUESSES + 1)] == [401] * access_control.FREE_GUESSES + [429]


def test_addresses_of_one_ipv6_network_wait_together_and_only_so_many_are_remembered(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_control, "ADDRESSES", 3)
    app = Guard(page, PASSWORD, False)
    for number in range(access_control.FREE_GUESSES):
        assert guess(app, address=f"2001:db8:0:1::{number}") == 401
    assert guess(app, address="2001:db8:0:1:ffff::9") == 429
    assert guess(app, address="2001:db8:0:2::9") == 401
    for number in range(3):
        guess(app, address=f"192.0.2.{number}")
    assert guess(app, address="2001:db8:0:1::1") == 401
