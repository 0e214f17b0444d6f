"""The pool of processes that score."""

import os
import signal
import sys

from quell.processes import pool


def loaded() -> tuple[int, bool]:
    return os.getpid(), "torch" in sys.modules


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
