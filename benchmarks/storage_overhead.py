"""Overhead of a trial beside its training: claim, ask, reports, attributes, tell, leases.

    python benchmarks/storage_overhead.py                 # all storages, 1 to 32 workers, 0 to 5000 finished trials
    python benchmarks/storage_overhead.py --storage postgres --workers 8 --finished 1000 --profile

Workers run as by `quell worker`, with a trial that sleeps instead of training and writes as much as a real one.
Overhead is a worker's wall time per trial minus the sleep; `first` is a new worker's wait before its first trial
(it reads all trials once). The sleep grows with the workers, so that two cores are not the bottleneck: a real trial
takes minutes. CPU is the CPU time of the worker's process per trial, without the server's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.study import samplers
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.lease import RunningTrial
from quell_tuning.trials.worker_id import worker_name
from quell_tuning.workers.worker import StopRequest

STUDY = "overhead"
TRIALS_EACH = 4  # trials per worker; the first one is timed apart
RUNGS = (900, 1800, 3600)  # seconds of audio
# Attributes of a trial, as large as real ones (quell_tuning.trials.objective).
SCORES = {"pesq": 2.123456789, "stoi": 0.87654321, "estoi": 0.765432109, "si_sdr": 12.3456789}
BEFORE = {
    "denoiser": {f"parameter_{number}": number for number in range(28)},
    "training": {f"setting_{number}": number for number in range(12)},
    "machine": {"device": "cpu AVX512", "threads": 1, "torch": "2.13.0", "quell": "0.1.0"},
}
AFTER = {
    "seconds": 61.2,
    "cost": {"parameters": 201585, "macs_per_s": 7.3e7, "latency_ms": 32.0},
    "data_share": 0.0153,
    "micro_batch": 4,
    "metrics": SCORES,
    "by_snr": {str(snr_db): SCORES for snr_db in range(-5, 25, 5)},
    "failures": 0,
    "worse": SCORES,
    "clips": {str(rung): [2.1234] * (128 if rung == RUNGS[-1] else 32) for rung in RUNGS},
}


class Timed:
    """Seconds and number of calls by name, over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def wrap(self, owner: Any, name: str, label: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self.seconds[label] += time.perf_counter() - began
                self.calls[label] += 1

        setattr(owner, name, outer)


def objective(running: RunningTrial, sleep_s: float) -> None:
    trial = running.trial
    quality = trial.suggest_float("x0", 0, 1)
    for number in range(1, 5):
        trial.suggest_float(f"x{number}", 0, 1)
    trial.suggest_categorical("loss", ["l1", "huber", "compressed"])
    for key, value in BEFORE.items():
        trial.set_user_attr(key, value)
    trial.study.get_trials(deepcopy=False)  # the search for a duplicate
    trial.set_constraint("parameters", -0.5)
    for rung in RUNGS:
        time.sleep(sleep_s / len(RUNGS))
        trial.report(quality * rung, rung)
        if rung < RUNGS[-1]:
            trial.should_prune()
    for key, value in AFTER.items():
        trial.set_user_attr(key, value)
    for name in ("si_sdr", "stoi"):
        trial.set_constraint(name, -0.1)
    trial.study.tell(trial, quality)


def worker(budget_trials: int, sleep_s: float, profile: bool) -> None:
    """Runs TRIALS_EACH trials as `quell_tuning.workers.worker.work` does, and prints their times as JSON."""
    began = time.monotonic()
    storage = open_storage(os.environ["QUELL_STORAGE"])
    study = optuna.load_study(study_name=STUDY, storage=storage)
    study.sampler = samplers.sampler("tpe", 0, worker_name())
    study.pruner = samplers.pruner("none", (RUNGS[0] / 3600, RUNGS[-1] / 3600))
    timed = Timed()
    if profile:
        for name in (name for name in dir(storage) if "_trial" in name or name == "get_study_user_attrs"):
            timed.wrap(storage, name, name)
        timed.wrap(study.sampler, "sample_relative", "sampling, with its reads")
    budget, notice = Budget(study, budget_trials), StopRequest()
    marks: list[tuple[float, float]] = []
    while len(marks) < TRIALS_EACH:
        slots = budget.slots()
        budget.common_failure(slots)
        trial = budget.claim(slots)
        assert trial is not None
        marks.append((time.monotonic(), time.process_time()))
        with RunningTrial(trial, Budget(study, budget_trials), notice.check) as running:
            objective(running, sleep_s)
    # From the first trial's start to the last one's: each with its claim, and without the process's first reads.
    wall, cpu = (end - start for start, end in zip(marks[0], marks[-1], strict=True))
    result = {
        "first": marks[0][0] - began,
        "wall": wall / (TRIALS_EACH - 1) - sleep_s,
        "cpu": cpu / (TRIALS_EACH - 1),
        "profile": {key: (timed.calls[key] / TRIALS_EACH, timed.seconds[key] / TRIALS_EACH) for key in timed.calls},
    }
    print(json.dumps(result))


def seeded(file: Path, finished: int) -> None:
    """Writes an SQLite database with a study of `finished` trials, as the objective leaves them."""
    storage = open_storage(f"sqlite:///{file}", create=True)
    study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    draw = random.Random(0)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        f"x{number}": optuna.distributions.FloatDistribution(0, 1) for number in range(5)
    }
    losses = ["l1", "huber", "compressed"]
    space["loss"] = optuna.distributions.CategoricalDistribution(losses)
    for slot in range(finished):
        params = {name: draw.random() for name in space if name != "loss"} | {"loss": draw.choice(losses)}
        study.add_trial(
            optuna.create_trial(
                value=params["x0"],
                params=params,
                distributions=space,
                user_attrs={**BEFORE, **AFTER, "slot": slot, "attempt": 1, "worker": "gone:1:1", "lease": [12, 1.0]},
                intermediate_values={rung: params["x0"] * rung for rung in RUNGS},
                constraints={"parameters": -0.5, "si_sdr": -0.1, "stoi": -0.1},
            )
        )
    storage.close()


