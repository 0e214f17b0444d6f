"""Identifies a worker process, as written on its trial: host, process id, machine and start time."""

import functools
import os
import socket
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
PROCESSES = Path("/proc/self/ns/pid")


def worker_name() -> str:
    """host:process:machine.start of this process; the start time differs when a process id is used again.

    The machine is the boot of a system and its process namespace: containers that share a host's name, and clones of a
    machine, do not see each other's processes. Empty where that is unknown.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{machine()}.{started_at(os.getpid())}"


def shown(worker: object) -> str:
    """host:process of a worker's name, for messages."""
    return ":".join(str(worker).split(":")[:2])


def runs_here(worker: object) -> bool | None:
    """Whether a worker's process exists; None where that is unknown, as of one on another machine."""
    host, _, rest = str(worker).partition(":")
    process, _, mark = rest.partition(":")
    worker_machine, _, start = mark.rpartition(".")
    here = worker_machine == machine() if machine() else host == socket.gethostname()
    if not here or not process.isdigit():
        return None
    return str(started_at(int(process))) == start


@functools.cache
def machine() -> str:
    try:
        return f"{BOOT.read_text()[:8]}-{PROCESSES.stat().st_ino}"
    except OSError:
        return ""


def started_at(process: int) -> int | None:
    """When a process started, in clock ticks since boot; 0 where that is unknown, None when there is no process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0
