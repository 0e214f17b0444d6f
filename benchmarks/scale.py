"""Many workers on one study: throughput against ideal, errors, database connections; then simulations of more.

    python benchmarks/scale.py                                   # 64 workers on Postgres and on the gRPC proxy
    python benchmarks/scale.py --storage grpc --workers 16 --sleep-s 10 --processes 2

Workers run as by `quell worker`, with the trials of `storage_overhead.py`: they sleep instead of training, and write as
much as real ones. Ideal is a trial per worker in every `sleep-s`, over the time in which every worker has a trial. Then
single calls are timed, by the CPU time of the narrowest server (Postgres, or the proxy, which is Python) and by the
client's further wait, as input of the simulation in `on_paper.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from on_paper import Call, Server, Trial, simulate
from quell_tuning.storage.backends import open_storage
from quell_tuning.study import samplers
from quell_tuning.trials.budget import MAX_REAPERS, REAP_EVERY, Budget
from quell_tuning.trials.lease_watch import GRACE_S, RENEW_S
from quell_tuning.trials.ranking import is_lost
from quell_tuning.trials.worker_id import worker_name
from quell_tuning.workers.worker import StopRequest, work
from servers import servers, single_calls
from storage_overhead import STUDY, objective

ROUNDS = 4  # trials of each worker
SIMULATED = (64, 250, 500, 1000)  # workers
TRIAL_S = (60, 600, 3600)
POSTGRES_CORES = 4
PROXIES = (1, 4)  # processes


@dataclass
class CallCounts:
    """Calls of the main thread, without those of the lease."""

    looks: int = 0
    others: int = 0

    def watch(self, storage: Any) -> None:
        inner: Callable[..., Any] = storage._call

        def call(method: Callable[..., Any], *arguments: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                look = method.__name__ == "get_all_trials"
                self.looks, self.others = self.looks + look, self.others + (not look)
            return inner(method, *arguments)

        storage._call = call


def worker(trials: int, sleep_s: float) -> int:
    notice = StopRequest()
    storage = open_storage(os.environ["QUELL_STORAGE"])
    counts = CallCounts()
    counts.watch(storage)
    with storage.waiting(unless=notice.check):
        study = optuna.load_study(study_name=STUDY, storage=storage)
    study.sampler = samplers.sampler("tpe", 0, worker_name())
    study.pruner = samplers.pruner("none", (0.25, 1.0))
    code = work(Budget(study, trials), notice, lambda: lambda running: objective(running, sleep_s), lambda number: None)
    print(json.dumps(vars(counts)))
    return code


@dataclass(frozen=True)
class Measurement:
    """Results of one storage, over the time in which every worker has a trial."""

    share: float  # of the ideal throughput
    trials: int
    ended: int
    lost: int
    errors: int
    connections: int
    transactions: float  # per trial
    cpu_ms: float  # of the narrowest server, per trial
    look: Call
    other: Call
    trial: Trial

    def explained_ms(self, workers: int, trial_s: float) -> float:
        """The part of `cpu_ms` that the single calls add up to."""
        renewals = trial_s / RENEW_S
        reapers = min(1.0, MAX_REAPERS / workers)
        looks = self.trial.looks + renewals * (reapers + (1 - reapers) / REAP_EVERY)
        look_s = self.look.server_s + workers * self.look.server_each_s
        return 1000 * (looks * look_s + (self.trial.others + renewals) * self.other.server_s)


def measure(name: str, processes: int, workers: int, sleep_s: float, folder: Path) -> Measurement:
    trials = ROUNDS * workers
    with servers(name, processes, folder) as there, closing(open_storage(there.url, create=True)) as storage:
        study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
        study.set_user_attr("trials", trials)
        watch = threading.Thread(target=there.watch)
        watch.start()
        environment = {**os.environ, "QUELL_STORAGE": there.url, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--worker", str(trials), str(sleep_s)]
        started = []
        for number in range(workers):
            with (folder / f"{number}.log").open("wb") as log:
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        while sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False)) < workers:
            time.sleep(0.5)
        before = time.monotonic(), there.transactions(), there.cpu_s(), ended(study)
        while ended(study) < trials - workers:  # after that some workers have no trial
            time.sleep(0.5)
        after = time.monotonic(), there.transactions(), there.cpu_s(), ended(study)
        for process in started:
            process.wait(GRACE_S + 4 * sleep_s)
        there.stop()
        watch.join()
        seconds, transactions, cpu_s, done = (late - early for late, early in zip(after, before, strict=True))
        look, other = single_calls(there, storage)
        counts = [json.loads((folder / f"{number}.log").read_text().splitlines()[-1]) for number in range(workers)]
        return Measurement(
            share=done / seconds / (workers / sleep_s),
            trials=trials,
            ended=ended(study),
            lost=sum(is_lost(trial) and "superfluous" not in trial.user_attrs for trial in study.trials),
            errors=sum(process.returncode != 0 for process in started) + complaints(folder),
            connections=there.connections,
            transactions=transactions / done,
            cpu_ms=1000 * cpu_s / done,
            look=look,
            other=other,
            trial=Trial(*(sum(one[key] for one in counts) / trials for key in ("looks", "others"))),
        )


def ended(study: optuna.Study) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def complaints(folder: Path) -> int:
    return sum(
        len(re.findall(r"Error|Traceback|trying again|lease of", log.read_text())) for log in folder.glob("*.log")
    )


def on_paper(
    measured: Measurement, dearer: float, workers: int, trial_s: float, proxies: int, begin_s: float | None = None
) -> str:
    """Simulated share of the ideal throughput, if every call costs the server `dearer` times a single one."""
    server = Server(1, shares_reads=True) if proxies else Server(POSTGRES_CORES, shares_reads=False)
    look, other = measured.look.dearer(dearer), measured.other.dearer(dearer)
    on_each = workers // max(1, proxies)
    return str(simulate(server, look, other, measured.trial, on_each, trial_s, running=workers, begin_s=begin_s))


def show(name: str, result: Measurement, explained_ms: float) -> None:
    figures = f"{result.ended} of {result.trials} | {result.lost} | {result.errors} | {result.connections}"
    print(f"| {name} | {result.share:.1%} | {figures} | {result.transactions:.0f} | {result.cpu_ms:.0f} |", flush=True)
    look, other, trial = result.look, result.other, result.trial
    print(f"\nA trial reads all trials {trial.looks:.1f} times and makes {trial.others:.1f} other calls, lease aside.")
    print(
        f"A read takes {1000 * look.server_s:.2f} + {1000 * look.server_each_s:.3f} ms per running trial on the server"
        f" and {1000 * look.client_s:.2f} + {1000 * look.client_each_s:.3f} ms elsewhere;"
        f" another call {1000 * other.server_s:.2f} and {1000 * other.client_s:.2f} ms."
    )
    print(f"These add up to {explained_ms:.0f} of the server's {result.cpu_ms:.0f} ms per trial.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", choices=("postgres", "grpc"), action="append")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sleep-s", type=float, default=60.0, help="of a trial")
    parser.add_argument("--processes", type=int, default=1, help="of the proxy")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.worker:
        sys.exit(worker(int(options.worker[0]), float(options.worker[1])))
    from header import header  # imports torch, which workers do not need

    print(header(f"python benchmarks/scale.py {' '.join(sys.argv[1:])}".strip()))
    print(f"{options.workers} workers, trials of {options.sleep_s:g} s\n")
    paper = []
    for name in options.storage or ("postgres", "grpc"):
        print("| storage | of ideal | trials | lost | errors | connections | transactions/trial | server, ms/trial |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        with tempfile.TemporaryDirectory(prefix="quell-scale-") as folder:
            result = measure(name, options.processes, options.workers, options.sleep_s, Path(folder))
        explained_ms = result.explained_ms(options.workers, options.sleep_s)
        dearer = max(1.0, result.cpu_ms / explained_ms)
        show(name, result, explained_ms)
        proxies = options.processes if name == "grpc" else 0
        same = on_paper(result, dearer, options.workers, options.sleep_s, proxies, begin_s=1.0)
        print(f"Simulated, with all trials beginning within a second as here: {same} of ideal.\n")
        for proxies in PROXIES if name == "grpc" else (0,):
            for trial_s in TRIAL_S:
                shares = [on_paper(result, dearer, many, trial_s, proxies) for many in SIMULATED]
                paper.append(f"| {name}{f' x {proxies}' * (proxies > 1)} | {trial_s} s | {' | '.join(shares)} |")
    print("Simulated: share of ideal by workers and length of a trial\n")
    print("| storage | trial | " + " | ".join(map(str, SIMULATED)) + " |\n|---|---|" + "---|" * len(SIMULATED))
    print("\n".join(paper))


if __name__ == "__main__":
    main()
