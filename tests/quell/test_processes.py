"""The number of cores that this process may use."""

import os
from pathlib import Path

import pytest

from quell import processes
from quell.processes import cores, oom_kills


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of a process in `job/step` on a machine of 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(processes, "GROUPS", tmp_path)
    monkeypatch.setattr(processes, "OWN_GROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        ("max 100000", "max 100000", 64),
        ("400000 100000", "max 100000", 4),
        ("max 100000", "250000 100000", 3),
        ("50000 100000", "800000 100000", 1),
        ("", "not a quota", 64),
    ],
)
def test_cores_are_no_more_than_the_cpu_quota_of_any_control_group(
    groups: Path, own: str, above: str, expected: int
) -> None:
    (groups / "job" / "step" / "cpu.max").write_text(own)
    (groups / "job" / "cpu.max").write_text(above)
    assert cores() == expected


def test_without_affinity_and_control_groups_all_cores_count(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (groups / "cgroup").unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores() == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_kills_for_want_of_memory_are_those_of_the_own_control_group(groups: Path) -> None:
    assert oom_kills() is None
    (groups / "job" / "step" / "memory.events").write_text("low 0\noom 2\noom_kill 7\noom_group_kill 0\n")
    assert oom_kills() == 7
    (groups / "cgroup").unlink()
    assert oom_kills() is None
