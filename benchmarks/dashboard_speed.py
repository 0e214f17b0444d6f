"""Time until the dashboard answers with all trials of a study.

    python benchmarks/dashboard_speed.py                        # 1000 and 5000 trials, few and many notes
    python benchmarks/dashboard_speed.py --studies 1000:50
    python benchmarks/dashboard_speed.py --studies 10000:50 --clients 20 --idle 200

Studies of synthetic trials, as large as real ones, in SQLite, with user notes on some. `quell dashboard` and plain
optuna-dashboard on the same server, each in a fresh process: `ready` is the time from the start of the process, `first`
the first answer with all trials, `again` the next one, `poll` what an open page requests every few seconds.
Target: 3 s for the first answer with 1000 trials.

With --clients: one page on a fresh server, which reads all trials (`first`); then so many pages at once, each with all
trials, and four requests of an open page each, while --idle connections send nothing: the slowest and the median answer
of each kind, and the CPU time of the server. Target: no answer of 20 clients takes longer than 10 s with 10,000 trials
on two cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import psutil
import sqlalchemy
from header import header
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from quell_tuning.storage.backends import open_storage
from quell_tuning.study import study_file

from quell.config import DenoiserConfig, TrainingConfig

STARTS = 3
SERVERS: list[int] = []  # processes, in the order of their starts
METRICS = ("pesq", "stoi", "estoi", "si_sdr")
SNRS_DB = range(-5, 25, 5)
PARAMETERS = 14
# Seconds of audio and clips scored there.
RUNGS = {3600: 32, 7200: 32, 14400: 128}
NOTE = 3000  # characters
PIECE = 2045  # characters of a note in one attribute (optuna_dashboard)
ALONE = """
import sys, optuna_dashboard, waitress
waitress.serve(optuna_dashboard.wsgi(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), threads=8)
"""


def attributes(draw: random.Random) -> dict[str, Any]:
    """User attributes of a complete trial, as large as real ones."""

    def scores() -> dict[str, float]:
        return {name: draw.uniform(0, 4) for name in METRICS}

    return {
        "slot": draw.randrange(1000),
        "denoiser": asdict(DenoiserConfig()),
        "training": asdict(TrainingConfig()),
        "metrics": scores(),
        "by_snr": {str(snr_db): scores() for snr_db in SNRS_DB},
        "worse": scores(),
        "failures": 0,
        "cost": {"parameters": draw.randrange(10**6), "macs_per_s": draw.uniform(1e7, 1e9), "latency_ms": 32.0},
        "seconds": draw.uniform(60, 600),
        "data_share": 0.0153,
        "machine": {"device": "cpu AVX512", "threads": 1, "torch": "2.13.0", "quell": "0.1.0"},
        "worker": "gone:1:1",
        "lease": [12, 4.0],
        "clips": {str(rung): [round(draw.uniform(1, 4), 4) for _ in range(clips)] for rung, clips in RUNGS.items()},
        "worst": {"label": "speaker/one.flac + rain/two.ogg", "snr_db": 0.0, "noisy": scores(), "denoised": scores()},
        "gallery": [{"denoised": str(uuid.uuid4()), "picture": str(uuid.uuid4()), "scores": scores()}] * 4,
    }


def artifacts() -> dict[str, str]:
    """System attributes that list four recordings and four pictures."""
    attributes = {}
    for number in range(8):
        artifact, name = str(uuid.uuid4()), ("clip.png", "denoised.wav")[number % 2]
        described = {"artifact_id": artifact, "filename": name, "mimetype": "image/png", "encoding": None}
        attributes[f"artifacts:{artifact}"] = json.dumps(described)
    return attributes


def fabricated(file: Path, trials: int, notes: int) -> None:
    """Writes a database with a study of complete trials, in bulk: Optuna takes 70 ms per trial."""
    storage = open_storage(f"sqlite:///{file}", create=True)
    study = optuna.create_study(study_name="fabricated", storage=storage, direction="maximize")
    study.set_user_attr("spec", study_file.load(Path(__file__).parents[1] / "studies" / "demo.toml").resolved())
    storage.close()
    draw = random.Random(0)
    space = {f"x{number}": FloatDistribution(0, 1) for number in range(PARAMETERS - 3)}
    space |= {f"c{number}": CategoricalDistribution(["l1", "huber", "compressed"]) for number in range(3)}
    written = {name: distribution_to_json(distribution) for name, distribution in space.items()}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def put(table: str, **row: Any) -> None:
        rows[table].append(row)

    when = {"datetime_start": "2026-01-01 00:00:00.000000", "datetime_complete": "2026-01-01 00:05:00.000000"}
    for number in range(trials):
        at, score = {"trial_id": number + 1}, draw.uniform(1.5, 3)
        put("trials", **at, number=number, study_id=1, state="COMPLETE", **when)
        put("trial_values", **at, objective=0, value=score, value_type="FINITE")
        for name in space:
            value = draw.random() if name.startswith("x") else draw.randrange(3)
            put("trial_params", **at, param_name=name, param_value=value, distribution_json=written[name])
        for step in RUNGS:
            reported = {"intermediate_value": score, "intermediate_value_type": "FINITE"}
            put("trial_intermediate_values", **at, step=step, **reported)
        for key, value in attributes(draw).items():
            put("trial_user_attributes", **at, key=key, value_json=json.dumps(value))
        constraints = {"constraints:si_sdr": draw.uniform(-1, 0.1), "constraints:stoi": -0.1}
        for key, value in {**artifacts(), **constraints}.items():
            put("trial_system_attributes", **at, key=key, value_json=json.dumps(value))
    for number in range(notes):
        prefix = f"dashboard:{number + 1}:note_"
        text = "".join(draw.choices("abcdefgh |\n", k=NOTE))
        pieces = {f"str:{start // PIECE}": text[start : start + PIECE] for start in range(0, NOTE, PIECE)}
        for key, value in {"ver": 1, **pieces}.items():
            put("study_system_attributes", study_id=1, key=prefix + key, value_json=json.dumps(value))
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        for table, inserted in rows.items():
            names = list(inserted[0])
            values = ", ".join(f":{name}" for name in names)
            connection.execute(sqlalchemy.text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"), inserted)
    engine.dispose()


@contextmanager
def served(name: str, file: Path) -> Iterator[int]:
    """The port of a fresh server, once it listens."""
    port = 18471
    if name == "optuna-dashboard":
        command = [sys.executable, "-c", ALONE, f"sqlite:///{file}", str(port)]
    else:
        command = [sys.executable, "-m", "quell_tuning.cli", "dashboard", "--port", str(port)]
        command += ["--runs", str(file.parent), "--storage", f"sqlite:///{file}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        SERVERS.append(process.pid)
        try:
            while True:
                try:
                    ask(port, "/api/meta")
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, "the server ended"
                    time.sleep(0.02)
            yield port
        finally:
            process.send_signal(signal.SIGKILL)


def ask(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, (path, answer.status)
    return body


def timed(call: Callable[[], bytes]) -> tuple[float, bytes]:
    began = time.perf_counter()
    body = call()
    return time.perf_counter() - began, body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clients", type=int, default=0, metavar="N", help="open so many pages at once, and nothing else"
    )
    parser.add_argument(
        "--idle", type=int, default=0, metavar="N", help="with --clients: connections that send nothing"
    )
    parser.add_argument("--studies", nargs="+", default=["1000:50", "1000:1000", "5000:50"], metavar="TRIALS:NOTES")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(header("python " + " ".join(["benchmarks/dashboard_speed.py", *sys.argv[1:]])))
    if options.clients:
        print("| trials | idle | clients | first | all: median | slowest | poll: median | slowest | CPU, s |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        for asked in options.studies:
            trials, notes = map(int, asked.split(":"))
            with tempfile.TemporaryDirectory() as text:
                file = Path(text) / "q.db"
                fabricated(file, trials, notes)
                print(
                    f"| {trials} | {options.idle} | {crowd(file, trials, options.clients, options.idle)} |", flush=True
                )
        return
    print(f"Seconds: medians of {STARTS} fresh servers, and the largest `first`.\n")
    print("| trials | notes | server | ready | first | largest | again | poll | sent, MB |", flush=True)
    print("|---|---|---|---|---|---|---|---|---|")
    for asked in options.studies:
        trials, notes = map(int, asked.split(":"))
        with tempfile.TemporaryDirectory() as text:
            file = Path(text) / "q.db"
            fabricated(file, trials, notes)
            for name in ("quell dashboard", "optuna-dashboard"):
                print(f"| {trials} | {notes} | {name} | {row(name, file, trials)} |", flush=True)


def row(name: str, file: Path, trials: int) -> str:
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(STARTS):
        began = time.perf_counter()
        with served(name, file) as port:
            times["ready"].append(time.perf_counter() - began)
            for key, after in (("first", 0), ("again", 0), ("poll", trials)):
                seconds, body = timed(lambda after=after: ask(port, f"/api/studies/1?after={after}"))
                times[key].append(seconds)
                if key == "first":
                    times["sent"].append(len(body) / 1e6)
    first, again, poll = (statistics.median(times[key]) for key in ("first", "again", "poll"))
    ready, sent = statistics.median(times["ready"]), times["sent"][0]
    return f"{ready:.1f} | {first:.2f} | {max(times['first']):.2f} | {again:.2f} | {poll:.2f} | {sent:.1f}"


POLLS = 4
SETTLED_S = 30.0  # after which no earlier answer is sent again


def crowd(file: Path, trials: int, clients: int, idle: int) -> str:
    """Answers to clients that open the page at the same moment, and then ask as an open page does."""
    whole, polls = [], []

    def client(port: int) -> None:
        whole.append(timed(lambda: ask(port, "/api/studies/1?after=0"))[0])
        for _ in range(POLLS):
            polls.append(timed(lambda: ask(port, f"/api/studies/1?after={trials}"))[0])

    with served("quell dashboard", file) as port, ExitStack() as connections:
        for _ in range(idle):
            connections.enter_context(socket.create_connection(("127.0.0.1", port)))
        first = timed(lambda: ask(port, "/api/studies/1?after=0"))[0]
        time.sleep(SETTLED_S)
        threads = [threading.Thread(target=client, args=(port,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used = psutil.Process(SERVERS[-1]).cpu_times()
    figures = (
        first,
        statistics.median(whole),
        max(whole),
        statistics.median(polls),
        max(polls),
        used.user + used.system,
    )
    return f"{clients} | " + " | ".join(f"{seconds:.2f}" for seconds in figures)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
