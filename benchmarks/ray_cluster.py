"""What is left of a study on a Ray cluster whose workers, processes and nodes are lost, and how fast it is left alone.

    python benchmarks/ray_cluster.py

Two logical nodes with two GPUs each, which Ray only believes in, 8 slots of half a GPU, stub trials (`chaos_stub.py`)
on a real Postgres. One worker gets SIGKILL, then one of Ray's processes that keep a worker, then a whole node is
removed; at the end a second search is asked to stop. Runs in a network namespace of its own where it may make one, so
that whatever else listens on this machine does not matter. Ends with 1 when something is not as it should be.
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

STUB = str(Path(__file__).with_name("chaos_stub.py"))
GRACE_S = 6.0  # of the workers, instead of 30: the run is short
SLOTS, NODES, GPUS = 8, 2, 2
DRAIN_S = 15.0
ALONE = "QUELL_ALONE"  # set inside the namespace


@dataclass
class Search:
    """`chaos_stub.py ray` in a process of its own, as `quell tune --ray` is."""

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
        """The stubs at work on any node."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if [*words[1:4]] == [STUB, "worker", str(self.folder)] and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

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
    """Seconds until it holds, or what was waited in vain."""
    began = time.monotonic()
    while not until() and time.monotonic() - began < at_most_s:
        time.sleep(0.1)
    return time.monotonic() - began


def strike(search: Search, nodes: object, second: object) -> list[tuple[str, str, bool]]:
    """Three blows, and what back_s of them: (what, found, as it should be)."""
    rows = []
    seconds = wait(lambda: len(search.workers()) == SLOTS and search.slots()["ended"] >= 2, 60)
    rows.append((f"{SLOTS} workers on {NODES} nodes", f"after {seconds:.1f} s", len(search.workers()) == SLOTS))

    one, *_ = search.workers()
    one.kill()
    back_s = wait(lambda: one.pid not in {w.pid for w in search.workers()} and len(search.workers()) == SLOTS, 20)
    rows.append(("a killed worker is launched again", f"after {back_s:.1f} s", len(search.workers()) == SLOTS))

    other, *_ = search.workers()
    slot = other.parent()
    assert slot is not None and slot.name().startswith("ray::")
    slot.kill()
    stopped_s = wait(lambda: not other.is_running(), 10)
    rows.append(("the worker of a killed Ray process stops", f"after {stopped_s:.1f} s", not other.is_running()))
    back_s = wait(lambda: len(search.workers()) == SLOTS, 30)
    rows.append(("and its slot comes back", f"after {back_s:.1f} s", len(search.workers()) == SLOTS))

    before = {worker.pid for worker in search.workers()}
    nodes.remove_node(second, allow_graceful=False)  # type: ignore[attr-defined]
    room = SLOTS // NODES
    stopped_s = wait(lambda: len(before & {w.pid for w in search.workers()}) <= room, 15)
    rows.append(("workers of a removed node stop", f"after {stopped_s:.1f} s", stopped_s < 15))
    back_s = wait(lambda: len(search.workers()) == room, 30)
    rows.append(("the slots of the other one are full", f"{len(search.workers())} of {room}", back_s < 30))
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
    """Asks a search in full swing to stop."""
    lost, faulty = (search.slots()[name] for name in ("lost", "faulty"))
    search.start()
    wait(lambda: search.slots()["running"] >= SLOTS // NODES, 60)
    began = time.monotonic()
    search.process.send_signal(signal.SIGTERM)
    code = search.process.wait(60)
    seconds = time.monotonic() - began
    slots = search.slots()
    kept = (slots["running"], slots["lost"], slots["faulty"] - faulty) == (0, lost, 0) and slots["waiting"] > 0
    return [
        ("SIGTERM: left", f"after {seconds:.1f} s, exit code {code}", seconds < DRAIN_S and code == 143),
        (
            "trials handed back, none lost or failed by it",
            f"{slots['waiting']} wait, {slots['lost'] - lost} lost",
            kept,
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
        rows = strike(search, nodes, second) + finish(search, options.limit)
        rows.append(("all that took", f"{time.monotonic() - began:.0f} s", True))
        nodes.add_node(num_cpus=SLOTS, num_gpus=GPUS)
        again = Search(folder, postgres.url, nodes.address, 3 * options.trials, options.unit_s)
        return rows + drain(again)
    finally:
        nodes.shutdown()
        postgres.stop()


def in_a_namespace() -> bool:
    """Whether we are in a network of our own, or may not make one."""
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
    parser.add_argument("--unit-s", type=float, default=0.5, help="of work, the longest; a trial has up to 20")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that the search may take")
    options = parser.parse_args()
    if not in_a_namespace():
        sys.exit(
            subprocess.run(["unshare", "--net", sys.executable, *sys.argv], env={**os.environ, ALONE: "1"}).returncode
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(header(f"python benchmarks/ray_cluster.py {' '.join(sys.argv[1:])}".strip()))
    with tempfile.TemporaryDirectory(prefix="quell-ray-") as folder:
        rows = run(options, Path(folder))
        print("| what | found | |\n|---|---|---|")
        for what, found, good in rows:
            print(f"| {what} | {found} | {'ok' if good else 'NOT AS IT SHOULD BE'} |")
        if not all(good for *_, good in rows):
            print((Path(folder) / "search.log").read_text(), file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
