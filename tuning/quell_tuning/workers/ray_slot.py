"""Keeps one worker running in a place that somebody else gave us, such as a slot of a cluster. Knows no cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quell_tuning import environment
from quell_tuning.workers.supervisor import BACK_OFF_S, DEATHS, LEFT, STOP_GRACE_S, last_line

POLL_S = 0.2
# A worker that lived so long is not one that cannot start: its death is its own.
LIVED_S = 60.0
LAST_BYTES = 4_000  # of a log, in which the last words are
# What Ray sets for its own processes and a worker must not inherit: a token, and one thread for a part of a CPU.
ITS_OWN = ("RAY_",)
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class WorkerSpec:
    """A worker, as every node can launch it.

    Attributes:
        command: without the interpreter, which is that of the node; a study file that is written there follows.
        study: the study file's name and text.
        environment: added to the node's own.
        defaults: added where the node has nothing of that name (QUELL_CORPUS, QUELL_RUNS).
        folders: of the corpus, which must be there.
        threads: of the worker; as many as it likes for 0.
        log: below the runs folder.
    """

    command: Sequence[str]
    study: tuple[str, str]
    environment: Mapping[str, str]
    defaults: Mapping[str, str]
    folders: Sequence[str]
    threads: int
    log: str


@dataclass(frozen=True)
class SlotEnd:
    """Why a place needs no worker any more, or gets none."""

    reason: Literal["finished", "stopped", "no_corpus", "crashed"]
    message: str = ""


def run_slot(job: WorkerSpec) -> SlotEnd:
    """Runs one worker after another until one finds nothing left to do, they die again and again, or we are asked to
    leave (KeyboardInterrupt): then the worker hands its trial back first.

    Whatever else ends this process, its worker notices that it has another parent, hands its trial back and leaves.
    """
    variables = _variables(job)
    missing = [
        str(found)
        for name in job.folders
        if not (found := Path(variables.get(environment.CORPUS.name, "")) / name).is_dir()
    ]
    if missing:
        needed = f"expected the recordings on every node; set {environment.CORPUS.name} there, or give --corpus"
        return SlotEnd("no_corpus", f"{socket.gethostname()}: {missing[0]}: no such folder, {needed}")
    log = Path(variables.get(environment.RUNS.name, "")) / job.log
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="quell-") as folder:
        study = Path(folder) / job.study[0]
        study.write_text(job.study[1])
        return _keep([sys.executable, *job.command, str(study)], variables, log)


def _keep(command: Sequence[str], variables: Mapping[str, str], log: Path) -> SlotEnd:
    process: subprocess.Popen[bytes] | None = None
    deaths = 0
    try:
        while True:
            began, before = time.monotonic(), log.stat().st_size if log.exists() else 0
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    env=dict(variables),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            while (code := process.poll()) is None:
                time.sleep(POLL_S)
            if code == 0:
                return SlotEnd("finished")
            deaths = 0 if code in LEFT else 1 if time.monotonic() - began > LIVED_S else deaths + 1
            if deaths >= DEATHS:
                said = last_line(_end_of(log, before))
                at = f"{socket.gethostname()}: exit code {code}, {deaths} deaths in a row"
                return SlotEnd("crashed", f"{at}; it last said: {said}; see {log}")
            time.sleep(BACK_OFF_S * 2**deaths)
    except KeyboardInterrupt:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # we may be asked once more, while the worker leaves
        _dismiss(process)
        signal.signal(signal.SIGINT, handler)
        return SlotEnd("stopped")
    finally:
        _dismiss(process)


def _dismiss(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _variables(job: WorkerSpec) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(ITS_OWN) and key != THREADS}
    threads = {THREADS: str(job.threads)} if job.threads else {}
    return {**job.defaults, **own, **job.environment, **threads, environment.POOL.name: str(os.getpid())}


def _end_of(log: Path, before: int) -> str:
    with log.open("rb") as file:
        file.seek(max(before, log.stat().st_size - LAST_BYTES))
        return file.read().decode(errors="replace")
