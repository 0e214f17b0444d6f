"""Workers spread over the GPUs of their machine, also when nobody tells them which to take."""

import multiprocessing
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from quell_tuning.errors import StorageError, UsageError
from quell_tuning.workers import devices
from quell_tuning.workers.devices import check_devices, choose, least_taken, share_devices

TWO = {"cuda:0": "GPU-aaaa", "cuda:1": "GPU-bbbb"}


def test_claims_go_to_the_device_with_the_fewest(tmp_path: Path) -> None:
    with ExitStack() as stack:
        claims = [stack.enter_context(least_taken(TWO, tmp_path)) for _ in range(4)]
        assert [claim.device for claim in claims] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
        with least_taken(TWO, tmp_path) as fifth, claims[1], claims[3]:
            assert fifth.device == "cuda:0"
        with least_taken(TWO, tmp_path) as freed:
            assert freed.device == "cuda:1"


def claimed(folder: Path, together: "multiprocessing.synchronize.Barrier", found: "multiprocessing.Queue[str]") -> None:
    with least_taken(TWO, folder) as claim:
        found.put(claim.device)
        together.wait(60)


def test_processes_that_start_at_once_share_evenly_and_killed_ones_leave_no_claim(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, found = context.Barrier(5), context.Queue()
    processes = [context.Process(target=claimed, args=(tmp_path, together, found)) for _ in range(4)]
    for process in processes:
        process.start()
    assert Counter(found.get(timeout=60) for _ in processes) == {"cuda:0": 2, "cuda:1": 2}
    for process in processes:
        process.kill()
        process.join()
    with least_taken(TWO, tmp_path) as claim:
        assert claim.device == "cuda:0"


def test_gpus_of_other_machines_are_counted_separately_in_a_shared_folder(tmp_path: Path) -> None:
    theirs = {"cuda:0": "GPU-cccc", "cuda:1": "GPU-dddd"}
    with least_taken({"cuda:0": "GPU-aaaa"}, tmp_path), least_taken(theirs, tmp_path) as claim:
        assert claim.device == "cuda:0"


def test_without_a_gpu_the_cpu_is_taken_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path / "nvidiactl",))
    assert choose("auto", tmp_path / "locks").device == "cpu"
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_folder_without_room_for_locks_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/locks: Not a directory, expected a folder for locks; check --runs"):
        least_taken(TWO, tmp_path / "file" / "locks")


def test_a_device_given_by_name_is_checked(tmp_path: Path) -> None:
    assert choose("cpu", tmp_path).device == "cpu"
    with pytest.raises(UsageError, match="'gpu', expected cpu, cuda or cuda:<number>"):
        choose("gpu", tmp_path)
    assert check_devices(["cpu", "cpu"]) == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("per_gpu", "workers", "shared"),
    [(1, None, "ab"), (2, None, "abab"), (1, 3, "aba"), (2, 1, "a"), (1, 0, "")],
)
def test_workers_take_the_devices_in_turn(per_gpu: int, workers: int | None, shared: str) -> None:
    assert "".join(share_devices(["a", "b"], per_gpu, workers)) == shared
