"""The death of a child process, at any moment, delays its call or is an error of one line; nothing waits for ever."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import deadly
import pytest

from quell.child_processes import child_process
from quell.child_processes.child_pool import ONE_THREAD, ChildPool, described
from quell.errors import ProcessError

LIMIT_S = 60


def loaded() -> tuple[int, bool]:
    return os.getpid(), "torch" in sys.modules


def threads() -> set[int]:
    import numpy  # noqa: F401 - loads BLAS
    from threadpoolctl import threadpool_info

    return {found["num_threads"] for found in threadpool_info()}


def deaf() -> bool:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN and signal.SIGINT in signal.pthread_sigmask(
        signal.SIG_BLOCK, ()
    )


def test_calls_run_in_other_processes_that_have_not_loaded_torch() -> None:
    import torch  # loaded here, and not there

    assert torch.__name__ in sys.modules
    with ChildPool(1) as children:
        process, has_torch = children.submit("", loaded).result(LIMIT_S)
    assert process != os.getpid()
    assert not has_torch


def test_a_process_leaves_ctrl_c_to_its_parent_from_its_first_moment_on() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with ChildPool(1) as children:
        assert children.submit("", deaf).result(LIMIT_S)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("before", [None, "2"])
def test_a_pool_of_one_thread_gives_blas_one_and_leaves_this_process_alone(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    for name in ONE_THREAD:
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    environment = dict(os.environ)
    with ChildPool(1, one_thread=True) as children:
        assert children.submit("", threads).result(LIMIT_S) == {1}
    assert dict(os.environ) == environment


@pytest.mark.parametrize("processes", [1, 2])
def test_a_call_whose_process_is_killed_inside_its_write_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, processes: int
) -> None:
    deadly.plant(tmp_path, monkeypatch)(1)
    with caplog.at_level(logging.WARNING), ChildPool(processes) as children:
        calls = [children.submit(f"reading {number}", bytes, 300_000) for number in range(4)]
        assert [len(call.result(LIMIT_S)) for call in calls] == [300_000] * 4
    (line,) = caplog.messages
    killed = "killed (signal 9), probably for want of memory; trying again with no other beside it, then 1 at once"
    assert re.fullmatch(rf"reading \d: {re.escape(killed)}", line)


def test_a_call_whose_process_is_killed_twice_is_an_error_of_one_line_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(multiprocessing.active_children())
    with ChildPool(2) as children:
        fatal = children.submit("decoding a.wav and 3 more", deadly.die, tmp_path / "deaths", 9)
        others = [children.submit("", abs, -number) for number in range(3)]
        with pytest.raises(ProcessError) as caught:
            fatal.result(LIMIT_S)
        assert [other.result(LIMIT_S) for other in others] == [0, 1, 2]
    assert str(caught.value) == (
        "decoding a.wav and 3 more: killed (signal 9), probably for want of memory, 2 times, the last time with no "
        "other beside it, expected memory for one process; free some, or use shorter recordings"
    )
    assert caught.value.of_memory
    assert (tmp_path / "deaths").read_text() == "xx"
    assert set(multiprocessing.active_children()) == before


def test_a_crash_is_not_taken_for_want_of_memory_and_its_call_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ChildPool(2) as children:
        children.submit("reading a", deadly.die, tmp_path / "once", 1, signal.SIGSEGV).result(LIMIT_S)
        twice = children.submit("reading b", deadly.die, tmp_path / "twice", 2, signal.SIGSEGV)
        with pytest.raises(ProcessError, match=r"^reading b: killed \(signal 11\), 2 times, .*leave it out") as caught:
            twice.result(LIMIT_S)
        assert not caught.value.of_memory
    assert caplog.messages[0] == "reading a: killed (signal 11); trying again with no other beside it, then 2 at once"


def test_after_a_death_its_call_runs_alone_and_half_of_the_processes_go_on(tmp_path: Path) -> None:
    with ChildPool(4) as children:
        first = [children.submit("", deadly.span, 0.5) for _ in range(3)]
        killed = children.submit("", deadly.die, tmp_path / "deaths", 1)
        later = [children.submit("", deadly.span, 0.1) for _ in range(12)]
        begin, end = killed.result(LIMIT_S)
        spans = [call.result(LIMIT_S) for call in (*first, *later)]
    assert all(other_end <= begin or end <= other_begin for _, other_begin, other_end in spans)
    after = [(process, start) for process, start, _ in spans if start >= end]
    assert len(after) >= 8 and len({process for process, _ in after}) <= 2


def test_memory_that_does_not_suffice_inside_a_call_is_a_death_of_it(tmp_path: Path) -> None:
    with ChildPool(2) as children:
        assert children.submit("", deadly.out_of_memory, tmp_path / "once", 1).result(LIMIT_S) == 1
        again = children.submit("reading a", deadly.out_of_memory, tmp_path / "twice", 2)
        with pytest.raises(ProcessError, match=r"^reading a: out of memory, probably for want of memory, 2 times"):
            again.result(LIMIT_S)


def test_a_process_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(child_process.multiprocessing.get_context("spawn").Process, "start", refuse)
    with ChildPool(2) as children, pytest.raises(ProcessError, match=r"^reading a: not started \(Resource tempor"):
        children.submit("reading a", abs, 1).result(LIMIT_S)


def test_a_process_that_is_killed_while_idle_costs_no_attempt() -> None:
    with ChildPool(1, attempts=1) as children:
        process, _ = children.submit("", loaded).result(LIMIT_S)
        os.kill(process, signal.SIGKILL)
        while process in {child.pid for child in multiprocessing.active_children()}:
            time.sleep(0.01)
        time.sleep(0.1)  # for the thread that waits for it, too
        assert children.submit("", loaded).result(LIMIT_S)[0] != process


def test_a_process_of_a_dead_child_that_holds_its_pipe_open_delays_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with ChildPool(1, attempts=1) as children, pytest.raises(ProcessError):
        children.submit("", deadly.die_beside_a_grandchild, 30.0).result(LIMIT_S)
    assert time.monotonic() - began < 25


def test_what_cannot_be_pickled_is_an_error_and_the_process_goes_on() -> None:
    with ChildPool(1) as children:
        process, _ = children.submit("", loaded).result(LIMIT_S)
        with pytest.raises(Exception, match="pickle"):
            children.submit("", deadly.unpicklable).result(LIMIT_S)
        with pytest.raises(Exception, match="pickle"):
            children.submit("", lambda: None).result(LIMIT_S)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'two'"):
            children.submit("", deadly.stubborn).result(LIMIT_S)
        assert children.submit("", loaded).result(LIMIT_S)[0] == process


def test_an_exception_of_a_call_brings_its_traceback_as_its_cause() -> None:
    with ChildPool(1) as children, pytest.raises(ZeroDivisionError, match=r"^division by zero$") as caught:
        children.submit("", deadly.zero).result(LIMIT_S)
    assert "return 1 / 0" in str(caught.value.__cause__)


def test_closing_cancels_calls_that_have_not_begun_and_waits_for_the_others() -> None:
    before = set(multiprocessing.active_children())
    with ChildPool(1) as children:
        calls = [children.submit("", deadly.span, 0.5) for _ in range(3)]
        while not calls[0].running():
            time.sleep(0.01)
    assert not wait(calls, 0).not_done
    assert calls[0].result()[0] != os.getpid()
    for call in calls[1:]:
        with pytest.raises(CancelledError):
            call.result()
    assert set(multiprocessing.active_children()) == before
    with pytest.raises(RuntimeError, match="the pool is closed"):
        children.submit("", abs, 1)


def test_closing_fails_a_call_that_is_to_run_again(tmp_path: Path) -> None:
    with ChildPool(2) as children:
        beside = children.submit("", deadly.span, 1.0)
        killed = children.submit("reading a", deadly.die, tmp_path / "deaths", 1)
        while not (tmp_path / "deaths").exists():
            time.sleep(0.01)
        time.sleep(0.2)
    assert beside.done()
    with pytest.raises(ProcessError, match=r"^reading a: killed \(signal 9\), probably for want of memory, expected"):
        killed.result(0)


def test_a_stopped_process_is_killed_when_it_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "END_S", 0.5)
    with ChildPool(1) as children:
        process, _ = children.submit("", loaded).result(LIMIT_S)
        os.kill(process, signal.SIGSTOP)
    assert not Path(f"/proc/{process}").exists()


def test_many_calls_from_several_threads_come_back_to_their_futures() -> None:
    with ChildPool(2) as children:
        found: dict[int, list[int]] = {}

        def submit(first: int) -> None:
            calls = [children.submit("", abs, -number) for number in range(first, first + 100)]
            found[first] = [call.result(LIMIT_S) for call in calls]

        both = [threading.Thread(target=submit, args=(first,)) for first in (0, 100)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(LIMIT_S)
    assert found == {first: list(range(first, first + 100)) for first in (0, 100)}


ORPHANS = """
import os, sys, time
sys.path[:0] = sys.argv[1:]
import deadly
from quell.child_processes.child_pool import ChildPool

if __name__ == "__main__":
    children = ChildPool(2)
    calls = [children.submit("", deadly.span, 0.1) for _ in range(2)]
    busy = children.submit("", deadly.span, 60.0)
    print(*{call.result()[0] for call in calls}, flush=True)
    time.sleep(60)
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script), str(Path(deadly.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        ids = [int(word) for word in parent.stdout.readline().split()]
        assert ids
        parent.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in ids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [process for process in ids if Path(f"/proc/{process}").exists()]


@pytest.mark.parametrize(("names", "expected"), [(["a"], "reading a"), (["a", "b", "c"], "reading a and 2 more")])
def test_a_call_is_described_by_its_first_recording(names: list[str], expected: str) -> None:
    assert described("reading", names) == expected
