"""What stands on studies and trials of the code that made them."""

import subprocess
from pathlib import Path

import pytest
from quell_tuning import version


def test_the_commit_is_that_of_the_code_s_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "code.py"
    code.write_text("a")
    monkeypatch.setattr(version, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert version.commit() == ""  # no checkout at all
    git("init")
    assert version.commit() == ""  # of a checkout that the code is not part of
    git("add", ".")
    git("commit", "-m", "a")
    head = git("rev-parse", "--short", "HEAD")
    assert version.commit() == head
    code.write_text("b")
    assert version.commit() == f"{head}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.commit() == ""  # no git
