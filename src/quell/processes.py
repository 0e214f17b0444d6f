"""What child processes need to end with their parent; the cores, kills for want of memory and processes seen here."""

import atexit
import functools
import gc
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")  # the control groups of this process
GROUPS = Path("/sys/fs/cgroup")
BOOT = Path("/proc/sys/kernel/random/boot_id")
PROCESSES = Path("/proc/self/ns/pid")


@contextmanager
def undisturbed() -> Iterator[None]:
    """For starting processes that follow their parent: until one has Python running, and says so itself, a Ctrl-C would
    end it with a traceback. It inherits that it waits."""
    resource_tracker.ensure_running()  # it is started with the first process, and then lets SIGINT through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends when the parent does: nothing else would close the pool of a killed one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It ends in 0.15 s instead of 0.6 s, for which its pool waits: Python looks for no cycles among all that it knows.
    atexit.register(gc.freeze)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@functools.cache
def machine() -> str:
    """The boot of this system and the process namespace: processes that have it in common see each other's numbers.

    Containers that share a host's name, and clones of a machine, do not. Empty where that is unknown.
    """
    try:
        return f"{BOOT.read_text()[:8]}-{PROCESSES.stat().st_ino}"
    except OSError:
        return ""


def cores() -> int:
    """How many cores this process may use, at least 1: its affinity where the system has one, and a container's quota
    of CPU time."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(found, _cpu_quota())))


def _cpu_quota() -> float:
    """Cores' worth of CPU time that the control groups (version 2) of this process allow, infinite without a limit."""
    group = _own_group()
    if group is None:
        return math.inf
    return min(_quota_of(folder) for folder in (group, *group.parents) if folder.is_relative_to(GROUPS))


def oom_kills() -> int | None:
    """How many processes of this control group (version 2) the system has killed for want of memory; None where that
    is not known."""
    group = _own_group()
    if group is None:
        return None
    try:
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        return int(events["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


def _own_group() -> Path | None:
    """The folder of this process's control group (version 2); None on other systems than Linux."""
    try:
        return GROUPS / OWN_GROUPS.read_text().rpartition("::/")[2].strip()
    except OSError:
        return None


def _quota_of(group: Path) -> float:
    try:
        allowed, period = (group / "cpu.max").read_text().split()  # microseconds; "max" without a limit
        return float(allowed) / float(period)
    except (OSError, ValueError):
        return math.inf
