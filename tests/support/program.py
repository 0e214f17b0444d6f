"""Runs command lines of `quell` as processes of their own that need not import torch, which takes seconds of a core:
they are forks of one process that has it."""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import IO, Any, NoReturn

STREAMS = ("stdin", "stdout", "stderr")
# Together they import nearly all that commands do.
MODULES = (
    "matplotlib.figure",
    "pesq",
    "pystoi",
    "quell.audit.corpus_audit",
    "quell.inference.process_pool",
    "quell_tuning.cli.app",
    "quell_tuning.evaluation.evaluate",
    "quell_tuning.export.retraining",
    "quell_tuning.recordings.audit_pictures",
    "quell_tuning.recordings.mixture_preview",
    "quell_tuning.report.page",
    "quell_tuning.workers.tune",
    "scipy.signal",
    "torch._dynamo",  # by the first optimiser
)


def quell(
    *arguments: str | Path,
    cwd: Path,
    stdin: bytes = b"",
    stdout: Path | None = None,
    timeout_s: float = 200.0,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs a command line to its end, on one core: with more it would start a process for each to decode or to score.

    Args:
        stdout: gets what it prints there, instead of the answer.
        timeout_s: after this it is killed, and its exit code is -9.
        variables: added to this process's environment without the variables of Quell.
    """
    words = list(map(str, arguments))
    with tempfile.TemporaryDirectory(prefix="quell-streams-") as folder:
        streams = {name: str(Path(folder, name)) for name in STREAMS}
        for name, content in zip(STREAMS, (stdin, b"", b""), strict=True):
            Path(streams[name]).write_bytes(content)
        request = {
            "arguments": words,
            "cwd": str(cwd),
            "core": _core(),
            "environment": clean_environment() | variables,
            "streams": streams | ({"stdout": str(stdout)} if stdout else {}),
        }
        code = _server().run(request, timeout_s)
        printed = [Path(streams[name]).read_bytes().decode() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(["quell", *words], code, *printed)


def clean_environment() -> dict[str, str]:
    """That of this process, without the variables of Quell."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("QUELL_", "_QUELL"))}


def _core() -> int | None:
    """Another one for each process of pytest-xdist; None where the system does not assign cores."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(cores)]


class _Server:
    """The process that is forked; it ends with this one."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment()
        )
        self._lock = threading.Lock()

    def run(self, request: dict[str, Any], timeout_s: float) -> int:
        """The exit code of a command line."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            child = int(self._process.stdout.readline())
            late = threading.Timer(timeout_s, os.kill, (child, signal.SIGKILL))
            late.start()
            code = int(self._process.stdout.readline())
            late.cancel()
        return code

    def close(self) -> None:
        self._process.communicate()


@functools.cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server


def _serve(requests: IO[str], answers: IO[str]) -> None:
    for line in requests:
        child = os.fork()
        if child == 0:
            requests.close()
            answers.close()
            _become(**json.loads(line))
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(
    arguments: list[str], cwd: str, core: int | None, environment: dict[str, str], streams: dict[str, str]
) -> NoReturn:
    """Is the program from here on."""
    os.chdir(cwd)
    if core is not None:
        os.sched_setaffinity(0, {core})
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(STREAMS):
        file = os.open(streams[name], os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["quell", *arguments]
    code = 0
    try:
        runpy.run_module("quell_tuning.cli", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    _exit(code)


def _exit(code: int) -> NoReturn:
    """As Python does at its end, but for the destruction of all objects: 0.4 s once they are shared with a fork."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # The standard streams are those of the forks.
    pipes = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    for module in MODULES:
        importlib.import_module(module)
    _serve(*pipes)
