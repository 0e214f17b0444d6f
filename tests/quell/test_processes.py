"""The number of cores that this process may use."""

import os
from pathlib import Path

import pytest

from quell import processes
from quell.processes import cores


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
