"""Identifies a worker process, as written on its trial: host, process id, machine and start time."""

import os
import socket
from pathlib import Path

from quell.processes import machine


def worker_name() -> str:
    """host:process:machine.start of this process; the start time differs when a process id is used again.

    The machine is that of `quell.processes.machine`.
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
