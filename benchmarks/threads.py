"""How much workers that share cores slow each other down: training steps a second by processes and threads.

    python benchmarks/threads.py

Each line starts so many processes at once, each training the same small network for some seconds: as torch comes, where
a thread that waits for the others spins for milliseconds; as `quell` sets it; and with no spinning at all.
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
    """Of forward, backward and update on 4 segments of 1 s."""
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
    print(f"torch {torch.__version__}, {cores()} cores; steps a second of each process")
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
        found = [float(process.communicate()[0]) for process in started]
        waiting = " ".join(f"{name}={value}" for name, value in extra.items()) or "as torch comes"
        print(f"{processes} x {threads} threads, {waiting}: " + ", ".join(f"{x:.1f}" for x in found), flush=True)


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(steps_per_s())
    else:
        main()
