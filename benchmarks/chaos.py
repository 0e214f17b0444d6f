"""Fault injection: a study whose workers are killed, stopped and frozen at random, and whose database is stopped.

    python benchmarks/chaos.py                     # SQLite, Postgres, gRPC in front of Postgres, one after another
    python benchmarks/chaos.py --storage postgres --away 60
    python benchmarks/chaos.py --preempt --every 3600 --trials 16 --workers 4

Two starters with half of the workers each run one study of stub trials (five rungs, a checkpoint at each). Every few
seconds one worker gets SIGKILL, SIGTERM, or SIGSTOP for longer than the grace period; with --preempt every worker is
also ended each time that it has done a third of its trial. Once a starter is killed; once Postgres is stopped, and the
gRPC proxy killed. Budget, lease, worker, pool and storages are Quell's own. Exits with 1 if a trial is missing,
surplus, running, scored twice, or failed by preemption, or if more work is repeated than since the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from chaos_stub import RUNGS, STUDY, UNITS_PER_RUNG, executed
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import is_lost, lost_all_workers

GRACE_S = 6.0  # of the workers, instead of 30: the run is short
STOP_S = GRACE_S + 3
STARTERS = 2
STUB = str(Path(__file__).with_name("chaos_stub.py"))
UNIT_S = 0.15  # the longest: trials take 1 to 3 s
THIRD = -(-RUNGS * UNITS_PER_RUNG // 3)  # units of work, of a trial


@dataclass(frozen=True)
class Backend:
    """A storage for one run, and how to stop it for some seconds."""

    url: str
    away: Callable[[float], None] | None


@contextmanager
def sqlite(folder: Path) -> Iterator[Backend]:
    yield Backend(f"sqlite:///{folder / 'q.db'}", None)


@contextmanager
def postgres(folder: Path) -> Iterator[Backend]:
    folder.chmod(0o755)  # as root the server has a user of its own
    cluster = PostgresServer(folder / "postgres", password="chaos")
    cluster.init()
    cluster.start()

    def away(seconds: float) -> None:
        cluster.stop()
        time.sleep(seconds)
        cluster.start()

    try:
        yield Backend(cluster.url, away)
    finally:
        cluster.stop()


@contextmanager
def grpc(folder: Path) -> Iterator[Backend]:
    port = PostgresServer(folder, password="").port  # a free one

    def serve() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve", "--port", str(port)]
        with (folder / "proxy.log").open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, "QUELL_STORAGE": below.url}, stdout=log, stderr=log)

    with postgres(folder) as below:
        proxy = serve()

        def away(seconds: float) -> None:
            nonlocal proxy
            assert below.away is not None
            below.away(seconds / 2)
            proxy.kill()
            proxy.wait()
            time.sleep(seconds / 2)
            proxy = serve()

        try:
            yield Backend(f"grpc://127.0.0.1:{port}", away)
        finally:
            proxy.kill()
            proxy.wait()


STORAGES = {"sqlite": sqlite, "postgres": postgres, "grpc": grpc}


class Preemption:
    """Ends each worker that has done a third of its trial since it took it up, in turn with SIGKILL and SIGTERM."""

    def __init__(self, folder: Path) -> None:
        self.units = folder / "units"
        self.offset = 0
        self.done: Counter[tuple[str, int]] = Counter()  # units by trial and process

    def strike(self) -> int:
        """Ends workers; returns their number."""
        if not self.units.exists():
            return 0
        with self.units.open() as file:
            file.seek(self.offset)
            lines = file.readlines()
            self.offset = file.tell()
        before = self._count()
        for line in lines:
            _, trial, process, _ = line.split()
            self.done[trial, int(process)] += 1
            if self.done[trial, int(process)] == THIRD:
                _signal(int(process), (signal.SIGKILL, signal.SIGTERM)[self._count() % 2])
        return self._count() - before

    def _count(self) -> int:
        return sum(units >= THIRD for units in self.done.values())


class Starter:
    """A pool in a process of its own, as in `quell tune`."""

    def __init__(self, url: str, folder: Path, trials: int, workers: int) -> None:
        self.environment = {**os.environ, "QUELL_STORAGE": url, "QUELL_GRACE_S": str(GRACE_S), "OMP_NUM_THREADS": "1"}
        self.command = [sys.executable, STUB, "pool", str(folder), str(trials), str(workers), str(UNIT_S)]
        self.folder = folder
        self.log = folder / "pool.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return [int(child) for child in path.read_text().split()]
        return []


def inject_faults(
    starters: list[Starter], backend: Backend, options: argparse.Namespace, began: float, frozen: dict[int, float]
) -> Counter[str]:
    """Injects faults until all starters have ended; returns their counts by kind.

    Args:
        frozen: filled with the stopped workers and the time at which to continue each.
    """
    faults: Counter[str] = Counter()
    preemption = Preemption(starters[0].folder) if options.preempt else None
    draw = random.Random(options.seed)
    pending = ["starter", *(["database"] if backend.away else [])]
    next_fault = began + options.every
    outage: threading.Thread | None = None
    while any(starter.process.poll() is None for starter in starters):
        now = time.monotonic()
        for worker, until in list(frozen.items()):
            if now > until:
                _signal(worker, signal.SIGCONT)
                del frozen[worker]
        if preemption is not None:
            faults["preemption"] += preemption.strike()
        if now > next_fault:
            next_fault = now + options.every
            awake = [worker for starter in starters for worker in starter.workers() if worker not in frozen]
            if awake:
                victim, fault = draw.choice(awake), draw.choice(("SIGKILL", "SIGTERM", "SIGSTOP"))
                _signal(victim, signal.Signals[fault])
                faults[fault] += 1
                if fault == "SIGSTOP":
                    frozen[victim] = now + STOP_S
        # `quell tune` does not start without its database.
        away = outage is not None and outage.is_alive()
        starting = any(starter.process.poll() is None and not starter.workers() for starter in starters)
        if pending and now - began > options.strike * (3 - len(pending)) and not away and not starting:
            kind = pending.pop()
            faults[kind] += 1
            if kind == "database":
                outage = threading.Thread(target=backend.away, args=(options.away,))
                outage.start()
            else:
                starters[0].process.kill()
                starters[0].process.wait()
                starters[0].start()
        if now - began > options.limit:
            raise SystemExit(f"not done after {options.limit} s; see {starters[0].log}")
        time.sleep(0.1)
    if outage is not None:
        outage.join()
    return faults


def _signal(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def verdict(url: str, folder: Path, trials: int, faults: Counter[str]) -> tuple[list[str], list[str]]:
    """(lines of the report, violations)."""
    storage = open_storage(url)
    study = optuna.load_study(study_name=STUDY, storage=storage)
    stored = study.get_trials(deepcopy=False)
    slots = Budget(study, trials).slots()
    counted = [trial for trial in stored if trial.state.is_finished() and not is_lost(trial)]
    per_slot = Counter(trial.user_attrs["slot"] for trial in counted)
    states = Counter(trial.state.name.lower() for trial in counted)
    lost = [trial for trial in stored if "lost" in trial.user_attrs and is_lost(trial)]
    units, repeated = executed(folder)
    interruptions = (
        sum(faults[kind] for kind in ("SIGKILL", "SIGSTOP", "SIGTERM", "preemption")) + faults["starter"] * 8
    )
    by_workers = [trial.number for trial in counted if lost_all_workers(trial)]
    storage.close()
    wrong = [
        text
        for text, bad in {
            f"{len(counted)} trials ended, expected {trials}": len(counted) != trials,
            f"slots that are not scored once: {[slot for slot, n in per_slot.items() if n != 1]}": (
                per_slot != Counter(range(trials))
            ),
            f"failed by preemption: {by_workers}": bool(by_workers and faults["preemption"]),
            f"running: {[trial.number for trial in slots.running]}": bool(slots.running),
            f"waiting: {[trial.number for trial in slots.waiting]}": bool(slots.waiting),
            f"{max(repeated, default=0)} units repeated at once, expected at most {UNITS_PER_RUNG}": (
                max(repeated, default=0) > UNITS_PER_RUNG
            ),
        }.items()
        if bad
    ]
    ended = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    again = sum(repeated)
    lines = [
        f"{len(counted)} of {trials} trials ended ({ended}), in {len(per_slot)} slots; {len(lost)} attempts lost",
        f"faults: {', '.join(f'{count} {kind}' for kind, count in sorted(faults.items()))} ({interruptions} hits)",
        f"work repeated: {again} of {units} units ({100 * again / max(units, 1):.1f} %), "
        f"at most {max(repeated, default=0)} at once, a checkpoint every {UNITS_PER_RUNG}",
    ]
    return lines, wrong


def run(name: str, options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        with STORAGES[name](folder) as backend:
            began = time.monotonic()
            each = max(1, options.workers // STARTERS)
            starters = [Starter(backend.url, folder, options.trials, each) for _ in range(STARTERS)]
            frozen: dict[int, float] = {}
            try:
                faults = inject_faults(starters, backend, options, began, frozen)
            finally:
                for worker in frozen:  # one of a killed starter ends once it is continued
                    _signal(worker, signal.SIGCONT)
                for starter in starters:
                    starter.process.kill()
            seconds = time.monotonic() - began
            lines, wrong = verdict(backend.url, folder, options.trials, faults)
            codes = [starter.process.returncode for starter in starters]
            if any(codes):
                wrong.append(f"starters ended with {codes}: {(folder / 'pool.log').read_text()[-2000:]}")
    print(f"**{name}**, {options.workers} workers, {seconds:.0f} s: {'EXACT' if not wrong else 'WRONG'}", flush=True)
    for line in [*lines, *wrong]:
        print(f"- {line}", flush=True)
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=[*STORAGES, "all"], default="all")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two signals to workers")
    parser.add_argument(
        "--preempt", action="store_true", help="also end every worker that has done a third of its trial"
    )
    parser.add_argument(
        "--strike", type=float, default=12.0, help="seconds before the outage; a starter is killed after half"
    )
    parser.add_argument("--away", type=float, default=5.0, help="seconds without the database")
    parser.add_argument("--limit", type=float, default=360.0, help="time limit of a run in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = list(STORAGES) if options.storage == "all" else [options.storage]
    exact = [run(name, options) for name in names]
    sys.exit(0 if all(exact) else 1)


if __name__ == "__main__":
    main()
