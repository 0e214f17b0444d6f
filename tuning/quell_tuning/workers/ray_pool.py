"""Workers on the nodes of an existing Ray cluster.

Ray only places long-lived slots, each a task that runs our own worker command (`quell_tuning.workers.ray_slot`);
workers never import ray, and trials are coordinated by Optuna's storage alone.
"""

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
# A cluster that accepts us does so within 2 s. Ray itself tries for 20 s with a wrong token, and for 80 s where there
# is no answer, after which it ends the process: hence another process tries first.
CONNECT_S = 20.0
PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print('connected')"
PROBE_S = 5.0
NO_ANSWER = "no answer, expected a Ray cluster there; check the address, and that it runs"
STARTED_S = 30.0  # a cluster with free resources has the first worker at work by then
CANCEL_AGAIN_S = 4.0  # Ray may drop a cancellation: of 18 searches that were asked to stop one went on
MARGIN_S = 3.0  # for Ray, beside the time that a worker takes to stop


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, and the workers and resources that a search asks of it.

    Attributes:
        address: HOST:PORT of its head, or auto.
        gpus: of each worker, whole ones or a part of one; None: one where the cluster has any.
        cpus: of each worker, whole ones or a part of one.
    """

    address: str
    workers: int
    gpus: float | None
    cpus: float

    def __post_init__(self) -> None:
        for name, share in (("--gpus-per-worker", self.gpus or 0), ("--cpus-per-worker", self.cpus)):
            if share > 1 and share != int(share):
                raise UsageError(f"{name}: {share:g}, expected a part of one, or a whole number; round it")

    @property
    def threads(self) -> int:
        """Threads of a worker; 0, as many as it likes, where it has a part of a CPU."""
        return int(self.cpus)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Inside the block this process is a driver of the cluster. Raises UsageError where ray is missing, there is no
        answer, or the cluster has another token or version."""
        # Ray reads its environment when it is imported.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change in a later version
        if os.environ.get(TOKEN):
            os.environ["RAY_AUTH_MODE"] = "token"
        try:
            import ray
        except ImportError:
            needed = "expected the package ray; pip install 'quell-denoiser[ray]'"
            raise UsageError(f"--ray: it is not installed, {needed}") from None
        _check_access(self.address)
        try:
            ray.init(address=self.address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError):  # it went away meanwhile
            raise UsageError(f"--ray: {self.address}: {NO_ANSWER}") from None
        try:
            yield
        finally:
            ray.shutdown()


def check_storage(url: str) -> None:
    """Raises UsageError where other machines cannot reach a storage."""
    if url.partition(":")[0] not in ("postgresql", "postgresql+psycopg", "grpc"):
        needed = "expected one that every node reaches: postgresql+psycopg://... or grpc://..."
        raise UsageError(f"--ray: the storage {shown(url)}, {needed}; set QUELL_STORAGE")


