"""What runs in a process of `process_pool`: its setup, the state that it shares, the calls that it takes."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from quell import audio
from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult


class SharedState(ctypes.Structure):
    """State of a process in memory shared with its parent; the process alone writes it, without a lock."""

    _fields_ = (
        ("seconds", ctypes.c_double),  # of audio denoised so far
        ("busy", ctypes.c_bool),
        ("loading", ctypes.c_bool),  # the model, a part of whose program runs then, and may not end
        ("named", ctypes.c_bool),  # the output of the last job has its final name
        ("steps", ctypes.c_uint64),  # increases with all progress
        ("pid", ctypes.c_int),
    )


class Setup(NamedTuple):
    """Arguments of a process."""

    model: Path | None
    options: DenoiseOptions
    processes: int  # of the run
    stop: Any  # a shared c_bool: the run ends
    state: Any  # a SharedState


AGAIN_S = 0.01  # until a stop that a destructor swallowed is raised again


class _Stopped(BaseException):
    """The run was interrupted, or this process received SIGTERM."""


_setup: list[Setup] = []
_model: list[Any] = []


def begin(setup: Setup) -> None:
    """Initialises the process; to be called once, before any other call."""
    _setup.append(setup)
    setup.state.pid = os.getpid()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _leave)
    sys.unraisablehook = _stop_again
    # Decoders print warnings, some of them to the standard output; Python keeps its own standard error.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    os.close(devnull)


def _leave(*_: object) -> None:
    if not _setup[0].state.busy:
        os._exit(143)
    raise _Stopped


def _stop_again(unraisable: Any) -> None:
    """Python prints and drops what is raised while a generator is closed by its destructor."""
    if unraisable.exc_type is _Stopped:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(unraisable)


def load_model() -> bool:
    """Loads the model, once. Pretrained ones are loaded by the first recording that needs them."""
    (setup,) = _setup
    if not _model:
        import torch

        from quell.export.exported_model import load

        if setup.processes > 1:
            torch.set_num_threads(1)
        setup.state.loading = True
        try:
            _model.append(None if setup.model is None else load(setup.model))
        finally:
            setup.state.loading = False
    return True


def lengths_s(paths: Sequence[Path]) -> list[float]:
    """Seconds of audio in each file."""
    (setup,) = _setup
    lengths = []
    with _busy(setup.state):
        for path in paths:
            setup.state.steps += 1
            lengths.append(0.0 if setup.stop.value else audio.seconds(path))
    return lengths


def denoise(job: DenoiseJob) -> JobResult | None:
    """Denoises one file; None when the process was to stop meanwhile."""
    (setup,) = _setup

    def progress(seconds: float) -> None:
        setup.state.seconds += seconds
        setup.state.steps += 1
        if setup.stop.value:
            raise _Stopped

    from quell.inference.enhancement import denoise_job

    load_model()
    if setup.stop.value:
        return None
    setup.state.named = False
    with _busy(setup.state):
        result = denoise_job(job, _model[0], setup.options, progress)
        setup.state.named = result.error is None
        return result
    return None


@contextmanager
def _busy(state: Any) -> Iterator[None]:
    """Marks the process as busy, and ends quietly on _Stopped: partial outputs are removed by then."""
    try:
        state.steps += 1
        state.busy = True
        yield
    except _Stopped:
        pass
    finally:
        state.busy = False
