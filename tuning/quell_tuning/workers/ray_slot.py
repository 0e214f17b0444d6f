"""Runs one worker, restarting it, inside a slot of a cluster; independent of Ray."""

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
# A worker that lived for so long could start: its death does not count in a row with those before.
LIVED_S = 60.0
# Ray sets these for its own processes, and a worker must not inherit them: a token, one thread for a part of a CPU.
RAY_VARIABLES = "RAY_"
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class WorkerSpec:
    """What a node needs to launch a worker.

    Attributes:
        command: without the interpreter, which is the node's, and the study file, which is written there.
        study: the study file's name and text.
        environment: variables added to the node's own.
        defaults: variables for a node that does not set them (QUELL_CORPUS, QUELL_RUNS).
        folders: of the corpus; they must exist on the node.
        threads: of the worker; 0: as many as it likes.
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
    """Why a slot runs no worker any more."""

    reason: Literal["finished", "stopped", "no_corpus", "crashed"]
    message: str = ""


def run_slot(spec: WorkerSpec) -> SlotEnd:
    """Runs one worker after another until no trial is left, they die again and again, or KeyboardInterrupt is raised.

    A KeyboardInterrupt lets the worker hand its trial back first. When this process ends in any other way, its worker
    notices that it has another parent, hands its trial back and stops.
    """
    variables = _variables(spec)
    corpus = Path(variables.get(environment.CORPUS.name, ""))
    missing = [corpus / name for name in spec.folders if not (corpus / name).is_dir()]
    if missing:
        needed = f"expected the recordings on every node; set {environment.CORPUS.name} there, or give --corpus"
        return SlotEnd("no_corpus", f"{socket.gethostname()}: {missing[0]}: no such folder, {needed}")
    log = Path(variables.get(environment.RUNS.name, "")) / spec.log
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="quell-") as scratch:
        study = Path(scratch) / spec.study[0]
        study.write_text(spec.study[1])
        return _keep(WorkerProcess([sys.executable, *spec.command, str(study)], variables, log, LIVED_S))


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


def _variables(spec: WorkerSpec) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(RAY_VARIABLES) and key != THREADS}
    threads = {THREADS: str(spec.threads)} if spec.threads else {}
    return {**spec.defaults, **own, **spec.environment, **threads, environment.POOL.name: str(os.getpid())}
