"""Cost of the data in a training step: Quell's, the same step on one resident batch, and a common data loader.

    python benchmarks/training_speed.py --corpus FOLDER [--preset NAME] [--device cuda:0] [--steps 24]

The loader crops decoded recordings, mixes them with numpy and calls librosa.stft per item, in two worker processes.
Network, batch and loss are the same in all three. Needs the extra `benchmarks`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from header import header
from numpy.typing import NDArray
from quell_tuning.study import search_space
from quell_tuning.study.presets import DEFAULT, PRESETS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.flop_counter import FlopCounterMode

from quell.config import TrainingConfig
from quell.corpus.memory_map import Corpus, Split
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.mixing.training_mixtures import Mixtures
from quell.training.trainer import Trainer

ROUNDS = 3
WARM_UP = 3  # steps that are not timed: kernels are selected, memory is allocated
LOADER_PROCESSES = 2
# Published peaks of an H200: dense bfloat16, and memory.
H200_FLOPS, H200_BYTES_PER_S = 989e12, 4.8e12


class Resident:
    """Draws the same batch every time."""

    def __init__(self, batch: Mixtures) -> None:
        self.batch = batch

    def draw(self, _: int) -> Mixtures:
        return self.batch


class Items(IterableDataset[tuple[NDArray[Any], ...]]):
    """Spectra of mixtures, one after the other, as in common training scripts."""

    def __init__(self, split: Split, trainer: Trainer) -> None:
        self.clean, self.noise = split.of("clean"), split.of("noise")
        self.split = split
        self.segment = trainer.mixtures.segment
        self.snr_db = trainer.config.snr_db
        spectrogram = trainer.denoiser.spectrogram
        self.window = spectrogram.analysis.numpy(force=True)
        self.hop_length = spectrogram.hop_length

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        worker = get_worker_info()
        rng = np.random.default_rng(worker.id if worker else 0)
        while True:
            clean, noise = self._crop(self.clean, rng), self._crop(self.noise, rng)
            level = np.sqrt(np.mean(clean**2) / max(np.mean(noise**2), 1e-16))
            noisy = clean + noise * level * 10 ** (-rng.uniform(*self.snr_db) / 20)
            scale = np.sqrt(np.mean(noisy**2)) + 1e-6
            yield self._stft(noisy / scale), self._stft(clean / scale), (clean / scale).astype(np.float32)

    def _crop(self, clips: list[Any], rng: np.random.Generator) -> NDArray[Any]:
        waveform = self.split.waveform(clips[rng.integers(len(clips))])
        start = rng.integers(max(1, len(waveform) - self.segment))
        return np.resize(waveform[start:], self.segment)

    def _stft(self, waveform: NDArray[Any]) -> NDArray[Any]:
        # Padded like Quell's STFT, so that the spectra are the same.
        lead = len(self.window) - self.hop_length
        frames = (self.segment - 1 + lead) // self.hop_length + 1
        trail = (frames - 1) * self.hop_length + len(self.window) - lead - self.segment
        padded = np.pad(waveform, (lead, trail)).astype(np.float32)
        spectrum: NDArray[Any] = librosa.stft(
            padded, n_fft=len(self.window), hop_length=self.hop_length, window=self.window, center=False
        )
        return spectrum


class LoaderTrainer(Trainer):
    """Trains on the batches of a loader."""

    def feed(self, batches: Iterator[Any]) -> None:
        self.batches = batches
        self.mixtures = self  # type: ignore[assignment]

    def draw(self, _: int) -> Mixtures:
        noisy, speech, clean = (part.to(self.device) for part in next(self.batches))
        return Mixtures(noisy, speech, clean)

    def _loss(self, batch: Mixtures, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.loss_of(*batch, state)


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        if not function.is_view:
            tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def seconds_of_steps(trainer: Trainer, steps: int) -> list[float]:
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        trainer.step()  # reads the loss, so that a GPU has finished the step before, except its update
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def against_resident(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Medians of (seconds of Quell's step, its ratio to a step on a resident batch), in turn step by step."""
    drawing, resident = trainer.mixtures, Resident(trainer.mixtures.draw(trainer.config.batch_size))
    seconds_of_steps(trainer, WARM_UP)
    ours, ratios = [], []
    for _ in range(steps):
        trainer.mixtures = drawing
        (one,) = seconds_of_steps(trainer, 1)
        trainer.mixtures = resident  # type: ignore[assignment]
        (other,) = seconds_of_steps(trainer, 1)
        ours.append(one)
        ratios.append(one / other)
    trainer.mixtures = drawing
    return statistics.median(ours), statistics.median(ratios)