def copy(source: Path, target: sqlalchemy.Engine) -> None:
    """Copies the rows of an SQLite database into an empty Postgres one, in bulk: Optuna adds trials one by one."""
    tables = sqlalchemy.MetaData()
    tables.reflect(target)
    with sqlalchemy.create_engine(f"sqlite:///{source}").connect() as rows, target.begin() as connection:
        for table in tables.sorted_tables:
            columns = [column.name for column in table.columns]
            selected = rows.execute(sqlalchemy.text(f"SELECT {', '.join(columns)} FROM {table.name}"))
            inserted = [_typed(dict(row._mapping)) for row in selected]
            connection.execute(table.delete())
            for start in range(0, len(inserted), 5000):
                connection.execute(table.insert(), inserted[start : start + 5000])
            for column in table.primary_key.columns:
                if column.autoincrement and isinstance(column.type, sqlalchemy.Integer):
                    name, key = table.name, column.name
                    following = f"(SELECT coalesce(max({key}), 0) + 1 FROM {name})"
                    connection.execute(
                        sqlalchemy.text(f"SELECT setval(pg_get_serial_sequence('{name}', '{key}'), {following}, false)")
                    )


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    dates = ("datetime_start", "datetime_complete")
    return {k: datetime.fromisoformat(v) if k in dates and isinstance(v, str) else v for k, v in row.items()}


@contextmanager
def storages(name: str, seed: Path, folder: Path) -> Iterator[str]:
    """URL of a new storage with the seed's trials."""
    if name == "sqlite":
        shutil.copyfile(seed, folder / "q.db")
        yield f"sqlite:///{folder / 'q.db'}"
        return
    folder.chmod(0o755)  # as root the server has a user of its own
    cluster = PostgresServer(folder / "postgres", password="overhead")
    cluster.init()
    cluster.start()
    try:
        open_storage(cluster.url).close()  # makes the tables
        engine = sqlalchemy.create_engine(cluster.url)
        copy(seed, engine)
        engine.dispose()
        if name == "postgres":
            yield cluster.url
            return
        port = PostgresServer(folder, password="").port  # a free one
        command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve", "--port", str(port)]
        environment = {**os.environ, "QUELL_STORAGE": cluster.url}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as proxy:
            yield f"grpc://127.0.0.1:{port}"
            proxy.kill()
    finally:
        cluster.stop()


def measure(url: str, workers: int, finished: int, profile: bool) -> list[dict[str, Any]]:
    """Times of `workers` at once; this process reconciles the slots, as `quell tune` does."""
    sleep_s = max(3.0, workers * 0.5)
    trials = finished + workers * TRIALS_EACH
    storage = open_storage(url)
    budget = Budget(optuna.load_study(study_name=STUDY, storage=storage), trials)
    budget.enqueue_missing()
    command = [sys.executable, __file__, "--worker", str(trials), str(sleep_s), str(int(profile))]
    environment = {**os.environ, "QUELL_STORAGE": url, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    while any(process.poll() is None for process in running):
        budget.reconcile()
        time.sleep(0.5)
    storage.close()
    return [json.loads(process.communicate()[0]) for process in running]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", nargs="+", default=["sqlite", "postgres", "grpc"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 8, 32])
    parser.add_argument("--finished", nargs="+", type=int, default=[0, 1000, 5000])
    parser.add_argument("--profile", action="store_true", help="calls and seconds by name")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    from header import header

    print(header("python " + " ".join(["benchmarks/storage_overhead.py", *sys.argv[1:]])))
    print("| storage | finished | workers | overhead, s | largest | CPU, s | first, s |", flush=True)
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        root.chmod(0o755)
        for finished in options.finished:
            seed = root / f"{finished}.db"
            seeded(seed, finished)
            for name in options.storage:
                for workers in options.workers:
                    folder = root / f"{name}-{finished}-{workers}"
                    folder.mkdir()
                    with storages(name, seed, folder) as url:
                        results = measure(url, workers, finished, options.profile)
                    shutil.rmtree(folder, ignore_errors=True)
                    wall = [result["wall"] for result in results]
                    cpu, first = (statistics.median(result[key] for result in results) for key in ("cpu", "first"))
                    row = f"{statistics.median(wall):.3f} | {max(wall):.3f} | {cpu:.3f} | {first:.2f}"
                    print(f"| {name} | {finished} | {workers} | {row} |", flush=True)
                    if options.profile:
                        show(results)


def show(results: list[dict[str, Any]]) -> None:
    print("\ncalls and seconds per trial, by name; medians over the workers\n")
    for key in sorted(results[0]["profile"], key=lambda key: -results[0]["profile"][key][1]):
        calls, seconds = (statistics.median(result["profile"][key][part] for result in results) for part in (0, 1))
        print(f"- {key}: {calls:.1f} calls, {seconds:.3f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "1")
    else:
        main()
