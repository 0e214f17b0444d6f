"""Real worker processes, killed and interrupted, on a study of a few seconds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tuning.errors import StorageError
from tuning.runs import Runs
from tuning.storage import open_storage

GRACE_S = 8.0  # of the workers: shorter than people's, longer than the 5 s between two signs of life


@pytest.fixture
def study_file(tmp_path: Path, tiny_study: str) -> Path:
    path = tmp_path / "tiny.toml"
    # Long enough for a worker to be caught between two rungs; no two trials are the same.
    path.write_text(tiny_study.replace("0.08", "0.2") + "dropout = { low = 0.0, high = 0.3 }\n")
    return path


@pytest.fixture
def tune(
    request: pytest.FixtureRequest, study_file: Path, tiny_recordings: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tuning.cli", "tune", str(study_file), "--corpus", str(tiny_recordings)]
    with subprocess.Popen(
        [*command, "--runs", str(tmp_path / "runs"), "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **getattr(request, "param", {})},
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def trials(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    runs = Runs(tmp_path / "runs")
    try:
        storage = open_storage(runs.storage_url)
    except StorageError:  # not made yet
        return []
    try:
        return optuna.load_study(study_name="tiny", storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return []
    finally:
        storage.close()


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"nothing after {seconds} s")


def training(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    return [t for t in trials(tmp_path) if t.state.name == "RUNNING" and "training" in t.user_attrs]


def past_a_rung(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    return [t for t in training(tmp_path) if t.intermediate_values]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")


@linux
def test_killed_worker_loses_its_attempt_but_not_the_trial(tune: subprocess.Popen[str], tmp_path: Path) -> None:
    victim = wait_for(lambda: past_a_rung(tmp_path))[0]
    worker = int(victim.user_attrs["worker"].split(":")[1])
    scorers = children(worker)
    os.kill(worker, signal.SIGKILL)
    assert tune.wait(120) == 0, tune.stdout.read()
    done = trials(tmp_path)
    ended = [t for t in done if "lost" not in t.user_attrs]
    assert sorted(t.user_attrs["slot"] for t in ended) == [0, 1, 2]
    assert {t.state.name for t in ended} <= {"COMPLETE", "PRUNED"}
    assert done[victim.number].state.name == "FAIL"
    again = next(t for t in ended if t.user_attrs["slot"] == victim.user_attrs["slot"])
    assert again.params == victim.params
    assert again.user_attrs["attempt"] == 2
    logs = "".join(log.read_text() for log in (tmp_path / "runs" / "tiny" / "logs").iterdir())
    assert f"trial {again.number} goes on from its checkpoint" in logs
    assert not any((tmp_path / "runs" / "tiny" / "checkpoints").iterdir())
    assert scorers
    wait_for(lambda: not any(alive(process) for process in scorers), 10)


@linux
@pytest.mark.parametrize("tune", [{"QUELL_GRACE_S": str(GRACE_S)}], indirect=True)
def test_a_frozen_worker_that_wakes_up_drops_the_trial_that_another_one_has(
    tune: subprocess.Popen[str], tmp_path: Path
) -> None:
    victim = wait_for(lambda: past_a_rung(tmp_path))[0]
    worker = int(victim.user_attrs["worker"].split(":")[1])
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_for(lambda: "lost" in trials(tmp_path)[victim.number].user_attrs, GRACE_S + 30)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert tune.wait(120) == 0, tune.stdout.read()
    done = trials(tmp_path)
    ended = [t for t in done if "lost" not in t.user_attrs]
    assert sorted(t.user_attrs["slot"] for t in ended) == [0, 1, 2]
    assert done[victim.number].state.name == "FAIL" and done[victim.number].value is None
    assert "said nothing for" in done[victim.number].user_attrs["lost"]
    logs = "".join(log.read_text() for log in (tmp_path / "runs" / "tiny" / "logs").iterdir())
    assert f"trial {victim.number} dropped: another worker has it" in logs
    assert not Runs(tmp_path / "runs").weights("tiny", victim.number).exists()


@linux
def test_interrupted_tune_hands_trials_back_and_goes_on_later(
    tune: subprocess.Popen[str], study_file: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    wait_for(lambda: training(tmp_path))
    workers = children(tune.pid)
    started = time.monotonic()
    tune.send_signal(signal.SIGINT)
    assert tune.wait(30) == 130
    assert time.monotonic() - started < 10
    assert "Traceback" not in tune.stdout.read()
    # One of its children is multiprocessing's resource tracker, which ends when it sees that its parent has.
    wait_for(lambda: not any(alive(worker) for worker in workers), 5)
    assert {t.state.name for t in trials(tmp_path)} <= {"WAITING", "COMPLETE", "PRUNED"}
    study_file.write_text(study_file.read_text().replace("trials = 3", "trials = 1"))
    command = [sys.executable, "-m", "tuning.cli", "tune", str(study_file), "--corpus", str(tiny_recordings)]
    done = subprocess.run([*command, "--runs", str(tmp_path / "runs")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ended = [t for t in trials(tmp_path) if t.state.is_finished()]
    assert 0 in {t.user_attrs["slot"] for t in ended}
    assert all("lost" not in t.user_attrs for t in ended)


@linux
def test_workers_leave_when_their_parent_is_killed(tune: subprocess.Popen[str], tmp_path: Path) -> None:
    wait_for(lambda: training(tmp_path))
    workers = children(tune.pid)
    tune.kill()
    tune.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers), 10)
    assert {t.state.name for t in trials(tmp_path)} <= {"WAITING", "COMPLETE", "PRUNED"}
