"""Which device a worker trains on."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from quell_tuning.errors import StorageError, UsageError

AUTO = "auto"
DEVICES = "cpu, cuda or cuda:<number>"
# Where the drivers of NVIDIA (on WSL too) and AMD show that there is a GPU; nothing else is worth importing torch for.
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
MOST = 64  # workers on one device


def check_devices(names: Sequence[str]) -> list[str]:
    """The devices to use; all GPUs, or the CPU where there is none, when no name is given.

    Raises:
        UsageError: a device that torch does not know or this machine does not have.
    """
    _check(names, "--devices", f"{DEVICES}, separated by commas")
    return list(names) or [f"cuda:{number}" for number in range(_gpus())] or ["cpu"]


def check_device(name: str, also: str = "") -> str:
    """The same device.

    Args:
        also: what may be given beside a device, for the error.

    Raises:
        UsageError: as `check_devices`.
    """
    _check([name], "--device", f"{DEVICES}{also}")
    return name


def _check(names: Sequence[str], option: str, expected: str) -> None:
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UsageError(f"{option}: {name!r}, expected {expected}; change it")
    count = _gpus() if set(names) - {"cpu"} else 0
    for name in names:
        if name != "cpu" and int(name.partition(":")[2] or 0) >= count:
            raise UsageError(
                f"{option}: {name!r}, expected one of this machine's {count} GPUs; use cpu, or another number"
            )


def share_devices(devices: Sequence[str], per_gpu: int, workers: int | None) -> list[str]:
    """The device of each worker: every GPU so many times, or `workers` of them in turn."""
    places = [device for _ in range(per_gpu) for device in devices]
    return [places[number % len(places)] for number in range(len(places) if workers is None else workers)]


class Claim:
    """A device of this machine, taken until the block or this process ends."""

    def __init__(self, device: str, lock: IO[bytes] | None = None) -> None:
        self.device = device
        self._lock = lock

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()


def choose(name: str, folder: Path) -> Claim:
    """The device of that name; of `auto` the GPU that fewest workers have taken, or the CPU where there is none.

    Args:
        folder: shared by the workers of this machine, who leave locks there.

    Raises:
        UsageError: as `check_devices`.
        StorageError: the folder cannot be written to.
    """
    if name != AUTO:
        return Claim(check_device(name, also=f" or {AUTO}"))
    return least_taken(_identified() if any(driver.exists() for driver in DRIVERS) else {}, folder)


def least_taken(devices: Mapping[str, str], folder: Path) -> Claim:
    """The device that fewest processes have a claim on; the first of several, the CPU of none.

    Args:
        devices: their names, and what tells each from all others anywhere.

    Raises:
        StorageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for turn in range(MOST):
            for device, known in devices.items():
                lock = (folder / f"{known}.{turn}").open("wb")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    lock.close()
                else:
                    return Claim(device, lock)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}, expected a folder for locks; check --runs") from error
    return Claim(next(iter(devices), "cpu"))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _identified() -> dict[str, str]:
    import torch

    return {f"cuda:{number}": str(torch.cuda.get_device_properties(number).uuid) for number in range(_gpus())}
