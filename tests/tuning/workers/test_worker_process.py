"""When deaths of a worker process count as one row, and what is known of the last one."""

import os
import sys
import time
from pathlib import Path

import pytest
from quell_tuning.workers import worker_process
from quell_tuning.workers.worker_process import LESS_MEMORY, WorkerProcess, stop

from quell import processes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "BACK_OFF_S", 0.01)


def dies(worker: WorkerProcess) -> None:
    """Lets it start, and end."""
    until = time.monotonic() + 30
    while worker.process is None:
        worker.start_when_due()
    while worker.alive():
        assert time.monotonic() < until
        time.sleep(0.02)


def process(code: str, log: Path, lived_s: float) -> WorkerProcess:
    return WorkerProcess([sys.executable, "-S", "-c", code], os.environ, log, lived_s)


@pytest.mark.parametrize(("lived_s", "deaths"), [(60, 2), (0, 1)])
def test_a_death_after_a_long_life_is_the_first_of_a_row(lived_s: float, deaths: int, tmp_path: Path) -> None:
    worker = process("import sys; sys.exit(3)", tmp_path / "log", lived_s)
    dies(worker)
    dies(worker)
    assert (worker.deaths, worker.exit_code) == (deaths, 3)


def test_a_worker_that_was_asked_to_stop_ends_the_row(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    code = f"import sys, pathlib; f = pathlib.Path({str(counter)!r}); f.open('a').write('x')"
    worker = process(f"{code}; sys.exit(143 if f.read_text() == 'xx' else 3)", tmp_path / "log", 60)
    dies(worker)
    assert worker.deaths == 1
    dies(worker)
    assert worker.deaths == 0


def test_the_last_line_is_one_of_the_latest_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of another day\n")
    silent = process("", log, 60)
    dies(silent)
    assert silent.last_line() == "nothing"
    worker = process("print('no such card', end='\\n\\n')", log, 60)
    dies(worker)
    assert worker.death("in a row") == f"exit code 0, 0 deaths in a row; its last line: no such card; see {log}"


@pytest.mark.parametrize(
    ("after", "end"),
    [
        ("oom 3\noom_kill 5\n", "killed by the system, out of memory"),
        ("oom 3\noom_kill 4\n", "killed (SIGKILL), probably by the system for want of memory"),
        ("", "killed (SIGKILL), probably by the system for want of memory"),
    ],
)
def test_a_killed_worker_says_so_with_the_remedy(
    after: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GROUPS", tmp_path)
    monkeypatch.setattr(processes, "OWN_GROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/\n")
    events = tmp_path / "memory.events"
    events.write_text("oom 3\noom_kill 4\n")
    lines: list[str] = []
    code = f"import os; open({str(events)!r}, 'w').write({after!r}); os.kill(os.getpid(), 9)"
    worker = WorkerProcess([sys.executable, "-S", "-c", code], os.environ, tmp_path / "log", tell=lines.append)
    dies(worker)
    assert lines == [f"{end}; its trial goes on in another process. If this repeats, {LESS_MEMORY}"]
    assert worker.death("in a row").startswith(f"{end}, 1 deaths in a row; ")
    assert worker.death("in a row").endswith(f"see {tmp_path / 'log'}; {LESS_MEMORY}")


def test_a_worker_that_ends_by_itself_was_not_killed(tmp_path: Path) -> None:
    lines: list[str] = []
    worker = WorkerProcess([sys.executable, "-S", "-c", "exit(1)"], os.environ, tmp_path / "log", tell=lines.append)
    dies(worker)
    assert lines == []


def test_several_workers_are_stopped_in_the_time_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "STOP_GRACE_S", 1.0)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
    workers = [process(code, tmp_path / str(number), 60) for number in range(3)]
    for worker in workers:
        worker.start_when_due()
    until = time.monotonic() + 30
    while any(worker.last_line() == "nothing" for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.02)
    began = time.monotonic()
    stop(workers)
    assert not any(worker.alive() for worker in workers)
    assert time.monotonic() - began < 2.5
