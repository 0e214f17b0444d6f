"""Identifies a worker process, as written on its trial: host, process id, machine and start time."""

import os
import socket
from pathlib import Path

from quell.processes import machine

HIDDEN = 0  # start time of a process that exists and that cannot be looked at


def worker_name() -> str:
    """host:process:machine.start of this process; the start time differs when a process id is used again.

    The machine is that of `quell.processes.machine`.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{machine()}.{started_at(os.getpid())}"


def shown(worker: object) -> str:
    """host:process of a worker's name, for messages."""
    return ":".join(str(worker).split(":")[:2])


def runs_here(worker: object) -> bool | None:
    """Whether a worker's process exists; None where that is unknown: on another machine, or where this system hides
    other users' processes (/proc mounted with hidepid)."""
    host, _, rest = str(worker).partition(":")
    process, _, mark = rest.partition(":")
    worker_machine, _, start = mark.rpartition(".")
    here = worker_machine == machine() if machine() else host == socket.gethostname()
    if not here or not process.isdigit():
        return None
    now = started_at(int(process))
    if now == HIDDEN and start != str(HIDDEN):
        return None
    return str(now) == start


def started_at(process: int) -> int | None:
    """When a process started, in clock ticks since boot; HIDDEN where that is unknown, None where there is none."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return HIDDEN
