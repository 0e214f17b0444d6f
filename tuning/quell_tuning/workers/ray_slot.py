"""Keeps one worker running in a place that somebody else gave us, such as a slot of a cluster. Knows no cluster."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quell_tuning import environment
from quell_tuning.workers.worker_process import DEATHS, WorkerProcess, stop

POLL_S = 0.2
# A worker that lived so long is not one that cannot start: its death is its own.
LIVED_S = 60.0
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
        return _keep(WorkerProcess([sys.executable, *job.command, str(study)], variables, log, LIVED_S))


def _keep(worker: WorkerProcess) -> SlotEnd:
    try:
        while True:
            if not worker.alive() and worker.exit_code == 0:
                return SlotEnd("finished")
            if not worker.alive() and worker.deaths >= DEATHS:
                return SlotEnd("crashed", f"{socket.gethostname()}: {worker.death('in a row')}")
            worker.start_when_due()
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ray may ask once more, while the worker stops
        stop([worker])
        signal.signal(signal.SIGINT, handler)
        return SlotEnd("stopped")
    finally:
        stop([worker])


def _variables(job: WorkerSpec) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(ITS_OWN) and key != THREADS}
    threads = {THREADS: str(job.threads)} if job.threads else {}
    return {**job.defaults, **own, **job.environment, **threads, environment.POOL.name: str(os.getpid())}
