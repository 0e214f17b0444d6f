"""Many workers on one study: throughput against ideal, errors, connections to the database; then many more on paper.

    python benchmarks/scale.py                                   # 64 workers on Postgres and on the gRPC proxy
    python benchmarks/scale.py --storage grpc --workers 16 --sleep-s 10

Workers as `quell worker` runs them, with the trials of `storage_overhead.py`: they sleep instead of training, and write
what a real one writes. Ideal is a trial for each worker in every `sleep-s`; it is held against the time in which all of
them had a trial. What the narrowest server (Postgres, or the proxy, which is Python and has one core) spent on a
transaction then feeds a simulation: workers that sleep, and cores that serve their transactions one after another.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
import sqlalchemy
from storage_overhead import STUDY, objective

from tuning import samplers
from tuning.budget import GRACE_S, RENEW_S, Budget, is_lost
from tuning.identity import worker_name
from tuning.postgres_server import Cluster
from tuning.storage import open_storage
from tuning.worker import Notice, work

ROUNDS = 4  # trials of each worker
SIMULATED = (64, 250, 500, 1000)  # workers
TRIAL_S = (60, 600, 3600)
CORES = {"postgres": 4, "grpc": 1}  # of the narrowest server
RENEWALS = 50
STATISTICS_S = 11.0  # until Postgres has counted what an idle connection did


def worker(trials: int, sleep_s: float) -> int:
    notice = Notice()
    storage = open_storage(os.environ["QUELL_STORAGE"])
    with storage.waiting(unless=notice.check):
        study = optuna.load_study(study_name=STUDY, storage=storage)
    study.sampler = samplers.sampler("tpe", 0, worker_name())
    study.pruner = samplers.pruner("none", (0.25, 1.0))
    return work(Budget(study, trials), notice, lambda: lambda running: objective(running, sleep_s), lambda number: None)


@dataclass
class Servers:
    """Postgres, the proxy where there is one, and what they spend."""

    database: sqlalchemy.Engine
    url: str
    processes: list[psutil.Process]
    connections: int = 0  # the most that were seen at once
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self._over.wait(1.0):
            self.connections = max(
                self.connections, self._ask("SELECT count(*) FROM pg_stat_activity WHERE state != ''")
            )

    def stop(self) -> None:
        self._over.set()

    def transactions(self) -> int:
        return self._ask("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database")

    def cpu_s(self) -> float:
        """Of the narrowest server so far, also of connections that were closed."""
        process = self.processes[-1]
        children = process.children(recursive=True)
        return sum(process.cpu_times()[:4]) + sum(sum(child.cpu_times()[:2]) for child in children)

    def _ask(self, query: str) -> int:
        with self.database.connect() as connection:
            return int(connection.execute(sqlalchemy.text(query)).scalar_one())


@contextmanager
def servers(name: str, folder: Path) -> Iterator[Servers]:
    cluster = Cluster(folder / "postgres", password="scale")
    cluster.init()
    cluster.start()
    processes = [psutil.Process(int((cluster.data / "postmaster.pid").read_text().split()[0]))]
    url, proxy = cluster.url, None
    if name == "grpc":
        port = Cluster(folder, password="").port  # a free one
        command = [sys.executable, "-m", "tuning.cli", "storage", "serve", "--port", str(port)]
        proxy = subprocess.Popen(command, env={**os.environ, "QUELL_STORAGE": url}, stderr=subprocess.DEVNULL)
        processes.append(psutil.Process(proxy.pid))
        url = f"grpc://127.0.0.1:{port}"
    engine = sqlalchemy.create_engine(cluster.url, poolclass=sqlalchemy.pool.NullPool)
    try:
        yield Servers(engine, url, processes)
    finally:
        if proxy is not None:
            proxy.kill()
            proxy.wait()
        cluster.stop()


@dataclass(frozen=True)
class Found:
    """Of one storage. Times are those of the window in which every worker had a trial."""

    storage: str
    share: float  # of the ideal throughput
    trials: int
    ended: int
    lost: int
    errors: int
    connections: int
    transactions: float  # for each trial
    renewal: float  # of them for each renewal of a lease, which a trial needs the more of the longer it is
    cpu_ms: float  # of the narrowest server, for each transaction


def measure(name: str, workers: int, sleep_s: float, folder: Path) -> Found:
    trials = ROUNDS * workers
    with servers(name, folder) as there, closing(open_storage(there.url, create=True)) as storage:
        study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
        study.set_user_attr("trials", trials)
        watch = threading.Thread(target=there.watch)
        watch.start()
        environment = {**os.environ, "QUELL_STORAGE": there.url, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--worker", str(trials), str(sleep_s)]
        processes = []
        for number in range(workers):
            with (folder / f"{number}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        while sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False)) < workers:
            time.sleep(0.5)
        before = time.monotonic(), there.transactions(), there.cpu_s(), ended(study)
        while ended(study) < trials - workers:  # from here on some find nothing to do
            time.sleep(0.5)
        after = time.monotonic(), there.transactions(), there.cpu_s(), ended(study)
        for process in processes:
            process.wait(GRACE_S + 4 * sleep_s)
        there.stop()
        watch.join()
        seconds, transactions, cpu_s, done = (late - early for late, early in zip(after, before, strict=True))
        renewal = renewals(study, there)
        return Found(
            storage=name,
            share=done / seconds / (workers / sleep_s),
            trials=trials,
            ended=ended(study),
            lost=sum(is_lost(trial) and "superfluous" not in trial.user_attrs for trial in study.trials),
            errors=sum(process.returncode != 0 for process in processes) + complaints(folder),
            connections=there.connections,
            transactions=transactions / done,
            renewal=renewal,
            cpu_ms=1000 * cpu_s / transactions,
        )


def renewals(study: optuna.Study, there: Servers) -> float:
    """Transactions of one."""
    trial, budget = study.ask(), Budget(study, 1)
    time.sleep(STATISTICS_S)
    before = there.transactions()
    for count in range(RENEWALS):
        budget.storage.set_trial_user_attr(trial._trial_id, "lease", [count, 0.0])
        budget.keep()
    time.sleep(STATISTICS_S)
    return (there.transactions() - before) / RENEWALS


def ended(study: optuna.Study) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def complaints(folder: Path) -> int:
    return sum(
        len(re.findall(r"Error|Traceback|trying again|lease of", log.read_text())) for log in folder.glob("*.log")
    )


def simulate(workers: int, trial_s: float, transactions: float, service_s: float, cores: int) -> float:
    """Share of the ideal throughput: workers that sleep `trial_s` in all, between as many transactions, which `cores`
    serve in the order in which they come, each for an exponential time."""
    draw = random.Random(0)
    pause = trial_s / transactions
    waiting = [draw.uniform(0, pause) for _ in range(workers)]  # when each comes with its next transaction
    free = [0.0] * cores
    heapq.heapify(waiting)
    warm, served = min(trial_s, 300.0), 0
    end = 2 * warm
    while waiting[0] < end:
        now = heapq.heappop(waiting)
        left = max(now, heapq.heappop(free)) + draw.expovariate(1 / service_s)
        heapq.heappush(free, left)
        served += warm < left < end
        heapq.heappush(waiting, left + pause * draw.uniform(0.5, 1.5))
    return served * pause / warm / workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", choices=("postgres", "grpc"), action="append")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sleep-s", type=float, default=60.0, help="of a trial")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.worker:
        sys.exit(worker(int(options.worker[0]), float(options.worker[1])))
    from header import header  # which imports torch: workers do without

    print(header(f"python benchmarks/scale.py {' '.join(sys.argv[1:])}".strip()))
    print(f"{options.workers} workers, trials of {options.sleep_s:g} s\n")
    print("| storage | of ideal | trials | lost | errors | connections | transactions a trial | server CPU, ms each |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    found = []
    for name in options.storage or ("postgres", "grpc"):
        with tempfile.TemporaryDirectory(prefix="quell-scale-") as folder:
            one = measure(name, options.workers, options.sleep_s, Path(folder))
        found.append(one)
        figures = f"{one.ended} of {one.trials} | {one.lost} | {one.errors} | {one.connections}"
        row = f"| {one.storage} | {one.share:.1%} | {figures} | {one.transactions:.0f} | {one.cpu_ms:.2f} |"
        print(row, flush=True)
    print("\nSimulated: share of ideal by workers and length of a trial\n")
    print("| storage | trial | " + " | ".join(map(str, SIMULATED)) + " |\n|---|---|" + "---|" * len(SIMULATED))
    for one in found:
        for trial_s in TRIAL_S:
            transactions = one.transactions + one.renewal * (trial_s - options.sleep_s) / RENEW_S
            cost, cores = one.cpu_ms / 1000, CORES[one.storage]
            shares = [simulate(many, trial_s, transactions, cost, cores) for many in SIMULATED]
            print(f"| {one.storage} | {trial_s} s | " + " | ".join(f"{share:.1%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
