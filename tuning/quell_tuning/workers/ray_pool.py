"""The same workers, placed by Ray on the nodes of a cluster that is there. Optuna's storage stays the brain: Ray only
keeps slots, each a task that runs our own worker command (`quell_tuning.workers.ray_slot`). Workers never import
ray."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from quell_tuning.errors import UsageError, WorkerError
from quell_tuning.storage.urls import shown
from quell_tuning.trials.budget import Slots
from quell_tuning.workers.ray_slot import SlotEnd, WorkerSpec, run_slot
from quell_tuning.workers.supervisor import Supervisor
from quell_tuning.workers.worker_process import STOP_GRACE_S

TOKEN = "RAY_AUTH_TOKEN"
# A cluster that lets us in does so within 2 s. Ray itself tries 20 s with a wrong token, and 80 s where nobody answers,
# after which it ends the process: hence another process that tries first.
CONNECT_S = 20.0
PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print('connected')"
KNOCK_S = 5.0
NOBODY = "no answer, expected a Ray cluster there; check the address, and that it runs"
STARTED_S = 30.0  # a cluster with room has the first worker at work by then
ASK_AGAIN_S = 4.0  # Ray promises no more than to try: of 18 searches that were asked to stop one heard nothing
MARGIN_S = 3.0  # for Ray, beside what a worker takes to leave


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster and what of it is asked for: so many workers, each with whole GPUs and CPUs, or parts of them.

    Attributes:
        address: HOST:PORT of its head, or auto.
        gpus: one where the cluster has any, for None.
    """

    address: str
    workers: int
    gpus: float | None
    cpus: float

    def __post_init__(self) -> None:
        for name, asked in (("--gpus-per-worker", self.gpus or 0), ("--cpus-per-worker", self.cpus)):
            if asked > 1 and asked != int(asked):
                raise UsageError(f"{name}: {asked:g}, expected a part of one, or a whole number; round it")

    @property
    def threads(self) -> int:
        """Of a worker; as many as it likes (0) where it has a part of a CPU, which says nothing."""
        return int(self.cpus)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """While this process is a driver of the cluster.

        Raises:
            UsageError: ray is missing, nobody answers, or the cluster has another token or version.
        """
        # Ray reads its environment when it is imported.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns of what a later version will do
        if os.environ.get(TOKEN):
            os.environ["RAY_AUTH_MODE"] = "token"
        try:
            import ray
        except ImportError:
            needed = "expected the package ray; pip install 'quell-denoiser[ray]'"
            raise UsageError(f"--ray: it is not installed, {needed}") from None
        _refuse(self.address)
        try:
            ray.init(address=self.address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError):  # it went away since
            raise UsageError(f"--ray: {self.address}: {NOBODY}") from None
        try:
            yield
        finally:
            ray.shutdown()


def check_storage(url: str) -> None:
    """Whether other machines reach a storage.

    Raises:
        UsageError: they do not.
    """
    if url.partition(":")[0] not in ("postgresql", "postgresql+psycopg", "grpc"):
        needed = "expected one that every node reaches: postgresql+psycopg://... or grpc://..."
        raise UsageError(f"--ray: the storage {shown(url)}, {needed}; set QUELL_STORAGE")


