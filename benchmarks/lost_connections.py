"""Lost connections at random moments: is every operation of a storage done, and done once?

    python benchmarks/lost_connections.py                 # 1000 lost connections, 3 seeds, Postgres
    python benchmarks/lost_connections.py --losses 100 --seeds 1 --through grpc

Threads of several processes make, enqueue, claim, hand back and finish trials, set their parameters and attributes and
report, each as fast as it can, and write down what they were told had been done. Meanwhile backends are ended
(pg_terminate_backend), sockets are closed under the driver, and every 250th loss the server restarts, without
waiting for its clients. At the end the ledgers are compared with the database, read over a new connection: what is
lost, what was done twice, and what ended with an error. Exits with 1 if there is any of these.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning.storage import retrying
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.retrying import RetryingStorage

PROCESSES, THREADS = 2, 3
RESTART_EVERY = 250  # losses
PAUSE_S = (0.02, 0.25)  # between two losses
STUDY = "ledger"
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = (SELECT pid FROM pg_stat_activity "
    "WHERE application_name = 'quell' ORDER BY random() LIMIT 1)"
)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Client:
    """One thread's operations, and the ledger of those that were answered: what the database must hold of each trial.

    A trial is one client's from its creation or claim to its end or hand-back, so that nobody else changes it.
    """

    def __init__(self, storage: RetryingStorage, name: str, seed: str) -> None:
        self.storage = storage
        self.name = name
        self.random = random.Random(seed)
        self.study = storage.get_study_id_from_name(STUDY)
        self.ledger: dict[int, dict[str, Any]] = {}  # of trials that this client made: by their number in the database
        self.taken: list[tuple[int, str]] = []  # of the trials of others: what was done to them
        self.notes: dict[str, int] = {}  # attributes of the study
        self.operations = 0
        self.errors: list[str] = []

    def run(self, until: threading.Event) -> None:
        while not until.is_set():
            try:
                self._one()
            except Exception as error:
                self.errors.append(f"{self.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _one(self) -> None:
        step = self.random.choice((self._trial, self._enqueue, self._claim, self._note))
        step()

    def _count(self) -> None:
        self.operations += 1

    def _trial(self) -> None:
        made = self.storage.create_new_trial(self.study)
        self._count()
        self.ledger[made] = {"state": "RUNNING", "by": self.name}
        self.storage.set_trial_user_attr(made, "by", self.name)
        self._count()
        self._work(made, self.ledger[made])

    def _work(self, trial: int, entry: dict[str, Any]) -> None:
        """Writes of every kind to a trial that is this client's, then its end."""
        value = self.random.random()
        self.storage.set_trial_param(trial, "x", value, FloatDistribution(0, 1))
        self._count()
        entry["x"] = value
        for report in range(self.random.randint(1, 3)):
            self.storage.set_trial_intermediate_value(trial, report, value + report)
            self._count()
            entry.setdefault("reports", {})[str(report)] = value + report
            self.storage.set_trial_user_attr(trial, "lease", report)
            self._count()
            entry["lease"] = report
        state = self.random.choice(FINISHED)
        result = [value] if state == TrialState.COMPLETE else None
        assert self.storage.set_trial_state_values(trial, state, result), "the end of a trial of ours was refused"
        self._count()
        entry |= {"state": state.name} | ({"value": value} if result else {})

    def _enqueue(self) -> None:
        made = self.storage.create_new_trial(self.study, create_trial(state=TrialState.WAITING, user_attrs={"by": ""}))
        self._count()
        self.ledger[made] = {"state": "enqueued"}

    def _claim(self) -> None:
        waiting = self.storage.get_all_trials(self.study, deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            return
        trial = self.random.choice(waiting)._trial_id
        try:
            claimed = self.storage.set_trial_state_values(trial, TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:  # others were faster
            return
        self._count()
        if not claimed:
            return
        self.taken.append((trial, "claimed"))
        if self.random.random() < 0.5:
            self.storage.set_trial_state_values(trial, TrialState.WAITING)
            self._count()
            self.taken.append((trial, "handed back"))
        else:
            entry: dict[str, Any] = {}
            self._work(trial, entry)
            self.taken.append((trial, json.dumps(entry)))

    def _note(self) -> None:
        key, number = f"{self.name}-{self.random.randrange(5)}", self.random.randrange(1000)
        self.storage.set_study_user_attr(self.study, key, number)
        self._count()
        self.notes[key] = number


def client_process(seed: str, process: int) -> None:
    """Runs THREADS clients until a line comes on stdin, closing its own sockets at random, and prints the ledgers."""
    logging.basicConfig(level=logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    retrying.FIRST_PAUSE_S = 0.02  # of many losses, most time would be spent on waiting
    storage = open_storage(os.environ["QUELL_STORAGE"], connections=THREADS)
    clients = [Client(storage, f"{process}.{number}", f"{seed} {process} {number}") for number in range(THREADS)]
    ended = threading.Event()
    threads = [threading.Thread(target=client.run, args=(ended,)) for client in clients]
    for thread in threads:
        thread.start()
    closer = SocketCloser(storage)
    print("ready", flush=True)
    for line in sys.stdin:  # "close" or "end"
        if line.strip() == "end":
            break
        closer.close_one()
    ended.set()
    for thread in threads:
        thread.join(120)
    hanging = [client.name for client, thread in zip(clients, threads, strict=True) if thread.is_alive()]
    answer = [
        {
            "operations": client.operations,
            "errors": client.errors + [f"{client.name}: hangs"] * (client.name in hanging),
            "ledger": client.ledger,
            "taken": client.taken,
            "notes": client.notes,
        }
        for client in clients
    ]
    print(json.dumps(answer), flush=True)
    os._exit(0)


class SocketCloser:
    """Shuts down a socket that a driver of this process uses, as a network or a firewall may do at any moment."""

    def __init__(self, storage: RetryingStorage) -> None:
        self.sockets: dict[int, Any] = {}
        backend = getattr(storage.backend, "_backend", None)
        if backend is not None:
            for connection in (backend.engine.raw_connection() for _ in range(1)):
                self._add(connection.driver_connection)
                connection.close()
            sqlalchemy.event.listen(backend.engine, "connect", lambda connection, _: self._add(connection))

    def _add(self, connection: Any) -> None:
        self.sockets[id(connection)] = connection

    def close_one(self) -> None:
        open_ones = [one for one in list(self.sockets.values()) if not one.closed]
        self.sockets = {id(one): one for one in open_ones}
        if open_ones:
            with suppress(OSError, Exception):
                copied = os.dup(random.choice(open_ones).fileno())
                with socket.socket(fileno=copied) as found:
                    found.shutdown(socket.SHUT_RDWR)


@contextmanager
def clients(url: str, seed: int) -> Iterator[list[subprocess.Popen[str]]]:
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--client", str(seed), str(number)],
            env={**os.environ, "QUELL_STORAGE": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield running
    finally:
        for process in running:
            process.kill()


def strike(
    server: PostgresServer, running: list[subprocess.Popen[str]], losses: int, draw: random.Random
) -> Counter[str]:
    """Loses connections; returns how many of each kind."""
    done: Counter[str] = Counter()
    engine = sqlalchemy.create_engine(
        f"{server.url}?application_name=striker", isolation_level="AUTOCOMMIT", pool_pre_ping=True
    )
    while done.total() < losses:
        time.sleep(draw.uniform(*PAUSE_S))
        if done.total() % RESTART_EVERY == RESTART_EVERY - 1:
            server.stop()
            server.start()
            done["restart"] += 1
        elif draw.random() < 0.5:
            with engine.connect() as connection:
                if connection.exec_driver_sql(TERMINATE).first() is not None:
                    done["backend ended"] += 1
        else:
            process = draw.choice(running)
            assert process.stdin is not None
            process.stdin.write("close\n")
            process.stdin.flush()
            done["socket closed"] += 1
    engine.dispose()
    return done


def compare(url: str, answers: list[dict[str, Any]]) -> list[str]:
    """What the database and the ledgers say differently."""
    storage = open_storage(url)
    study = storage.get_study_id_from_name(STUDY)
    stored = {trial._trial_id: trial for trial in storage.get_all_trials(study)}
    notes = storage.get_study_user_attrs(study)
    storage.close()
    ledger = {int(trial): entry for answer in answers for trial, entry in answer["ledger"].items()}
    found = [f"trial {trial}: lost" for trial in ledger.keys() - stored.keys()]
    found += [f"trial {trial}: made twice, or unanswered" for trial in stored.keys() - ledger.keys()]
    found += [f"numbers: {len(stored)} trials, but not 0 to {len(stored) - 1}"] * (
        sorted(trial.number for trial in stored.values()) != list(range(len(stored)))
    )
    taken: dict[int, list[str]] = {}
    for answer in answers:
        for trial, what in answer["taken"]:
            taken.setdefault(trial, []).append(what)
        found += [
            f"note {key}: {notes.get(key)}, told {value}"
            for key, value in answer["notes"].items()
            if notes.get(key) != value
        ]
    for trial, entry in ledger.items():
        if trial in stored:
            found += difference(stored[trial], _expected(entry, taken.get(trial, [])))
    return found


def _expected(entry: dict[str, Any], taken: list[str]) -> dict[str, Any]:
    """What the database must hold of a trial, by its maker's ledger and that of those who claimed it."""
    if entry["state"] != "enqueued":
        return entry
    ends = [json.loads(what) for what in taken if what.startswith("{")]
    claimed, back = taken.count("claimed"), taken.count("handed back")
    if len(ends) > 1 or claimed != back + len(ends):
        return {"state": f"claimed {claimed} times, handed back {back}, ended {len(ends)}"}
    return ends[0] if ends else {"state": "WAITING"}


def difference(trial: FrozenTrial, expected: dict[str, Any]) -> list[str]:
    held = {
        "state": trial.state.name,
        "by": trial.user_attrs.get("by"),
        "x": trial.params.get("x"),
        "reports": {str(step): value for step, value in trial.intermediate_values.items()},
        "lease": trial.user_attrs.get("lease"),
        "value": trial.values[0] if trial.values else None,
    }
    number = trial._trial_id
    return [
        f"trial {number}: {key} is {held[key]}, told {value}" for key, value in expected.items() if held[key] != value
    ]


def run(through: str, losses: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        server = PostgresServer(folder / "postgres", password="lost")
        server.init()
        server.start()
        try:
            storage = open_storage(server.url)
            storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], STUDY)
            storage.close()
            began = time.monotonic()
            with proxy(through, server, folder) as url, clients(url, seed) as running:
                done = strike(server, running, losses, draw)
                answers = [answer for process in running for answer in json.loads(process.communicate("end\n")[0])]
            taken_s = time.monotonic() - began
            found = compare(server.url, answers) + [error for answer in answers for error in answer["errors"]]
            operations = sum(answer["operations"] for answer in answers)
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(done.items()))
            print(
                f"| {through} | {seed} | {done.total()} ({kinds}) | {operations} | {len(found)} | {taken_s:.0f} |",
                flush=True,
            )
            return found
        finally:
            server.stop()


@contextmanager
def proxy(through: str, server: PostgresServer, folder: Path) -> Iterator[str]:
    if through == "postgres":
        yield server.url
        return
    port = PostgresServer(folder, password="").port  # a free one
    command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve", "--port", str(port)]
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "QUELL_STORAGE": server.url}, stdout=log, stderr=log)
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--through", nargs="+", choices=["postgres", "grpc"], default=["postgres"])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    from header import header

    print(header("python " + " ".join(["benchmarks/lost_connections.py", *sys.argv[1:]])))
    print("| storage | seed | lost connections | operations answered | lost, done twice or refused | s |")
    print("|---|---|---|---|---|---|", flush=True)
    found = [
        one
        for through in options.through
        for seed in range(options.seeds)
        for one in run(through, options.losses, seed)
    ]
    print("\n".join(["", *found[:40]]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client_process(sys.argv[2], int(sys.argv[3]))
    else:
        main()