def against_loader(trainer: Trainer, loading: LoaderTrainer, corpus: Corpus, steps: int) -> tuple[float, float]:
    """Medians of (seconds of a step with the loader, of Quell's step), in alternating rounds."""
    theirs: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        items = Items(corpus.splits["train"], trainer)
        loader = DataLoader(items, batch_size=trainer.config.batch_size, num_workers=LOADER_PROCESSES)
        batches = iter(loader)
        loading.feed(batches)
        # Prefetched batches are used up first: 2 per process.
        seconds_of_steps(loading, WARM_UP + 2 * LOADER_PROCESSES)
        theirs += seconds_of_steps(loading, -(-steps // ROUNDS))
        loading.feed(iter(()))
        del batches, loader  # ends its processes
        seconds_of_steps(trainer, WARM_UP)
        ours += seconds_of_steps(trainer, -(-steps // ROUNDS))
    return statistics.median(theirs), statistics.median(ours)


def utilisation(trainer: Trainer, seconds: float) -> tuple[float, float]:
    """(busy share of the GPU, 0 to 1; steps per second) over steps without a pause."""
    events = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        trainer.step()
        steps += 1
    torch.cuda.synchronize()
    rate = steps / (time.perf_counter() - started)
    with torch.profiler.profile(activities=events) as profile:
        started = time.perf_counter()
        seconds_of_steps(trainer, 10)
        wall = time.perf_counter() - started
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return busy / wall, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="instead of the preset's")
    parser.add_argument("--steps", type=int, default=24, help="timed steps of each kind")
    given = parser.parse_args()
    print(header(f"python benchmarks/training_speed.py {' '.join(sys.argv[1:])}"))
    with tempfile.TemporaryDirectory() as store:
        corpus = prepare(
            CorpusConfig(given.corpus / "speech", given.corpus / "noise", group_noise=r"^\d-(\d+)-"), Path(store)
        )
        model = search_space.denoiser_config(PRESETS[given.preset], corpus.sample_rate)
        config = search_space.training_config(PRESETS[given.preset], TrainingConfig(), 0, model)
        config = replace(config, batch_size=given.batch or config.batch_size)
        device = torch.device(given.device)
        trainer = Trainer(model, config, corpus, device)
        audio_s = config.batch_size * config.segment_s
        threads = torch.get_num_threads()
        print(f"{given.preset}, batch {config.batch_size} x {config.segment_s:g} s, {device}, {threads} threads\n")

        step, ratio = against_resident(trainer, given.steps)
        share = trainer.data_seconds / trainer.seconds
        print("| quantity | value |\n|---|---|")
        print(f"| one step, median of {given.steps} | {step * 1000:.1f} ms |")
        print(f"| over the same step on one resident batch, median of {given.steps} pairs | {ratio:.3f} |")
        print(f"| audio-hours per hour | {audio_s / step:.0f} |")
        loading = LoaderTrainer(model, config, corpus, device)
        theirs, ours = against_loader(trainer, loading, corpus, given.steps)
        print(f"| a step fed by librosa.stft in {LOADER_PROCESSES} processes | {theirs * 1000:.1f} ms |")
        print(f"| the same over ours, medians of {given.steps} | {theirs / ours:.2f} |")
        with FlopCounterMode(display=False) as operations, Traffic() as traffic:
            trainer.step()
        print(f"| share of a step that draws mixtures, by the clock | {share:.3f} |")
        flops = operations.get_total_flops()
        print(f"| a step's floating-point operations | {flops / 1e9:.1f} G ({flops / step / 1e9:.0f} G/s reached) |")
        print(f"| bytes that its operations read and write, unfused | {traffic.bytes / 1e9:.2f} GB |")
        floor = max(flops / H200_FLOPS, traffic.bytes / H200_BYTES_PER_S)
        print(f"| floor on an H200 at its published peaks | {floor * 1000:.2f} ms |")
        if device.type == "cuda":
            busy, rate = utilisation(trainer, 10.0)
            print(f"| GPU busy | {busy:.2f} |\n| audio-hours per hour, without a pause | {rate * audio_s:.0f} |")


if __name__ == "__main__":
    main()
