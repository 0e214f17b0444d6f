"""An SQLite file: names in it, without Optuna, and what is said when it is taken away while it is in use."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from quell_tuning.errors import DatabaseGone
from quell_tuning.sqlite_file import completed_trials, study_names, writer
from quell_tuning.storage.backends import open_storage


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
        "import sys; from quell_tuning import sqlite_file\n"
        "sys.exit(str({'optuna', 'sqlalchemy', 'torch'} & set(sys.modules) or 0).replace('0', ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


class InUse:
    """A study in a database that this process uses."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.storage = open_storage(f"sqlite:///{file}", create=True)
        self.study = optuna.create_study(study_name="s", storage=self.storage)
        self.study.enqueue_trial({"x": 0.5})

    def lost(self) -> str:
        """What the next call says."""
        with pytest.raises(DatabaseGone) as raised:
            self.study.set_user_attr("late", 1)
        assert "\n" not in str(raised.value)
        return str(raised.value)


@pytest.fixture
def in_use(tmp_path: Path) -> Iterator[InUse]:
    found = InUse(tmp_path / "runs" / "quell.db")
    yield found
    found.storage.close()


def parameters(file: Path) -> list[float]:
    """Of the trials of the study in a copy."""
    storage = open_storage(f"sqlite:///{file}")
    trials = optuna.load_study(study_name="s", storage=storage).trials
    storage.close()
    return [trial.system_attrs["fixed_params"]["x"] for trial in trials]


def delete(file: Path) -> None:
    for part in ("", "-wal", "-shm"):
        Path(f"{file}{part}").unlink()


def replace(file: Path) -> None:
    other = file.with_name("other.db")
    other.touch()
    other.replace(file)


@pytest.mark.parametrize(
    ("happens", "found"),
    [
        (Path.unlink, "quell.db was deleted"),
        (delete, "quell.db was deleted"),
        (lambda file: Path(f"{file}-wal").unlink(), "quell.db-wal was deleted"),
        (lambda file: Path(f"{file}-shm").unlink(), "quell.db-shm was deleted"),
        (replace, "replaced by another file"),
        (lambda file: shutil.rmtree(file.parent), "quell.db was deleted"),
    ],
    ids=["deleted", "with its parts", "its log", "its index", "replaced", "with its folder"],
)
def test_a_file_that_is_gone_while_in_use_is_noticed_at_the_next_call_and_its_content_saved(
    happens: Callable[[Path], None], found: str, in_use: InUse
) -> None:
    happens(in_use.file)
    said = in_use.lost()
    assert said.startswith(f"{in_use.file}: {found}")
    assert " while it was in use, expected it to stay; all that was in it is in " in said
    saved = Path(said.partition(" is in ")[2].partition(";")[0])
    assert saved.name == "quell-saved-1.db"
    assert parameters(saved) == [0.5]
    assert in_use.lost() == said  # every later call too, and no second copy
    assert not list(saved.parent.glob("*-saved-2*"))


def test_a_folder_that_was_moved_is_named_where_it_is_now(in_use: InUse, tmp_path: Path) -> None:
    in_use.file.parent.rename(tmp_path / "elsewhere")
    assert f"{in_use.file}: moved to {tmp_path / 'elsewhere' / 'quell.db'} while it was in use" in in_use.lost()
    assert not list((tmp_path / "elsewhere").glob("*saved*"))
    assert not in_use.file.exists()  # nor was a new one made
    assert parameters(tmp_path / "elsewhere" / "quell.db") == [0.5]


def test_what_others_write_after_the_copy_is_in_the_last_one(in_use: InUse) -> None:
    with closing(sqlite3.connect(in_use.file, timeout=5)) as late:
        late.execute("SELECT * FROM trials").fetchall()
        delete(in_use.file)
        said = in_use.lost()
        late.execute("UPDATE studies SET study_name = 'written late'")
        late.commit()
    assert in_use.lost() == said
    (saved,) = in_use.file.parent.glob("quell-saved-*.db")
    assert study_names(saved) == ["written late"]


def test_a_copy_of_an_earlier_loss_is_kept(in_use: InUse) -> None:
    earlier = in_use.file.with_name("quell-saved-1.db")
    earlier.write_bytes(b"earlier")
    os.utime(earlier, (1, 1))
    in_use.file.unlink()
    assert "quell-saved-2.db" in in_use.lost()
    assert earlier.read_bytes() == b"earlier"


def test_a_new_database_under_the_name_keeps_its_own_files_when_the_old_is_closed(in_use: InUse) -> None:
    delete(in_use.file)
    other = open_storage(f"sqlite:///{in_use.file}", create=True)
    optuna.create_study(study_name="new", storage=other)
    in_use.lost()
    in_use.storage.close()
    assert Path(f"{in_use.file}-wal").exists()
    other.close()
    assert study_names(in_use.file) == ["new"]


def test_a_closed_database_is_one_file(in_use: InUse) -> None:
    in_use.storage.close()
    assert sorted(path.name for path in in_use.file.parent.iterdir()) == [".quell.db.lock", "quell.db"]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells")
def test_who_writes_to_a_file_is_told(in_use: InUse) -> None:
    assert writer(in_use.file) is None
    with closing(sqlite3.connect(in_use.file, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert writer(in_use.file) == f"process {os.getpid()}"
        database.execute("ROLLBACK")