def _check_access(address: str) -> None:
    """Raises UsageError where the cluster does not accept us."""
    if not _answers(address):
        raise UsageError(f"--ray: {address}: {NO_ANSWER}")
    probe = subprocess.Popen(
        [sys.executable, "-c", PROBE, address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    timer = threading.Timer(CONNECT_S, probe.kill)
    timer.start()
    output = ""
    try:
        assert probe.stdout is not None
        for line in probe.stdout:
            output += line
            if "InvalidAuthToken" in line or line.strip() == "connected":
                break
    finally:
        timer.cancel()
        probe.kill()
        probe.communicate()
    if not output.endswith("connected\n"):
        raise UsageError(f"--ray: {address}: {_reason(output)}")


def _reason(output: str) -> str:
    if "InvalidAuthToken" in output or "AuthenticationError" in output:
        given = "another token" if os.environ.get(TOKEN) else "no token"
        return f"{given}, expected the cluster's; set {TOKEN}"
    versions = re.findall(r"^ +(Ray|Python): (\S+)$", output, re.MULTILINE)
    if "ersion mismatch" in output and len(versions) >= 4:
        theirs, ours = (" and ".join(f"{name} {number}" for name, number in versions[i : i + 2]) for i in (0, 2))
        return f"it has {theirs}, expected {ours} as here; start it with these, or install its own here"
    return NO_ANSWER


def _answers(address: str) -> bool:
    """Whether the address can be connected to; True for what is no HOST:PORT, such as auto, which Ray resolves."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), PROBE_S).close()
    except (OSError, OverflowError):
        return False
    return True


@dataclass(kw_only=True)
class RayPool(Supervisor):
    """Slots on a cluster, each of which runs a worker until the budget is used up.

    Ray moves a slot whose process or node dies to where resources are free.
    """

    worker: Callable[[int], WorkerSpec]  # by the number of a slot
    cluster: RayCluster
    _idle: set[int] = field(default_factory=set, init=False)  # slots without a task
    _tasks: dict[Any, int] = field(default_factory=dict, init=False)  # -> slot
    _since: dict[int, tuple[int, float]] = field(default_factory=dict, init=False)  # slot -> progress at its launch
    _share: dict[str, float] = field(default_factory=dict, init=False)
    _began: float | None = field(default=None, init=False)  # None once a worker is at work
    _ray: Any = field(default=None, init=False)  # the module, which only workers on a cluster need
    _progress: tuple[int, float] = field(default=(0, 0.0), init=False)  # at the last look

    def begin(self) -> None:
        import ray

        self._ray = ray
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0)) if self.cluster.gpus is None else self.cluster.gpus
        self._share = {"num_gpus": gpus, "num_cpus": self.cluster.cpus}
        self._task = ray.remote(max_retries=-1, scheduling_strategy="SPREAD", **self._share)(run_slot)
        self._idle = set(range(self.cluster.workers))
        self._began = time.monotonic()

    def tend(self, slots: Slots) -> None:
        self._progress = slots.progress
        if self._tasks:
            ended, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
            for task in ended:
                self._handle_end(self._tasks.pop(task), self._result(task))
        if slots.waiting or slots.empty:
            for slot in sorted(self._idle)[: max(0, slots.left - len(self._tasks))]:
                self._idle.remove(slot)
                self._since[slot] = self._progress
                self._tasks[self._task.remote(self.worker(slot))] = slot
        self._warn_without_workers(slots)

    def _result(self, task: Any) -> SlotEnd:
        try:
            end: SlotEnd = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return SlotEnd("crashed", str(error).strip().splitlines()[-1])
        return end

    def _handle_end(self, slot: int, ended: SlotEnd) -> None:
        if ended.reason == "no_corpus":
            self.view.console.print(f"slot {slot} given up: {ended.message}", highlight=False, markup=False)
            if not self._tasks and not self._idle:
                raise WorkerError(ended.message)
        elif ended.reason == "crashed" and self._since[slot] == self._progress:
            raise WorkerError(f"slot {slot}: {ended.message}")
        else:
            self._idle.add(slot)

    def _warn_without_workers(self, slots: Slots) -> None:
        if self._began is None or slots.running or any(self._progress > then for then in self._since.values()):
            self._began = None
        elif time.monotonic() - self._began > STARTED_S:
            self._began = None
            total, free = self._ray.cluster_resources(), self._ray.available_resources()
            share = f"{self._share['num_gpus']:g} GPU and {self._share['num_cpus']:g} CPU"
            has = [f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind} free" for kind in ("GPU", "CPU")]
            text = f"no worker yet: each asks for {share}; the cluster has {', '.join(has)}"
            self.view.console.print(text, highlight=False)

    def dismiss(self) -> None:
        tasks, deadline = list(self._tasks), time.monotonic() + STOP_GRACE_S + MARGIN_S
        while tasks and (remaining_s := deadline - time.monotonic()) > 0:
            for task in tasks:
                self._ray.cancel(task)
            _, tasks = self._ray.wait(tasks, num_returns=len(tasks), timeout=min(CANCEL_AGAIN_S, remaining_s))

    def kill(self) -> None:
        """Does nothing: Ray ends the slots with this process, and their workers stop."""
