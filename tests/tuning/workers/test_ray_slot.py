"""A worker that a cluster's slot keeps: launched again, given up, or sent away with its trial handed back."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from quell_tuning import environment
from quell_tuning.workers import worker_process
from quell_tuning.workers.ray_slot import SlotEnd, WorkerSpec, run_slot


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "BACK_OFF_S", 0.01)
    monkeypatch.delenv(environment.CORPUS.name, raising=False)
    monkeypatch.delenv(environment.RUNS.name, raising=False)


def job(tmp_path: Path, code: str, **changed: object) -> WorkerSpec:
    """A worker of a line of Python, which gets the study file as its first argument."""
    settings = {
        "command": ["-c", code],
        "study": ("tiny.toml", "name = 'tiny'"),
        "environment": {},
        "defaults": {environment.RUNS.name: str(tmp_path)},
        "folders": (),
        "threads": 0,
        "log": "tiny/logs/worker-0.log",
    }
    return WorkerSpec(**{**settings, **changed})  # type: ignore[arg-type]


def test_a_worker_gets_its_study_file_and_ends_when_no_trial_is_left(tmp_path: Path) -> None:
    ended = run_slot(job(tmp_path, "import sys, pathlib; print(sys.argv[1], pathlib.Path(sys.argv[1]).read_text())"))
    assert ended == SlotEnd("finished")
    said = (tmp_path / "tiny" / "logs" / "worker-0.log").read_text()
    assert said.endswith("tiny.toml name = 'tiny'\n")
    assert not Path(said.split()[0]).exists()


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"import sys, pathlib; f = pathlib.Path({str(count)!r}); f.open('a').write('x')"
    assert run_slot(job(tmp_path, f"{code}; sys.exit(0 if len(f.read_text()) == 3 else 9)")) == SlotEnd("finished")
    assert count.read_text() == "xxx"


def test_a_worker_that_dies_again_and_again_is_given_up_with_its_last_line(tmp_path: Path) -> None:
    ended = run_slot(job(tmp_path, "import sys; print('no such card'); sys.exit(3)"))
    assert ended.reason == "crashed"
    assert ended.message == (
        f"{socket.gethostname()}: exit code 3, 3 deaths in a row; its last line: no such card; "
        f"see {tmp_path / 'tiny' / 'logs' / 'worker-0.log'}"
    )


def test_a_worker_that_was_asked_to_stop_is_no_death(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"import sys, pathlib; f = pathlib.Path({str(count)!r}); f.open('a').write('x')"
    assert run_slot(job(tmp_path, f"{code}; sys.exit(0 if len(f.read_text()) == 6 else 143)")) == SlotEnd("finished")


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_lets_the_worker_hand_its_trial_back(times: int, tmp_path: Path) -> None:
    code = """
import signal, sys, time
def leave(number, frame):
    time.sleep(0.5)
    print("handed back", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
print("works", flush=True)
time.sleep(60)
"""
    log = tmp_path / "tiny" / "logs" / "worker-0.log"

    def interrupt() -> None:
        while not log.exists() or "works" not in log.read_text():
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    assert run_slot(job(tmp_path, code)) == SlotEnd("stopped")
    assert log.read_text() == "works\nhanded back\n"
    assert signal.getsignal(signal.SIGINT) == before


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "STOP_GRACE_S", 0.5)
    log = tmp_path / "tiny" / "logs" / "worker-0.log"
    code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(60)"

    def interrupt() -> None:
        while not log.exists() or not log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run_slot(job(tmp_path, code)) == SlotEnd("stopped")
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_a_node_without_the_recordings_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job(tmp_path, "", folders=("speech", "noise"), defaults={environment.CORPUS.name: str(tmp_path)})
    (tmp_path / "speech").mkdir()
    ended = run_slot(asked)
    assert ended.reason == "no_corpus"
    assert ended.message.startswith(
        f"{socket.gethostname()}: {tmp_path / 'noise'}: no such folder, expected the recordings"
    )
    (tmp_path / "noise").mkdir()
    monkeypatch.setenv(environment.RUNS.name, str(tmp_path / "runs"))
    assert run_slot(asked) == SlotEnd("finished")
    monkeypatch.setenv(environment.CORPUS.name, str(tmp_path / "elsewhere"))  # the node knows better than the default
    assert run_slot(asked).reason == "no_corpus"
    told = job(tmp_path, "", folders=("speech",), environment={environment.CORPUS.name: str(tmp_path)})
    assert run_slot(told) == SlotEnd("finished")  # and less than what was asked for


def test_a_worker_inherits_neither_rays_token_nor_its_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    names = ["RAY_AUTH_TOKEN", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", environment.POOL.name, "QUELL_STORAGE"]
    code = f"import os; print([os.environ.get(name) for name in {names}])"
    log = tmp_path / "tiny" / "logs" / "worker-0.log"
    run_slot(job(tmp_path, code, environment={"QUELL_STORAGE": "grpc://proxy:1"}))
    assert log.read_text() == f"{[None, None, '3', str(os.getpid()), 'grpc://proxy:1']}\n"
    log.unlink()
    run_slot(job(tmp_path, code, threads=4))
    assert log.read_text() == f"{[None, '4', '3', str(os.getpid()), None]}\n"


def test_a_slot_needs_no_ray() -> None:
    code = "import sys, quell_tuning.workers.ray_slot, quell_tuning.workers.worker; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
