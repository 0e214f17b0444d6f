"""Postgres and the gRPC proxy in front of it, and the time they spend on single calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import optuna
import psutil
import sqlalchemy
from on_paper import Call
from optuna.distributions import FloatDistribution
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.retrying import RetryingStorage
from storage_overhead import BEFORE

FEW, MANY = 8, 64  # running trials while a read of all trials is timed
LOOKS, OTHERS = 40, 400  # timed calls


@dataclass
class Servers:
    """Postgres, and the proxy if there is one; their connections, transactions and CPU time."""

    database: sqlalchemy.Engine
    url: str
    narrowest: psutil.Process
    connections: int = 0  # the largest number at once
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
        """CPU seconds of the narrowest server so far, including closed connections."""
        children = self.narrowest.children(recursive=True)
        spent_s: float = sum(self.narrowest.cpu_times()[:4])
        for child in children:
            with suppress(psutil.NoSuchProcess):
                spent_s += sum(child.cpu_times()[:2])
        return spent_s

    def _ask(self, query: str) -> int:
        with self.database.connect() as connection:
            return int(connection.execute(sqlalchemy.text(query)).scalar_one())


@contextmanager
def servers(name: str, processes: int, folder: Path) -> Iterator[Servers]:
    folder.chmod(0o755)  # as root the server has a user of its own
    cluster = PostgresServer(folder / "postgres", password="scale")
    cluster.init()
    cluster.start()
    narrowest = psutil.Process(int((cluster.data / "postmaster.pid").read_text().split()[0]))
    url, proxy = cluster.url, None
    if name == "grpc":
        port = PostgresServer(folder, password="").port  # a free one
        command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve"]
        command += ["--port", str(port), "--processes", str(processes)]
        proxy = subprocess.Popen(command, env={**os.environ, "QUELL_STORAGE": url}, stderr=subprocess.DEVNULL)
        narrowest = psutil.Process(proxy.pid)
        url = f"grpc://127.0.0.1:{port}"
    engine = sqlalchemy.create_engine(cluster.url, poolclass=sqlalchemy.pool.NullPool)
    try:
        yield Servers(engine, url, narrowest)
    finally:
        if proxy is not None:
            proxy.kill()
            proxy.wait()
        cluster.stop()


def single_calls(there: Servers, storage: RetryingStorage) -> tuple[Call, Call]:
    """Times of a call that reads all trials, and of one that writes, on idle servers."""
    seconds = []
    for running in (FEW, MANY):
        study = optuna.create_study(storage=storage, direction="maximize")
        for _ in range(running):
            trial = study.ask({f"x{number}": FloatDistribution(0, 1) for number in range(6)})
            for key, value in BEFORE.items():
                trial.set_user_attr(key, value)
        seconds.append(timed(there, LOOKS, partial(study.get_trials, deepcopy=False)))
    (few_server, few_client), (many_server, many_client) = seconds
    server_each, client_each = (many_server - few_server) / (MANY - FEW), (many_client - few_client) / (MANY - FEW)
    look = Call(few_server - FEW * server_each, few_client - FEW * client_each, server_each, client_each)
    return look, Call(*timed(there, OTHERS, lambda: trial.set_user_attr("lease", [1, 0.0])))


def timed(there: Servers, calls: int, call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call: (CPU time of the server, the rest)."""
    call()
    began, server_s = time.monotonic(), there.cpu_s()
    for _ in range(calls):
        call()
    took_s, server_s = (time.monotonic() - began) / calls, (there.cpu_s() - server_s) / calls
    return server_s, max(0.0, took_s - server_s)
