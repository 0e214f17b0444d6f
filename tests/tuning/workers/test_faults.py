"""Real worker processes, killed, frozen and interrupted, on a study of a few seconds."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial
from quell_tuning.errors import StorageError
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials.ranking import is_lost
from quell_tuning.workspace.run_folder import RunFolder

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")

GRACE_S = 4.0  # of the workers, which say a word every second


class Tune:
    """`quell tune` and what it has made so far."""

    def __init__(self, folder: Path, study: str, recordings: Path, workers: int) -> None:
        self.file = folder / "tiny.toml"
        # Long enough for a worker to be caught between two rungs; no two trials are the same, none is pruned.
        study = study.replace("0.08", "0.15").replace("[corpus]", 'pruner = "none"\n[corpus]')
        study = study.replace("{ low = 2, high = 3 }", "3")
        self.file.write_text(f"{study}dropout = {{ low = 0.0, high = 0.1 }}\n")
        self.runs = RunFolder(folder / "runs")
        self.storage: RetryingStorage | None = None
        self.command = [sys.executable, "-m", "quell_tuning.cli", "tune", str(self.file), "--corpus", str(recordings)]
        self.command += ["--runs", str(self.runs.folder), "--workers", str(workers)]

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"QUELL_GRACE_S": str(GRACE_S)},
        )

    def end(self, seconds: float) -> tuple[int, str]:
        """Exit code and output."""
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output

    def trials(self) -> list[FrozenTrial]:
        try:
            self.storage = self.storage or open_storage(self.runs.storage_url)
            return optuna.load_study(study_name="tiny", storage=self.storage).get_trials(deepcopy=False)
        except (StorageError, KeyError):  # not made yet
            return []

    def training(self) -> list[FrozenTrial]:
        return [t for t in self.trials() if t.state.name == "RUNNING" and "training" in t.user_attrs]

    def past_a_rung(self) -> list[FrozenTrial]:
        return [t for t in self.training() if t.intermediate_values]

    def logs(self) -> str:
        return "".join(log.read_text() for log in self.runs.logs("tiny").iterdir())


@pytest.fixture(scope="module")
def make_tune(
    tmp_path_factory: pytest.TempPathFactory, tiny_study: str, tiny_recordings: Path
) -> Iterator[Callable[[int], Tune]]:
    """Starts it with so many workers."""
    made: list[Tune] = []

    def make(workers: int) -> Tune:
        made.append(Tune(tmp_path_factory.mktemp("tune"), tiny_study, tiny_recordings, workers))
        made[-1].start()
        return made[-1]

    yield make
    for tune in made:
        with tune.process as process:
            process.kill()
        if tune.storage is not None:
            tune.storage.close()


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").iterdir()  # each has those that it started
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def worker_of(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["worker"].split(":")[1])


def freeze(worker: int, database: Path) -> None:
    """Stops a process while it holds no lock of an SQLite file, with which it would stop all others too."""
    while True:
        os.kill(worker, signal.SIGSTOP)
        with closing(sqlite3.connect(database, timeout=0.3, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(worker, signal.SIGCONT)
                time.sleep(0.05)
            else:
                return


@dataclass
class Battered:
    """A study of which one worker was killed and another one frozen, when it has ended."""

    tune: Tune
    killed: FrozenTrial  # the trials that those workers ran, as they were then
    frozen: FrozenTrial
    scorers: list[int]  # processes of the killed worker
    trials: list[FrozenTrial]

    @property
    def ended(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state.is_finished() and not is_lost(trial)]


@pytest.fixture(scope="module")
def battered(make_tune: Callable[[int], Tune], wait_for: Callable[..., Any]) -> Battered:
    tune = make_tune(2)
    killed = wait_for(tune.past_a_rung, 60)[0]
    scorers = children(worker_of(killed))
    os.kill(worker_of(killed), signal.SIGKILL)

    def another() -> list[FrozenTrial]:
        return [t for t in tune.past_a_rung() if t.user_attrs["slot"] != killed.user_attrs["slot"]]

    frozen = wait_for(another, 60)[0]
    freeze(worker_of(frozen), tune.runs.folder / "quell.db")
    try:
        wait_for(lambda: "lost" in tune.trials()[frozen.number].user_attrs, 60)
    finally:
        os.kill(worker_of(frozen), signal.SIGCONT)
    code, output = tune.end(120)
    assert code == 0, output
    return Battered(tune, killed, frozen, scorers, tune.trials())


def test_every_slot_ends_exactly_once_when_workers_are_killed_and_frozen(battered: Battered) -> None:
    assert sorted(trial.user_attrs["slot"] for trial in battered.ended) == [0, 1, 2]
    assert {trial.state.name for trial in battered.ended} == {"COMPLETE"}


def test_a_killed_worker_loses_its_attempt_but_not_the_trial(battered: Battered, wait_for: Callable[..., Any]) -> None:
    victim = battered.trials[battered.killed.number]
    assert victim.state.name == "FAIL"
    assert victim.user_attrs["lost"].endswith(f":{worker_of(victim)} ended")
    again = next(t for t in battered.ended if t.user_attrs["slot"] == victim.user_attrs["slot"])
    assert again.params == victim.params
    assert again.user_attrs["attempt"] == 2
    assert f"trial {again.number} continues from its checkpoint" in battered.tune.logs()
    assert battered.scorers
    wait_for(lambda: not any(alive(process) for process in battered.scorers), 10)


def test_a_worker_that_was_frozen_drops_its_trial_when_another_has_it(battered: Battered) -> None:
    victim = battered.trials[battered.frozen.number]
    assert (victim.state.name, victim.value) == ("FAIL", None)
    assert "was silent for" in victim.user_attrs["lost"]
    assert f"trial {victim.number} dropped: another worker has it" in battered.tune.logs()
    assert not battered.tune.runs.weights("tiny", victim.number).exists()


def test_no_checkpoint_is_left_when_a_study_has_ended(battered: Battered) -> None:
    assert list((battered.tune.runs.study("tiny") / "checkpoints").iterdir()) == []


def interrupt(tune: Tune, number: signal.Signals, wait_for: Callable[..., Any]) -> None:
    """Interrupts it while it trains, and checks how it leaves."""
    wait_for(tune.training, 60)
    workers = children(tune.process.pid)
    started = time.monotonic()
    tune.process.send_signal(number)
    code, output = tune.end(30)
    assert code == 128 + number
    assert time.monotonic() - started < 10
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if line.startswith("quell: ")] == [
        "quell: interrupted; the same command resumes its trials where they stopped"
    ]
    # One of its children is multiprocessing's resource tracker, which ends when it sees that its parent has.
    wait_for(lambda: not any(alive(worker) for worker in workers), 5)
    needed = [trial for trial in tune.trials() if "superfluous" not in trial.user_attrs]
    assert {trial.state.name for trial in needed} <= {"WAITING", "COMPLETE"}


def test_ctrl_c_hands_trials_back_and_tune_continues_later(
    make_tune: Callable[[int], Tune], wait_for: Callable[..., Any]
) -> None:
    tune = make_tune(2)
    interrupt(tune, signal.SIGINT, wait_for)
    tune.file.write_text(tune.file.read_text().replace("trials = 3", "trials = 1"))
    tune.start()
    code, output = tune.end(120)
    assert code == 0 or "none is complete and feasible" in output, output  # by chance: it is one trial
    ended = [trial for trial in tune.trials() if trial.state.is_finished()]
    assert 0 in {trial.user_attrs["slot"] for trial in ended}
    assert all("lost" not in trial.user_attrs for trial in ended)


def test_sigterm_hands_trials_back_too(make_tune: Callable[[int], Tune], wait_for: Callable[..., Any]) -> None:
    interrupt(make_tune(1), signal.SIGTERM, wait_for)


def test_a_second_ctrl_c_ends_tune_and_its_workers_at_once(
    make_tune: Callable[[int], Tune], wait_for: Callable[..., Any]
) -> None:
    tune = make_tune(1)
    worker = worker_of(wait_for(tune.training, 60)[0])
    processes = [worker, *children(worker)]
    os.kill(worker, signal.SIGSTOP)  # it would be waited for
    tune.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert tune.process.poll() is None
    tune.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    code, output = tune.end(5)
    assert code == 130
    assert time.monotonic() - started < 2
    assert "Traceback" not in output
    wait_for(lambda: not any(alive(process) for process in processes), 5)


def test_workers_stop_when_their_parent_is_killed(
    make_tune: Callable[[int], Tune], wait_for: Callable[..., Any]
) -> None:
    tune = make_tune(1)
    wait_for(tune.training, 60)
    workers = children(tune.process.pid)
    tune.process.kill()
    tune.process.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers), 10)
    needed = [trial for trial in tune.trials() if "superfluous" not in trial.user_attrs]
    assert {trial.state.name for trial in needed} <= {"WAITING", "COMPLETE"}
