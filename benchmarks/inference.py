"""Time and memory of exported denoisers, compared with RNNoise and a spectral gate.

    python benchmarks/inference.py [--denoiser FILE ...]

Needs `pip install 'quell-denoiser[onnx,baselines]'`.

If no files are given: the presets compressed-unet and recurrent-unet at 16 kHz with untrained weights, as fast as
trained ones. Every system gets the same speech-shaped noise of 1 s, 10 s and 10 min, in turn, on one thread; times are
CPU times of the process, the median of the rounds. Memory is the peak of a process that denoises one file with
`quell.inference.enhancement`, and of one that only loads the model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from header import header
from quell_tuning.study import search_space
from quell_tuning.study.presets import PRESETS
from rich.progress import track

from quell.audio import FloatArray
from quell.config import FORMATS
from quell.errors import DenoiserError
from quell.evaluation.baselines import system
from quell.export.blocks import blocks_of
from quell.export.exported_model import load
from quell.export.exporter import export
from quell.export.torchscript import BlockDenoiser
from quell.inference.enhancement import enhance_file
from quell.inference.waveform import denoise
from quell.network.denoiser import Denoiser

RATE = 16_000
LENGTHS_S = {"1 s": (1, 9), "10 s": (10, 5), "10 min": (600, 1)}  # seconds, rounds
MEMORY_MIN = (10, 60)
CHANGING_S = (1.0, 3.7, 0.4, 9.1, 2.2, 17.3, 0.1, 5.5)  # input lengths of a service, in turn
BASELINES = ("rnnoise", "spectral-gate")

System = Callable[[FloatArray], object]


def noise(seconds: float) -> FloatArray:
    white = np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)
    return 0.1 * np.convolve(white, np.ones(8, np.float32) / 3, mode="same").astype(np.float32)


def cpu_seconds(run: System, samples: FloatArray) -> float:
    started = time.process_time()
    run(samples)
    return time.process_time() - started


def real_time_factors(systems: dict[str, System]) -> dict[str, list[float]]:
    """CPU time over audio time per length."""
    factors: dict[str, list[float]] = {name: [] for name in systems}
    for label, (seconds, rounds) in LENGTHS_S.items():
        samples = noise(seconds)
        times: dict[str, list[float]] = {name: [] for name in systems}
        for run in systems.values():
            run(samples[: 4 * RATE])  # warm-up is measured apart
        for _ in track(range(rounds), label, transient=True):
            for name, run in systems.items():
                times[name].append(cpu_seconds(run, samples))
        for name in systems:
            factors[name].append(statistics.median(times[name]) / seconds)
    return factors


def warm_up(path: Path) -> tuple[float, float]:
    """(seconds to load, extra seconds of the first calls with CHANGING_S over their repetition)."""
    started = time.process_time()
    model = load(path)
    loaded = time.process_time() - started
    run = partial(denoise, sample_rate=RATE, model=model)
    first, *_, last = (sum(cpu_seconds(run, noise(seconds)) for seconds in CHANGING_S) for _ in range(3))
    return loaded, first - last


def peak_bytes(path: Path, minutes: float, folder: Path) -> int:
    """Peak resident memory of a process that denoises a file of `minutes`; with 0 it only loads the model."""
    command = [sys.executable, __file__, "--child", str(path), str(minutes), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def child(path: Path, minutes: float, folder: Path) -> None:
    model = load(path)
    if minutes:
        source = folder / f"{minutes:g}.wav"
        if not source.exists():
            piece = noise(60)
            with soundfile.SoundFile(source, "w", RATE, 1, "PCM_16") as file:
                for _ in range(round(minutes)):
                    file.write(piece)
        enhance_file(source, folder / f"made-{os.getpid()}.wav", model)
    # Not getrusage: its peak includes that of the parent process.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)


def presets(folder: Path) -> list[Path]:
    paths = []
    for name in ("compressed-unet", "recurrent-unet"):
        torch.manual_seed(0)
        denoiser = Denoiser(search_space.denoiser_config(PRESETS[name], RATE)).eval()
        for kind in ("torchscript", "onnx"):
            paths.append(folder / f"{name}{FORMATS[kind]}")
            export(denoiser, paths[-1], {}, kind)
    return paths


def _at_rate(run: Callable[[FloatArray, int], FloatArray]) -> System:
    return lambda samples: run(samples, RATE)


def eager() -> dict[str, System]:
    """The exported module without TorchScript."""
    torch.manual_seed(0)
    denoiser = Denoiser(search_space.denoiser_config(PRESETS["compressed-unet"], RATE)).eval()
    module = BlockDenoiser(denoiser)
    assert module.blocks == blocks_of(denoiser)

    def run(samples: FloatArray) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(samples))

    return {"compressed-unet, eager": run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--denoiser", type=Path, nargs="+", default=[])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        child(Path(given.child[0]), float(given.child[1]), Path(given.child[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = given.denoiser or presets(folder)
        print(header(f"python benchmarks/inference.py {' '.join(sys.argv[1:])}".strip()))
        systems: dict[str, System] = {}
        for path in paths:
            systems[path.name] = partial(denoise, sample_rate=RATE, model=load(path))
        systems |= {} if given.denoiser else eager()
        systems |= {name: _at_rate(system(name)) for name in BASELINES}
        factors = real_time_factors(systems)
        heads = " | ".join(f"RTF, {label}" for label in LENGTHS_S)
        print(f"| system | {heads} | 10 s over rnnoise | load, s | warm-up, s | memory loaded, 10 min, 60 min, MB |")
        print("|---|" + "---|" * (len(LENGTHS_S) + 4))
        for name, values in factors.items():
            row = [name, *(f"{value:.4f}" for value in values), f"{values[1] / factors['rnnoise'][1]:.2f}"]
            path = next((path for path in paths if path.name == name), None)
            if path is None:
                row += ["", "", ""]
            else:
                loaded, extra = warm_up(path)
                peaks = [peak_bytes(path, minutes, folder) / 1e6 for minutes in (0, *MEMORY_MIN)]
                row += [f"{loaded:.2f}", f"{extra:.2f}", ", ".join(f"{peak:.0f}" for peak in peaks)]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except DenoiserError as error:
        sys.exit(f"inference.py: {error}")
