"""Training steps per second of workers that share cores, by number of processes and threads.

    python benchmarks/threads.py

Each line starts N processes at once, each of which trains the same small network for some seconds: with torch's
default, where a waiting thread spins for milliseconds; with the setting of `quell`; and without spinning.
"""

import os
import subprocess
import sys
import time

import torch
from quell_tuning.cli.__main__ import SPIN_COUNT

from quell.config import DenoiserConfig
from quell.network.denoiser import Denoiser
from quell.processes import cores

SECONDS = 8.0
NETWORK = DenoiserConfig(win_length=320, hop_length=160, depth=4, base_channels=12)


def steps_per_s() -> float:
    """Steps of forward, backward and update on 4 segments of 1 s."""
    denoiser = Denoiser(NETWORK).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(denoiser.parameters())
    noisy = torch.randn(4, NETWORK.sample_rate)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        optimiser.zero_grad()
        denoiser(noisy).square().mean().backward()
        optimiser.step()
        steps += 1
    return steps / (time.perf_counter() - started)


def main() -> None:
    print(f"torch {torch.__version__}, {cores()} cores; steps per second of each process")
    settings: list[tuple[int, int, dict[str, str]]] = [
        (1, 1, {}),
        (2, 1, {}),
        *(
            (processes, 2, extra)
            for extra in ({}, {"GOMP_SPINCOUNT": SPIN_COUNT}, {"OMP_WAIT_POLICY": "PASSIVE"})
            for processes in (1, 2)
        ),
    ]
    for processes, threads, extra in settings:
        environment = {**os.environ, **extra, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--one"]
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)
        ]
        rates = [float(process.communicate()[0]) for process in started]
        waiting = " ".join(f"{name}={value}" for name, value in extra.items()) or "torch's default"
        print(f"{processes} x {threads} threads, {waiting}: " + ", ".join(f"{x:.1f}" for x in rates), flush=True)


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(steps_per_s())
    else:
        main()
