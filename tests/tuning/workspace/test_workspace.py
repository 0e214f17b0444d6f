"""Where the storage is: flag, file, environment, and the file of its password."""

from pathlib import Path

import pytest
from quell_tuning import environment
from quell_tuning.errors import StorageError, UsageError
from quell_tuning.storage.urls import storage_url
from quell_tuning.workspace.run_folder import RunFolder

RUNS = RunFolder(Path("runs"))
SERVER = "postgresql+psycopg://quell@db.example/quell"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.STORAGE.name, raising=False)
    monkeypatch.delenv(environment.STORAGE_PASSWORD_FILE.name, raising=False)


def test_flag_or_file_comes_before_the_environment_and_that_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage_url(None, None, RUNS.storage_url) == "sqlite:///runs/quell.db"
    monkeypatch.setenv(environment.STORAGE.name, SERVER)
    assert storage_url(None, None, RUNS.storage_url) == SERVER
    assert storage_url("sqlite:///a.db", None, RUNS.storage_url) == "sqlite:///a.db"
    (tmp_path / "url").write_text("grpc://proxy:13000\n")
    assert storage_url(None, tmp_path / "url", RUNS.storage_url) == "grpc://proxy:13000"
    with pytest.raises(UsageError, match="both given"):
        storage_url("sqlite:///a.db", tmp_path / "url", RUNS.storage_url)


def test_a_server_takes_its_password_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("a b@c:/%"[2:] + "\n")
    monkeypatch.setenv(environment.STORAGE_PASSWORD_FILE.name, str(tmp_path / "password"))
    assert storage_url(SERVER, None, RUNS.storage_url) == "postgresql+psycopg://quell:b%40c%3A%2F%25@db.example/quell"
    known = "postgresql://quell:known@db.example/quell"
    for url in (known, "sqlite:///a.db", "grpc://proxy:13000", "postgres"):
        assert storage_url(url, None, RUNS.storage_url) == url


@pytest.mark.parametrize(
    ("content", "found"), [(None, "No such file or directory"), ("", "0 words"), ("secret word", "2 words")]
)
def test_a_file_without_a_password_is_named_and_its_text_not_shown(
    content: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(environment.STORAGE_PASSWORD_FILE.name, str(file))
    with pytest.raises(StorageError) as refused:
        storage_url(SERVER, None, RUNS.storage_url)
    assert str(refused.value).startswith(f"{file}: {found}, expected ")
    assert "secret" not in str(refused.value)
