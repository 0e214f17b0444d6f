"""A process that denoises files: what it is given, what it shows of itself, what it does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from quell.inference.jobs import DenoiseJob, DenoiseOptions, JobResult, seconds


class SharedState(ctypes.Structure):
    """What a process shows of itself, in memory that it shares; nobody else writes there."""

    _fields_ = (
        ("seconds", ctypes.c_double),  # of sound that it has done
        ("busy", ctypes.c_bool),
        ("steps", ctypes.c_uint64),  # it goes up while it gets anywhere
        ("pid", ctypes.c_int),
    )


class Setup(NamedTuple):
    """What a process is given when it starts."""

    model: Path | None
    options: DenoiseOptions
    processes: int
    stop: Any  # a shared c_bool
    signs: Any  # a shared SharedState


class _Stopped(BaseException):
    """The run was interrupted, or this process is asked to leave."""


_own: list[Setup] = []
_model: list[Any] = []


def begin(begun: Setup) -> None:
    _own.append(begun)
    begun.signs.pid = os.getpid()
    signal.signal(signal.SIGTERM, _leave)
    # Decoders print what they find strange, some of them to the standard output; Python's standard error goes on.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.close(silence)


def _leave(*_: object) -> None:
    if not _own[0].signs.busy:
        os._exit(143)
    raise _Stopped


def load_model() -> bool:
    """Loads the model that was named, once; those that come with Quell are loaded when a recording needs them."""
    if not _model:
        import torch

        from quell.export.exported_model import load

        (own,) = _own
        if own.processes > 1:
            torch.set_num_threads(1)
        _model.append(None if own.model is None else load(own.model))
    return True


def lengths(paths: Sequence[Path]) -> list[float]:
    (own,) = _own
    found = []
    with _busy(own.signs):
        for path in paths:
            own.signs.steps += 1
            found.append(0.0 if own.stop.value else seconds(path))
    return found


def denoise(job: DenoiseJob) -> JobResult | None:
    (own,) = _own

    def move(seconds: float) -> None:
        own.signs.seconds += seconds
        own.signs.steps += 1
        if own.stop.value:
            raise _Stopped

    from quell.inference.enhancement import denoise_job

    load_model()
    if own.stop.value:
        return None
    with _busy(own.signs):
        return denoise_job(job, _model[0], own.options, move)
    return None


@contextmanager
def _busy(signs: Any) -> Iterator[None]:
    """Leaves the block quietly when this process is to stop: what was half written is gone then."""
    try:
        signs.steps += 1
        signs.busy = True
        yield
    except _Stopped:
        pass
    finally:
        signs.busy = False
