"""The pool of processes that score."""

import os
import sys

from quell.processes import pool


def loaded() -> tuple[int, bool]:
    return os.getpid(), "torch" in sys.modules


def test_tasks_run_in_other_processes_that_have_not_loaded_torch() -> None:
    import torch  # loaded here, and not there

    assert torch.__name__ in sys.modules
    with pool(1) as workers:
        process, has_torch = workers.submit(loaded).result(timeout=60)
    assert process != os.getpid()
    assert not has_torch
