"""Fault injection on a Ray cluster: a study that loses workers, Ray processes and nodes, and one that is stopped.

    python benchmarks/ray_cluster.py

Two logical nodes with two simulated GPUs each, 8 slots of half a GPU, stub trials (`chaos_stub.py`) on a real Postgres.
One worker gets SIGKILL, then one of Ray's processes that supervise a worker, then a whole node is removed; at the end a
second search gets SIGTERM. Runs in its own network namespace where that is allowed, so that the ports of this machine
do not matter. Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from chaos_stub import STUDY
from header import header
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer as Postgres
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import is_lost

STUB = str(Path(__file__).with_name("chaos_program.py"))
GRACE_S = 6.0  # of the workers, instead of 30: the run is short
SLOTS, NODES, GPUS = 8, 2, 2
DRAIN_S = 15.0
ALONE = "QUELL_ALONE"  # set inside the namespace


@dataclass
class Search:
    """`chaos_program.py ray` in a process of its own, as in `quell tune --ray`."""

    folder: Path
    url: str
    address: str
    trials: int
    unit_s: float

    def start(self) -> None:
        environment = {**os.environ, "QUELL_STORAGE": self.url, "QUELL_GRACE_S": str(GRACE_S)}
        command = [STUB, "ray", str(self.folder), str(self.trials), str(SLOTS), str(self.unit_s), self.address]
        with (self.folder / "search.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)

    def workers(self) -> list[psutil.Process]:
        """The running stub workers of all nodes."""
        workers = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if [*words[1:4]] == [STUB, "worker", str(self.folder)] and process.info["status"] != psutil.STATUS_ZOMBIE:
                workers.append(process)
        return workers

    def slots(self) -> Counter[str]:
        with closing(open_storage(self.url)) as storage:
            study = optuna.load_study(study_name=STUDY, storage=storage)
            slots = Budget(study, self.trials).slots()
            return Counter(
                ended=len(slots.ended),
                running=len(slots.running),
                waiting=len(slots.waiting),
                lost=sum(is_lost(trial) and "superfluous" not in trial.user_attrs for trial in study.trials),
                faulty=sum("failure" in trial.user_attrs for trial in study.trials),
            )


def wait(until: Callable[[], bool], at_most_s: float) -> float:
    """Waits until `until` holds, or `at_most_s`; returns the seconds that passed."""
    began = time.monotonic()
    while not until() and time.monotonic() - began < at_most_s:
        time.sleep(0.1)
    return time.monotonic() - began


def inject_faults(search: Search, nodes: object, second: object) -> list[tuple[str, str, bool]]:
    """Injects three faults; returns a row per check: (check, result, passed)."""
    rows = []
    seconds = wait(lambda: len(search.workers()) == SLOTS and search.slots()["ended"] >= 2, 60)
    rows.append((f"{SLOTS} workers on {NODES} nodes", f"after {seconds:.1f} s", len(search.workers()) == SLOTS))

    one, *_ = search.workers()
    one.kill()
    seconds = wait(lambda: one.pid not in {w.pid for w in search.workers()} and len(search.workers()) == SLOTS, 20)
    rows.append(("a killed worker is restarted", f"after {seconds:.1f} s", len(search.workers()) == SLOTS))

    other, *_ = search.workers()
    parent = other.parent()
    assert parent is not None and parent.name().startswith("ray::")
    parent.kill()
    seconds = wait(lambda: not other.is_running(), 10)
    rows.append(("the worker of a killed Ray process leaves", f"after {seconds:.1f} s", not other.is_running()))
    seconds = wait(lambda: len(search.workers()) == SLOTS, 30)
    rows.append(("its slot has a worker again", f"after {seconds:.1f} s", len(search.workers()) == SLOTS))

    before = {worker.pid for worker in search.workers()}
    nodes.remove_node(second, allow_graceful=False)  # type: ignore[attr-defined]
    room = SLOTS // NODES
    seconds = wait(lambda: len(before & {w.pid for w in search.workers()}) <= room, 15)
    rows.append(("workers of a removed node leave", f"after {seconds:.1f} s", seconds < 15))
    seconds = wait(lambda: len(search.workers()) == room, 30)
    rows.append(("the slots of the other one are full", f"{len(search.workers())} of {room}", seconds < 30))
    return rows


def finish(search: Search, limit_s: float) -> list[tuple[str, str, bool]]:
    try:
        code = search.process.wait(limit_s)
    except subprocess.TimeoutExpired:
        search.process.kill()
        code = search.process.wait()
    wait(lambda: not search.workers(), 10)
    slots = search.slots()
    exact = (slots["ended"], slots["running"], slots["waiting"]) == (search.trials, 0, 0)
    return [
        ("the search ends", f"exit code {code}", code == 0),
        ("trials that ended", f"{slots['ended']} of {search.trials}; {slots['lost']} attempts lost", exact),
        ("workers left behind", str(len(search.workers())), not search.workers()),
    ]


def drain(search: Search) -> list[tuple[str, str, bool]]:
    """Stops a search while its workers train."""
    lost, faulty = (search.slots()[name] for name in ("lost", "faulty"))
    search.start()
    wait(lambda: search.slots()["running"] >= SLOTS // NODES, 60)
    began = time.monotonic()
    search.process.send_signal(signal.SIGTERM)
    code = search.process.wait(60)
    seconds = time.monotonic() - began
    slots = search.slots()
    returned = (slots["running"], slots["lost"], slots["faulty"] - faulty) == (0, lost, 0) and slots["waiting"] > 0
    return [
        ("SIGTERM: left", f"after {seconds:.1f} s, exit code {code}", seconds < DRAIN_S and code == 143),
        (
            "trials returned, none lost or failed",
            f"{slots['waiting']} wait, {slots['lost'] - lost} lost",
            returned,
        ),
        ("workers left behind", str(len(search.workers())), not search.workers()),
    ]


def run(options: argparse.Namespace, folder: Path) -> list[tuple[str, str, bool]]:
    from ray.cluster_utils import Cluster

    postgres = Postgres(folder / "postgres", password="ray")
    postgres.init()
    postgres.start()
    nodes = Cluster()
    try:
        _, second = [nodes.add_node(num_cpus=SLOTS, num_gpus=GPUS) for _ in range(NODES)]
        search = Search(folder, postgres.url, nodes.address, options.trials, options.unit_s)
        began = time.monotonic()
        search.start()
        rows = inject_faults(search, nodes, second) + finish(search, options.limit)
        rows.append(("time in all", f"{time.monotonic() - began:.0f} s", True))
        nodes.add_node(num_cpus=SLOTS, num_gpus=GPUS)
        again = Search(folder, postgres.url, nodes.address, 3 * options.trials, options.unit_s)
        return rows + drain(again)
    finally:
        nodes.shutdown()
        postgres.stop()


def in_own_namespace() -> bool:
    """Whether this process is in a network namespace of its own, or is not allowed to create one."""
    if os.environ.get(ALONE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return True
    may = (
        shutil.which("unshare") and shutil.which("ip") and subprocess.run(["unshare", "--net", "true"]).returncode == 0
    )
    return not may


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument(
        "--unit-s", type=float, default=0.5, help="longest unit of work in seconds; a trial has up to 20"
    )
    parser.add_argument("--limit", type=float, default=300.0, help="time limit of the search in seconds")
    options = parser.parse_args()
    if not in_own_namespace():
        sys.exit(
            subprocess.run(["unshare", "--net", sys.executable, *sys.argv], env={**os.environ, ALONE: "1"}).returncode
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(header(f"python benchmarks/ray_cluster.py {' '.join(sys.argv[1:])}".strip()))
    with tempfile.TemporaryDirectory(prefix="quell-ray-") as folder:
        Path(folder).chmod(0o755)  # as root the server has a user of its own
        rows = run(options, Path(folder))
        print("| check | result | |\n|---|---|---|")
        for check, result, passed in rows:
            print(f"| {check} | {result} | {'ok' if passed else 'FAILED'} |")
        if not all(passed for *_, passed in rows):
            print((Path(folder) / "search.log").read_text(), file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
