"""Simulation of many workers on one server, from the measured times of single calls.

Every worker has its own core and two threads, as in `quell_tuning`: one makes a trial's calls and then trains, the
other renews its lease and looks at the others' trials. Calls queue for a core of the server, first come, first served.
A server may share reads: a request for all trials joins one that is still queued (`quell_tuning.storage.grpc_service`).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import count

from quell_tuning.trials.budget import MAX_REAPERS, REAP_EVERY
from quell_tuning.trials.lease_watch import GRACE_S, RENEW_S

CYCLES = 3  # trials of each worker; the first one is not counted
LONGEST_S = 900.0  # simulated seconds of a trial's training; the rest would look the same


@dataclass(frozen=True)
class Call:
    """Seconds of one call on the server and elsewhere, and `each` more per running trial."""

    server_s: float
    client_s: float
    server_each_s: float = 0.0
    client_each_s: float = 0.0

    def dearer(self, times: float) -> Call:
        return replace(self, server_s=times * self.server_s, server_each_s=times * self.server_each_s)


@dataclass(frozen=True)
class Trial:
    """Calls of one trial, without those of its lease: `looks` read all trials."""

    looks: float
    others: float


@dataclass(frozen=True)
class Simulated:
    share: float  # of the throughput of workers that only train
    late_s: float  # the longest time between two renewals of a lease

    def __str__(self) -> str:
        return f"{self.share:.1%}" if self.late_s < GRACE_S else "loses trials"


@dataclass(frozen=True)
class Server:
    cores: int
    shares_reads: bool


Request = tuple[str, float]  # "sleep", seconds; or "look" or "other", 0
Thread = Generator[Request, float, None]  # is sent the time at which it continues


def simulate(
    server: Server,
    look: Call,
    other: Call,
    trial: Trial,
    workers: int,
    trial_s: float,
    *,
    running: int | None = None,
    begin_s: float | None = None,
) -> Simulated:
    """Simulates `workers` with trials of `trial_s` seconds of training.

    Args:
        running: running trials in the study, if other servers have workers too; `workers` if None.
        begin_s: workers start within it; if None within the length of a trial, as with trials of different lengths.
    """
    running = workers if running is None else running
    draw = random.Random(0)
    simulated_s = min(trial_s, LONGEST_S)
    took_s: list[float] = []
    late_s = [0.0]

    def train() -> Thread:
        now = yield "sleep", draw.uniform(0, simulated_s if begin_s is None else begin_s)
        for cycle in count():  # without end: a worker that is done first would lighten the load of the others
            began = now
            calls = ["look"] * _whole(trial.looks, draw) + ["other"] * _whole(trial.others, draw)
            draw.shuffle(calls)
            for call in calls:
                now = yield call, 0.0
            now = yield "sleep", simulated_s
            if 0 < cycle < CYCLES:
                took_s.append(now - began - simulated_s)

    def renew(number: int) -> Thread:
        now = yield "sleep", draw.uniform(0, RENEW_S)
        each = 1 if number * running < MAX_REAPERS * workers else REAP_EVERY
        before = now
        for turn in count(draw.randrange(each)):
            yield "sleep", RENEW_S
            now = yield "other", 0.0
            late_s[0], before = max(late_s[0], now - before), now
            if turn % each == 0:
                yield "look", 0.0

    free = [0.0] * server.cores
    joined_until = -1.0  # when the last read of all trials begins

    def end_of_call(what: str, now: float) -> float:
        """When a call that is made now returns."""
        nonlocal joined_until
        begins = max(now, heapq.heappop(free))
        call = look if what == "look" else other
        service_s = call.server_s + running * call.server_each_s
        if what == "look" and server.shares_reads:
            if now < joined_until:
                service_s = call.server_s
            else:
                joined_until = begins
        done = begins + draw.expovariate(1 / service_s)
        heapq.heappush(free, done)
        return done + call.client_s + running * call.client_each_s

    threads = [thread for number in range(workers) for thread in (train(), renew(number))]
    waiting = [(next(thread)[1], order, thread) for order, thread in enumerate(threads)]
    heapq.heapify(waiting)
    while len(took_s) < workers * (CYCLES - 1):
        now, order, thread = heapq.heappop(waiting)
        what, seconds = thread.send(now)
        then = now + seconds if what == "sleep" else end_of_call(what, now)
        heapq.heappush(waiting, (then, order, thread))
    calls_s = sum(took_s) / len(took_s)
    return Simulated(trial_s / (trial_s + calls_s), late_s[0])


def _whole(number: float, draw: random.Random) -> int:
    return int(number) + (draw.random() < number % 1)
