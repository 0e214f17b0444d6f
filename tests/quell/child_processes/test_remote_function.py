"""A function in another process: its answers, its errors, and every way in which it does not end by itself."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from quell.child_processes.remote_function import RemoteError, RemoteFunction
from quell.errors import ExportError


def make(fact: str) -> tuple[str, Any]:
    if fact == "fails":
        raise ExportError("file: found, expected another")

    def call(what: str, argument: Any = None) -> Any:
        if what == "echo":
            print("nobody hears this")
            return argument
        if what == "fail":
            raise LookupError("not\nthere")
        if what == "write":
            Path(argument).write_text("some bytes")
        if what == "spin":
            end = time.thread_time() + argument
            while time.thread_time() < end:
                pass
        if what == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Event().wait()
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return fact, call


def test_answers_errors_and_time_of_a_remote_function_are_those_of_the_function(tmp_path: Path, capfd: Any) -> None:
    function = RemoteFunction(make, "known")
    try:
        assert function.facts == "known"
        assert function("echo", {"a": [1.5]}, limit_s=60) == {"a": [1.5]}
        with pytest.raises(LookupError, match=r"^not\nthere$"):
            function("fail", limit_s=60)
        with pytest.raises(OSError, match="File too large"):
            function("write", str(tmp_path / "file"), limit_s=60)
        before = function.cpu_s
        function("spin", 0.2, limit_s=60)
        assert 0.2 <= function.cpu_s - before < 0.4
    finally:
        function.close()
    assert capfd.readouterr() == ("", "")


def test_a_function_that_cannot_be_made_says_why() -> None:
    with pytest.raises(ExportError, match=r"^file: found, expected another$"):
        RemoteFunction(make, "fails")


@pytest.mark.parametrize(
    ("what", "limit_s", "problem"),
    [("hang", 0.5, "no answer in 0 s"), ("die", 60, "its process was killed (signal 9), probably for want of memory")],
)
def test_a_process_that_hangs_or_is_killed_is_an_error_and_gone(what: str, limit_s: float, problem: str) -> None:
    before = set(multiprocessing.active_children())
    function = RemoteFunction(make, "known")
    with pytest.raises(RemoteError, match=f"^{re.escape(problem)}$"):
        function(what, limit_s=limit_s)
    assert set(multiprocessing.active_children()) <= before
    with pytest.raises(RemoteError, match=f"^{re.escape(problem)}$"):
        function("echo", 1, limit_s=60)


def test_an_interruption_ends_the_process_in_the_middle_of_a_call() -> None:
    before = set(multiprocessing.active_children())
    function = RemoteFunction(make, "known")
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        function("hang", limit_s=60)
    assert set(multiprocessing.active_children()) <= before
