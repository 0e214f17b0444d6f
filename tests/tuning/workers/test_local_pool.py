"""The pool, with workers of a few lines."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from quell_tuning.errors import DatabaseGone, WorkerError
from quell_tuning.storage.backends import open_storage
from quell_tuning.trials.budget import Budget
from quell_tuning.workers import worker_process
from quell_tuning.workers.live_view import LiveView
from quell_tuning.workers.local_pool import Pool
from quell_tuning.workers.worker_process import DEATHS
from rich.console import Console

WORKER = """
import sys, optuna
from quell_tuning.trials.budget import Budget
from quell_tuning.storage.backends import open_storage
storage = open_storage(sys.argv[1])
study = optuna.load_study(study_name="s", storage=storage)
while (trial := Budget(study, int(sys.argv[2])).claim()) is not None:
    study.tell(trial, trial.number)
"""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[optuna.Study]:
    storage = open_storage(f"sqlite:///{tmp_path / 'q.db'}", create=True)
    yield optuna.create_study(study_name="s", storage=storage, direction="maximize")
    storage.close()


def pool(study: optuna.Study, tmp_path: Path, code: str, trials: int) -> tuple[Pool, io.StringIO]:
    shown = io.StringIO()
    return Pool(
        command=[sys.executable, "-c", code, f"sqlite:///{tmp_path / 'q.db'}", str(trials)],
        environment={},
        devices=["cpu", "cpu"],
        logs=tmp_path / "logs",
        budget=Budget(study, trials),
        view=LiveView(Console(file=shown, width=200), trials, audio_hours=1.0, score="si_sdr"),
    ), shown


def test_workers_run_the_budget_and_each_trial_is_printed_once(study: optuna.Study, tmp_path: Path) -> None:
    running, shown = pool(study, tmp_path, WORKER, 5)
    assert running.run() == 0
    assert sorted(trial.value for trial in study.trials) == [0, 1, 2, 3, 4]
    assert sorted(line.split(":")[0] for line in shown.getvalue().splitlines()) == [
        f"trial {number} complete" for number in range(5)
    ]


def test_workers_that_die_at_the_start_end_the_study_with_their_last_line(study: optuna.Study, tmp_path: Path) -> None:
    running, _ = pool(study, tmp_path, "import sys; print('no such card'); sys.exit(3)", 5)
    with pytest.raises(WorkerError, match=rf"exit code 3, {DEATHS} deaths with no trial ended; .*: no such card; see"):
        running.run()


TERMINATED = f"""
import os, signal
from pathlib import Path
starts = Path("starts")
with starts.open("a") as file:
    file.write("x")
if starts.stat().st_size <= {2 * DEATHS}:
    os.kill(os.getpid(), signal.SIGTERM)
{WORKER}"""


def test_workers_that_are_asked_to_stop_while_they_start_are_not_counted_as_dead(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "BACK_OFF_S", 0.01)
    monkeypatch.chdir(tmp_path)
    running, _ = pool(study, tmp_path, TERMINATED, 2)
    running.devices = ["cpu"]
    assert running.run() == 0
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


KILLED = """
import os, sys, optuna
from quell_tuning.trials.budget import Budget
from quell_tuning.storage.backends import open_storage
storage = open_storage(sys.argv[1])
study = optuna.load_study(study_name="s", storage=storage)
trial = Budget(study, int(sys.argv[2])).claim()
hours = 0.25 * trial.user_attrs["attempt"]
trial.set_user_attr("lease", [1, hours, hours])
if hours > 1:
    study.tell(trial, hours)
os.kill(os.getpid(), 9)
"""


def test_workers_that_are_killed_again_and_again_run_the_budget_while_checkpoints_get_further(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "BACK_OFF_S", 0.01)
    running, shown = pool(study, tmp_path, KILLED, 1)
    running.devices = ["cpu"]
    assert running.run() == 0
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 4 + ["COMPLETE"]
    assert shown.getvalue().count("worker 0: killed (SIGKILL)") >= 4


def test_a_database_that_is_deleted_while_workers_run_ends_the_study_and_is_saved(
    study: optuna.Study, tmp_path: Path
) -> None:
    running, _ = pool(study, tmp_path, f"import os, time; os.unlink({str(tmp_path / 'q.db')!r}); time.sleep(60)", 5)
    with pytest.raises(DatabaseGone, match=r"q\.db was deleted while it was in use, .* is in \S+/q-saved-1\.db"):
        running.run()
    assert (tmp_path / "q-saved-1.db").exists()
