"""Processes that compute beside this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any


def pool(processes: int, begin: Callable[..., None] | None = None, *args: Any) -> ProcessPoolExecutor:
    """Spawned processes, started at the first task. They end with this process, even when it is killed.

    Args:
        begin: called in each of them, with `args`, before its first task.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_follow_parent, initargs=(begin, *args))


def _follow_parent(begin: Callable[..., None] | None, *args: Any) -> None:
    """Leaves Ctrl-C to the parent, and ends when the parent does: nobody else would close a killed one's pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if begin is not None:
        begin(*args)
