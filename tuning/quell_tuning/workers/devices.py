"""The devices of workers: checked, shared out, and the least used GPU chosen."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from quell import locks
from quell_tuning.errors import StorageError, UsageError

AUTO = "auto"
DEVICES = "cpu, cuda or cuda:<number>"
# Files of the drivers of NVIDIA (on WSL too) and AMD: without any of them there is no need to import torch.
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
MAX_WORKERS = 64  # on one device


def check_devices(names: Sequence[str]) -> list[str]:
    """The devices of these names; without names all GPUs, or the CPU where there is none. Raises UsageError for
    a device that torch does not know or this machine does not have."""
    _check(names, "--devices", f"{DEVICES}, separated by commas")
    return list(names) or [f"cuda:{number}" for number in range(_gpus())] or ["cpu"]


def check_device(name: str, also: str = "") -> str:
    """Returns the name of a device that exists; errors as `check_devices`, with what `also` may be given."""
    _check([name], "--device", f"{DEVICES}{also}")
    return name


def _check(names: Sequence[str], option: str, expected: str) -> None:
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UsageError(f"{option}: {name!r}, expected {expected}; change it")
    count = _gpus() if set(names) - {"cpu"} else 0
    for name in names:
        if name != "cpu" and int(name.partition(":")[2] or 0) >= count:
            here = f"expected one of this machine's {count} GPUs"
            raise UsageError(f"{option}: {name!r}, {here}; use cpu, or another number")


def share_devices(devices: Sequence[str], per_gpu: int, workers: int | None) -> list[str]:
    """The device of each worker: each device `per_gpu` times, or `workers` times in turn."""
    shares = [device for _ in range(per_gpu) for device in devices]
    return [shares[number % len(shares)] for number in range(len(shares) if workers is None else workers)]


class Claim:
    """A device of this machine, taken until the block or this process ends."""

    def __init__(self, device: str, lock: IO[bytes] | None = None) -> None:
        self.device = device
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()


def choose(name: str, folder: Path) -> Claim:
    """Claims the device of that name; for `auto` the GPU with the fewest claims, or the CPU where there is no GPU.

    Args:
        folder: of the locks, shared by the workers of this machine.

    Raises:
        UsageError: as `check_devices`.
        StorageError: the folder cannot be written to.
    """
    if name != AUTO:
        return Claim(check_device(name, also=f" or {AUTO}"))
    return least_taken(_gpu_identifiers() if any(driver.exists() for driver in DRIVERS) else {}, folder)


def least_taken(devices: Mapping[str, str], folder: Path) -> Claim:
    """Claims the device with the fewest claims, the first of several; the CPU where no device is given.

    Args:
        devices: name -> an identifier that no other device anywhere has.
        folder: as of `choose`, with its error.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for turn in range(MAX_WORKERS):
            for device, identifier in devices.items():
                lock = os.fdopen(locks.open_lock(folder / f"{identifier}.{turn}"), "wb")
                if locks.take(lock.fileno()):
                    return Claim(device, lock)
                lock.close()
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}, expected a folder for locks; check --runs") from error
    return Claim(next(iter(devices), "cpu"))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _gpu_identifiers() -> dict[str, str]:
    import torch

    return {f"cuda:{number}": str(torch.cuda.get_device_properties(number).uuid) for number in range(_gpus())}
