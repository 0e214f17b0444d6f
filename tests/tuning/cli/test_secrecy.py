"""The database's password is in no command line, file, output or attribute."""

import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from program import clean_environment, quell
from quell_tuning.optuna_private import study_id_of
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.urls import storage_url
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.workspace import Workspace

SECRET = "sesame"  # the part of the password that is the same quoted and unquoted


def started(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line as a program of its own, by which /proc knows it."""
    command = [sys.executable, "-m", "quell_tuning.cli", *arguments]
    variables = clean_environment() | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=variables)


@contextmanager
def command_lines(folder: Path) -> Iterator[set[str]]:
    """Collects the command lines of all processes in the folder, while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if process.joinpath("cwd").readlink() == folder:
                        seen.add(process.joinpath("cmdline").read_text(errors="replace").replace("\0", " "))
                except OSError:  # it ended
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def contents(folder: Path) -> Iterator[tuple[Path | str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
        if path.suffix == ".pt":
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")
def test_a_search_shows_the_password_nowhere(
    postgres: PostgresServer, tmp_path: Path, tiny_study: str, tiny_recordings: Path, study_name: str
) -> None:
    runs = tmp_path / "there"
    runs.mkdir()
    one_configuration = tiny_study.replace("{ low = 2, high = 3 }", "3")  # better than its input, so it is exported
    (runs / "s.toml").write_text(one_configuration.replace('"tiny"', json.dumps(study_name)))
    (tmp_path / "url").write_text(f"{postgres.url}\n")
    tune = ["tune", "s.toml", "--corpus", str(tiny_recordings), "--workers", "2", "--trials"]
    by_file = ["--storage-file", str(tmp_path / "url")]
    with command_lines(runs) as seen:
        done = [
            started(*tune, "1", *by_file, cwd=runs),
            started(*tune, "2", cwd=runs, QUELL_STORAGE=postgres.url),
            quell("status", study_name, "--json", *by_file, cwd=runs),
            started("export", study_name, "-o", "best.pt", cwd=runs, QUELL_STORAGE=postgres.url),
        ]
    assert [one.returncode for one in done] == [0] * 4, "".join(one.stderr for one in done)
    assert json.loads(done[2].stdout)["trials"] == 2
    assert {command.partition("quell_tuning.cli ")[2].partition(" ")[0] for command in seen} >= {
        "tune",
        "worker",
        "export",
    }
    assert not [command for command in seen if SECRET in command]
    assert not [one.args for one in done if SECRET in one.stdout + one.stderr]
    files = dict(contents(runs))
    assert {path.name for path in map(Path, files)} >= {"worker-0.log", "quell.json", "best.pt"}
    assert not [path for path, content in files.items() if SECRET.encode() in content]
    storage = open_storage(postgres.url)
    study = optuna.load_study(study_name=study_name, storage=storage)
    attributes = [study.user_attrs, storage.get_study_system_attrs(study_id_of(study))]
    attributes += [words for trial in study.trials for words in (trial.user_attrs, trial.system_attrs)]
    storage.close()
    assert "worker" in str(attributes)
    assert SECRET not in str(attributes)


def test_the_text_of_a_workspace_is_without_its_storage(postgres: PostgresServer, tmp_path: Path) -> None:
    assert SECRET in postgres.url
    place = Workspace(RunFolder(tmp_path), postgres.url, None)
    assert SECRET not in f"{place!r} {place}"


def test_a_flag_overrides_the_file_and_a_file_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, file = RunFolder(tmp_path / "runs"), tmp_path / "url"
    file.write_text("\n  grpc://file:1 \n")
    assert storage_url(None, None, runs.storage_url) == f"sqlite:///{tmp_path}/runs/quell.db"
    monkeypatch.setenv("QUELL_STORAGE", "grpc://environment:1")
    assert storage_url(None, None, runs.storage_url) == "grpc://environment:1"
    assert storage_url(None, file, runs.storage_url) == "grpc://file:1"
    assert storage_url("grpc://flag:1", None, runs.storage_url) == "grpc://flag:1"


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "arguments", "code", "message"),
    [
        (write(b"x"), ["--storage", "grpc://host:1"], 2, "--storage and --storage-file: both given, expected one"),
        (lambda path: None, [], 1, "url: No such file or directory, expected a file that holds a storage URL"),
        (Path.mkdir, [], 1, "url: Is a directory, expected a file that holds a storage URL"),
        (write(b"\xff\xfe\x00"), [], 1, "url: not text, expected a file that holds a storage URL; check the path"),
        (write(b" \n"), [], 1, "url: 0 words, expected one, the storage URL"),
        (write(b"grpc://me:sesame@host:1\nsesame\n"), [], 1, "url: 2 words, expected one, the storage URL"),
        (write(b"me:sesame@host"), [], 1, "--storage: 'me', expected sqlite:///FILE"),
    ],
)
def test_an_unusable_storage_file_is_an_error_of_one_line_without_its_content(
    make: Callable[[Path], object], arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    make(tmp_path / "url")
    done = quell("status", "--storage-file", "url", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("quell: ")
    assert message in line
    assert SECRET not in line
    assert not (tmp_path / "runs").exists()
