"""Locks between processes: who can open them, how long they are waited for, and what is said meanwhile."""

import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quell import locks
from quell.errors import LockError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from quell import locks

with locks.hold(Path(sys.argv[1]), 1):
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture
def open_to_all() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_to_all")
@pytest.mark.parametrize("exists", [False, True])
def test_a_lock_can_be_opened_by_its_user_only(exists: bool, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    if exists:
        file.touch(0o644)  # as earlier versions made them
    with locks.hold(file, 1):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_other_module_locks_files() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tuning").rglob("*.py")]
    assert [path.name for path in sources if "fcntl" in path.read_text()] == ["locks.py"]


def test_a_lock_that_is_not_released_is_one_line_with_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "TELL_S", 0.1)
    file = tmp_path / "lock"
    with (
        caplog.at_level(logging.WARNING, "quell"),
        locks.hold(file, 1),
        pytest.raises(LockError) as raised,
        locks.hold(file, 0.3),
    ):
        pass
    holder = rf"{re.escape(str(file))}: locked by process {os.getpid()} on \S+ since \d+-\d+-\d+ \d+:\d+:\d+ UTC"
    assert re.fullmatch(rf"{holder}, expected it free within 0 s; end that process, .*", str(raised.value))
    (said,) = caplog.messages
    assert re.fullmatch(rf"{holder}; waiting for up to 0 s", said)
    with locks.hold(file, 0):  # it was released
        pass


def test_a_lock_that_others_share_is_not_free_for_one_alone(tmp_path: Path) -> None:
    first, second = (locks.open_lock(tmp_path / "lock") for _ in range(2))
    assert locks.take(first, shared=True)
    assert locks.take(second, shared=True)
    locks.close(second)
    third = locks.open_lock(tmp_path / "lock")
    assert not locks.take(third)
    locks.close(first)
    assert locks.take(third)
    locks.close(third)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert (tmp_path / "lock").read_text().startswith(f"process {holder.pid} on ")
        holder.kill()
    with locks.hold(tmp_path / "lock", 0):
        pass