def _refuse(address: str) -> None:
    """Raises UsageError where the cluster does not let us in."""
    if not _answers(address):
        raise UsageError(f"--ray: {address}: {NOBODY}")
    probe = subprocess.Popen(
        [sys.executable, "-c", PROBE, address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    timer = threading.Timer(CONNECT_S, probe.kill)
    timer.start()
    said = ""
    try:
        assert probe.stdout is not None
        for line in probe.stdout:
            said += line
            if "InvalidAuthToken" in line or line.strip() == "connected":
                break
    finally:
        timer.cancel()
        probe.kill()
        probe.communicate()
    if not said.endswith("connected\n"):
        raise UsageError(f"--ray: {address}: {_reason(said)}")


def _reason(said: str) -> str:
    if "InvalidAuthToken" in said or "AuthenticationError" in said:
        given = "another token" if os.environ.get(TOKEN) else "no token"
        return f"{given}, expected the cluster's; set {TOKEN}"
    versions = re.findall(r"^ +(Ray|Python): (\S+)$", said, re.MULTILINE)
    if "ersion mismatch" in said and len(versions) >= 4:
        theirs, ours = (" and ".join(f"{name} {number}" for name, number in versions[i : i + 2]) for i in (0, 2))
        return f"it has {theirs}, expected {ours} as here; start it with these, or install its own here"
    return NOBODY


def _answers(address: str) -> bool:
    """Whether somebody listens there; of what is no HOST:PORT, such as auto, Ray knows."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), KNOCK_S).close()
    except (OSError, OverflowError):
        return False
    return True


@dataclass(kw_only=True)
class RayPool(Supervisor):
    """Slots on a cluster, each of which keeps a worker until the budget is used up.

    Ray moves a slot whose process or node dies to where there is room.
    """

    job: Callable[[int], WorkerSpec]  # of a slot
    cluster: RayCluster
    _idle: set[int] = field(default_factory=set, init=False)  # slots without a task
    _tasks: dict[Any, int] = field(default_factory=dict, init=False)  # and the slots that they are
    _since: dict[int, int] = field(default_factory=dict, init=False)  # slot -> trials that had ended at its launch
    _share: dict[str, float] = field(default_factory=dict, init=False)
    _began: float | None = field(default=None, init=False)  # None once somebody works
    _ended: int = field(default=0, init=False)

    def begin(self) -> None:
        import ray

        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0)) if self.cluster.gpus is None else self.cluster.gpus
        self._share = {"num_gpus": gpus, "num_cpus": self.cluster.cpus}
        self._task = ray.remote(max_retries=-1, scheduling_strategy="SPREAD", **self._share)(run_slot)
        self._idle = set(range(self.cluster.workers))
        self._began = time.monotonic()

    def progressed(self) -> None:
        self._ended += 1

    def tend(self, slots: Slots) -> None:
        import ray

        ended, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if self._tasks else ([], [])
        for task in ended:
            self._take_note(self._tasks.pop(task), self._result(task))
        if slots.waiting or slots.empty:
            for slot in sorted(self._idle)[: max(0, slots.left - len(self._tasks))]:
                self._idle.remove(slot)
                self._since[slot] = self._ended
                self._tasks[self._task.remote(self.job(slot))] = slot
        self._say_when_nobody_works(slots)

    def _result(self, task: Any) -> SlotEnd:
        import ray

        try:
            found: SlotEnd = ray.get(task)
        except ray.exceptions.RayError as error:
            return SlotEnd("crashed", str(error).strip().splitlines()[-1])
        return found

    def _take_note(self, slot: int, ended: SlotEnd) -> None:
        if ended.reason == "no_corpus":
            self.shown.console.print(f"slot {slot} given up: {ended.message}", highlight=False, markup=False)
            if not self._tasks and not self._idle:
                raise WorkerError(ended.message)
        elif ended.reason == "crashed" and self._since[slot] == self._ended:
            raise WorkerError(f"slot {slot}: {ended.message}")
        else:
            self._idle.add(slot)

    def _say_when_nobody_works(self, slots: Slots) -> None:
        if self._began is None or slots.running or self._ended:
            self._began = None
        elif time.monotonic() - self._began > STARTED_S:
            self._began = None
            import ray

            there, free = ray.cluster_resources(), ray.available_resources()
            asked = f"{self._share['num_gpus']:g} GPU and {self._share['num_cpus']:g} CPU"
            has = ", ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind} free" for kind in ("GPU", "CPU"))
            self.shown.console.print(f"no worker yet: each asks for {asked}; the cluster has {has}", highlight=False)

    def dismiss(self) -> None:
        import ray

        left, until = list(self._tasks), time.monotonic() + STOP_GRACE_S + MARGIN_S
        while left and (more_s := until - time.monotonic()) > 0:
            for task in left:
                ray.cancel(task)
            _, left = ray.wait(left, num_returns=len(left), timeout=min(ASK_AGAIN_S, more_s))

    def kill(self) -> None:
        """Nothing: with this process Ray ends the slots, and their workers leave."""
