"""The pool of processes that score."""

import os
import signal
import sys
from pathlib import Path

import pytest

from quell import processes
from quell.processes import cores, pool


def loaded() -> tuple[int, bool]:
    return os.getpid(), "torch" in sys.modules


def threads() -> tuple[int, str | None]:
    import numpy  # noqa: F401 - loads BLAS
    from threadpoolctl import threadpool_info

    return max(found["num_threads"] for found in threadpool_info()), os.environ.get("OMP_NUM_THREADS")


def deaf() -> bool:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN and signal.SIGINT in signal.pthread_sigmask(
        signal.SIG_BLOCK, ()
    )


def test_tasks_run_in_other_processes_that_have_not_loaded_torch() -> None:
    import torch  # loaded here, and not there

    assert torch.__name__ in sys.modules
    with pool(1) as workers:
        process, has_torch = workers.submit(loaded).result(timeout=60)
    assert process != os.getpid()
    assert not has_torch


def test_a_process_leaves_ctrl_c_to_its_parent_from_its_first_moment_on() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pool(1) as workers:
        assert workers.submit(deaf).result(timeout=60)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


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


@pytest.mark.parametrize("before", [None, "2"])
def test_a_pool_of_one_thread_gives_blas_one_and_leaves_this_process_alone(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    with pool(1, one_thread=True) as workers:
        assert workers.submit(threads).result(timeout=60) == (1, "1")
    assert os.environ.get("OMP_NUM_THREADS") == before
