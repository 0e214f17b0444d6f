"""Names of studies and trials of an SQLite file, without Optuna."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from quell_tuning.storage.sqlite_names import completed_trials, study_names


def test_studies_and_completed_trials_are_those_that_optuna_wrote(tmp_path: Path) -> None:
    file = tmp_path / "a b#?.db"
    storage = f"sqlite:///{tmp_path}/quell.db"
    for name in ("first", "it's"):
        study = optuna.create_study(study_name=name, storage=storage)
        for state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE):
            study.add_trial(optuna.trial.create_trial(state=state, value=1.0 if state.name == "COMPLETE" else None))
    (tmp_path / "quell.db").rename(file)
    assert study_names(file) == ["it's", "first"]
    assert completed_trials(file, "it's") == [0, 2]
    assert completed_trials(file, "third") == []


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + b"x" * 100])
def test_what_is_no_database_has_no_names_and_stays_as_it_is(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "quell.db"
    if content is not None:
        file.write_bytes(content)
    assert study_names(file) == []
    assert completed_trials(file, "demo") == []
    assert (file.read_bytes() if file.exists() else None) == content


def test_reading_names_imports_neither_optuna_nor_sqlalchemy() -> None:
    code = (
        "import sys; from quell_tuning.storage import sqlite_names\n"
        "sys.exit(str({'optuna', 'sqlalchemy', 'torch'} & set(sys.modules) or 0).replace('0', ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
