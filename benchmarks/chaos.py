"""Fault injection: a study whose workers, their children, starter and database are killed, stopped and frozen.

    python benchmarks/chaos.py                     # SQLite, Postgres, gRPC in front of Postgres, one after another
    python benchmarks/chaos.py --storage postgres --outage 60
    python benchmarks/chaos.py --preempt --every 3600 --trials 16 --workers 4

Two starters with half of the workers each run one study of stub trials (five rungs, a checkpoint at each). Every few
seconds one worker gets SIGKILL, SIGTERM, or SIGSTOP for longer than the grace period, and a child process, which scores
for a worker, is killed inside its write of a score; with --preempt every worker is also ended each time that it has
done a third of its trial. Once a starter is killed. Postgres is stopped once (with it the gRPC proxy is killed), once
read-only, and once it ends every statement after 1 ms; SQLite is locked for writers. Budget, lease, worker, pool, child
processes and storages are Quell's own. Exits with 1 if a trial is missing, surplus, running, scored twice or wrong, or
failed by preemption, if more work is repeated than since the last checkpoint, or if an outage did not take place.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
from chaos_storages import STORAGES, Backend
from chaos_stub import RUNGS, STUDY, UNITS_PER_RUNG, executed
from optuna.trial import FrozenTrial, TrialState
from quell_tuning.storage.backends import open_storage
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.ranking import is_lost, lost_all_workers

GRACE_S = 6.0  # of the workers, instead of 30: the run is short
STOP_S = GRACE_S + 3
STARTERS = 2
STUB = str(Path(__file__).with_name("chaos_program.py"))
KILLER = Path(__file__).with_name("killed_in_a_write.py")
IN_A_WRITE = "child inside a write"
UNIT_S = 0.15  # the longest: trials take 1 to 3 s
THIRD = -(-RUNGS * UNITS_PER_RUNG // 3)  # units of work, of a trial


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
        path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
        self.environment = {
            **os.environ,
            "QUELL_STORAGE": url,
            "QUELL_GRACE_S": str(GRACE_S),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": path,
            "KILLED_IN_A_WRITE": str(folder / "kills"),
        }
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


class Faults:
    """Strikes a study until it has ended.

    Attributes:
        counts: of the faults by kind.
        pending: of starter and outages, those that have not taken place.
    """

    def __init__(self, starters: list[Starter], backend: Backend, options: argparse.Namespace) -> None:
        self.starters = starters
        self.kills = starters[0].folder / "kills"
        self.backend = backend
        self.options = options
        self.counts: Counter[str] = Counter()
        self.pending = ["starter", *backend.outages]
        self._draw = random.Random(options.seed)
        self._frozen: dict[int, float] = {}  # stopped workers, and the time at which to continue each
        self._outage: threading.Thread | None = None
        self._next_outage = self._next_fault = self._next_kill = 0.0

    def inject(self) -> None:
        began = time.monotonic()
        preemption = Preemption(self.starters[0].folder) if self.options.preempt else None
        self._next_fault, self._next_outage = began + self.options.every, began + self.options.strike
        while any(starter.process.poll() is None for starter in self.starters):
            now = time.monotonic()
            for worker, until in list(self._frozen.items()):
                if now > until:
                    _signal(worker, signal.SIGCONT)
                    del self._frozen[worker]
            if preemption is not None:
                self.counts["preemption"] += preemption.strike()
            if now > self._next_fault:
                self._next_fault = now + self.options.every
                self._strike_worker(now)
            if now > self._next_kill and not any(self.kills.iterdir()):  # else one call would meet several
                self._next_kill = now + self.options.children
                (self.kills / str(now)).touch()  # for the next child that writes
                self.counts[IN_A_WRITE] += 1
            self._strike_once(now)
            if now - began > self.options.limit:
                raise SystemExit(f"not done after {self.options.limit} s; see {self.starters[0].log}")
            time.sleep(0.1)
        if self._outage is not None:
            self._outage.join()

    def _strike_worker(self, now: float) -> None:
        awake = [worker for starter in self.starters for worker in starter.workers() if worker not in self._frozen]
        if not awake:
            return
        victim, fault = self._draw.choice(awake), self._draw.choice(("SIGKILL", "SIGTERM", "SIGSTOP"))
        _signal(victim, signal.Signals[fault])
        self.counts[fault] += 1
        if fault == "SIGSTOP":
            self._frozen[victim] = now + STOP_S

    def _strike_once(self, now: float) -> None:
        """Kills a starter or begins the next outage, when one is due and the one before is over."""
        if self._outage is not None and self._outage.is_alive():
            self._next_outage = now + self.options.strike
        # `quell tune` does not start without its database.
        starting = any(starter.process.poll() is None and not starter.workers() for starter in self.starters)
        if not self.pending or now < self._next_outage or starting:
            return
        kind = self.pending.pop(0)
        self.counts[kind] += 1
        self._next_outage = now + self.options.strike
        if kind == "starter":
            self.starters[0].process.kill()
            self.starters[0].process.wait()
            self.starters[0].start()
        else:
            self._outage = threading.Thread(target=self.backend.outages[kind], args=(self.options.outage,))
            self._outage.start()

    def end(self) -> None:
        """Ends the starters; a frozen worker of a killed one ends once it is continued."""
        for worker in self._frozen:
            _signal(worker, signal.SIGCONT)
        for starter in self.starters:
            starter.process.kill()
        self.counts[IN_A_WRITE] -= len(list(self.kills.iterdir()))


def _signal(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def verdict(url: str, folder: Path, trials: int, faults: Counter[str]) -> tuple[list[str], list[str]]:
    """(lines of the report, violations).

    Args:
        faults: their counts by kind.
    """
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
            f"wrong scores: {[trial.number for trial in counted if not right(trial)]}": not all(map(right, counted)),
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


def right(trial: FrozenTrial) -> bool:
    """Whether a trial's reports, which child processes computed, and its score are those of its quality."""
    quality, scores = trial.params["quality"], list(trial.intermediate_values.items())
    if trial.state == TrialState.COMPLETE:
        scores.append((RUNGS, trial.value))
    return all(score == quality * rung for rung, score in scores)


def run(name: str, options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        (folder / "kills").mkdir()
        (folder / "site").mkdir()
        shutil.copy(KILLER, folder / "site" / "sitecustomize.py")
        with STORAGES[name](folder) as backend:
            began = time.monotonic()
            each = max(1, options.workers // STARTERS)
            starters = [Starter(backend.url, folder, options.trials, each) for _ in range(STARTERS)]
            faults = Faults(starters, backend, options)
            try:
                faults.inject()
            finally:
                faults.end()
            seconds = time.monotonic() - began
            lines, wrong = verdict(backend.url, folder, options.trials, faults.counts)
            if faults.pending:
                wrong.append(f"the study ended before: {', '.join(faults.pending)}; ask for more trials")
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
    parser.add_argument("--children", type=float, default=4.0, help="seconds between two kills of children")
    parser.add_argument(
        "--preempt", action="store_true", help="also end every worker that has done a third of its trial"
    )
    parser.add_argument("--strike", type=float, default=6.0, help="seconds before the starter and each outage")
    parser.add_argument("--outage", type=float, default=15.0, help="seconds that each outage lasts")
    parser.add_argument("--limit", type=float, default=360.0, help="time limit of a run in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = list(STORAGES) if options.storage == "all" else [options.storage]
    exact = [run(name, options) for name in names]
    sys.exit(0 if all(exact) else 1)


if __name__ == "__main__":
    main()
