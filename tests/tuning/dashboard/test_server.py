"""The dashboard's server: its address, password, refreshing, start and end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import program
import pytest
from optuna.trial import create_trial
from quell_tuning.dashboard import server
from quell_tuning.dashboard.server import keep_fresh, listen
from quell_tuning.errors import DatabaseGone, UsageError
from quell_tuning.storage.retrying import RetryingStorage

KEPT = {"si_sdr": -0.5, "parameters": -0.1}


def test_notes_and_plots_are_refreshed_again_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def refresh() -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise ValueError("no\nroom")

    class Ended(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == server.REFRESH_S
            return len(calls) == 4

    keep_fresh(refresh, Ended())
    assert calls == [0, 1, 2, 3]
    assert [record.getMessage() for record in caplog.records if record.name == "quell"] == [
        "notes and plots were not updated: ValueError: no room"
    ]


def test_a_database_that_is_gone_ends_the_refreshing_and_with_it_the_server() -> None:
    def refresh() -> None:
        raise DatabaseGone("q.db: deleted")

    with pytest.raises(DatabaseGone, match=r"q\.db: deleted"):
        keep_fresh(refresh, threading.Event())


def test_an_address_that_cannot_be_used_is_an_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"127\.0\.0\.1:{port}: .*in use, expected a free port.*--port, 0 for any"
        ):
            listen("127.0.0.1", port)
    for host in ("203.0.113.7", "no-such-name.invalid"):
        with pytest.raises(UsageError, match=rf"^{host}:0: .*, expected a free port of this machine"):
            listen(host, 0)


def test_a_page_is_answered_while_hundreds_of_connections_send_nothing_and_these_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def page(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        return [b"page"]

    monkeypatch.setattr(server, "IDLE_S", 2)
    with listen("127.0.0.1", 0) as listener, ExitStack() as idle:
        port = listener.getsockname()[1]
        answering = server.web_server(page, listener)
        thread = threading.Thread(target=answering.run, daemon=True)
        thread.start()
        silent = [idle.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
        for connection in silent[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")  # and never ends
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        asking.request("GET", "/")
        assert asking.getresponse().read() == b"page"
        asking.close()
        for connection in silent:
            connection.settimeout(30)
            assert connection.recv(1000) == b""
        answering.close()


@pytest.fixture
def start(storage: RetryingStorage, tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Runs `quell dashboard` on a study with one trial and returns the address that it prints."""
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    study.set_user_attr("spec", {"study": {"score": "pesq"}})
    scored = {"metrics": {"pesq": 2.5}, "by_snr": {"5": {"pesq": 2.5}}, "cost": {"macs_per_s": 1e6}}
    study.add_trial(create_trial(value=2.5, constraints=KEPT, user_attrs=scored))
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "quell_tuning.cli", "dashboard", "s", "--port", "0", *arguments]
        command += ["--runs", str(tmp_path / "runs"), "--storage", f"sqlite:///{tmp_path / 'q.db'}"]
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        with process:
            process.kill()


def get(url: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Requests a path as it is, without normalising it."""
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_this_machine_is_served_until_an_interrupt(start: Callable[..., Any], tmp_path: Path) -> None:
    process, url = start()
    address = re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/1", url)
    assert address, (url, process.stderr.read() if not url else "")
    (tmp_path / "runs" / "secret.txt").write_text("sesame")
    assert get(url, "/dashboard/studies/1")[0] == 200
    assert json.loads(get(url, "/api/studies/1")[1])["best_trials"][0]["number"] == 0
    assert get(url, "/api/studies", Host="evil.example")[0] == 403
    for path in (
        "/artifacts/1/../../secret.txt",
        "/artifacts/1/..%2f..%2fsecret.txt",
        "/artifacts/1/%2e%2e/%2e%2e/secret.txt",
        "//artifacts/1/%2e%2e%2fsecret.txt",
        "/artifacts/1/..%5c..%5csecret.txt",
        "/%61rtifacts/1/..%252fsecret.txt",
        "/arti%fffacts/1/..%2fsecret.txt",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/app.py",
    ):
        status, body = get(url, path)
        assert status in (403, 404), path
        assert b"sesame" not in body and b"root:" not in body and b"import" not in body
    connection = socket.create_connection(
        ("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
    )  # a page that stays open
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=3)
    connection.close()
    assert (process.returncode, output, errors) == (130, "", "quell: interrupted\n")


def test_other_machines_need_the_password_of_the_file(start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    arguments = ["--host", "0.0.0.0", "--password-file", str(tmp_path / "password"), "--read-only"]
    process, url = start(*arguments, QUELL_DASHBOARD_PASSWORD="other")
    assert get(url, "/dashboard")[0] == 401
    assert get(url, "/dashboard", Authorization="Basic bWU6b3RoZXI=")[0] == 401  # me:other
    assert get(url, "/dashboard", Authorization="Basic bWU6b3BlbiBzZXNhbWU=")[0] == 200  # me:open sesame
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=3)
    warning, last = errors.splitlines()
    assert (process.returncode, last) == (143, "quell: interrupted")
    assert warning.startswith("quell: 0.0.0.0: the password crosses the network unencrypted")


def test_a_network_address_without_a_password_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    done = program.quell("dashboard", "s", "--port", "0", "--host", "0.0.0.0", "--runs", "runs", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("quell: --host: 0.0.0.0 without a password, expected one")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
