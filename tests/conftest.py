"""Seeded signals, a tiny corpus and tiny networks that the tests of the package share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import nn

from quell import config
from quell.config import DenoiserConfig
from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.export.exported_model import Model, load
from quell.export.exporter import export
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set
from quell.network import layers
from quell.network.denoiser import Denoiser
from quell.network.unet import UNet

Signal = NDArray[np.float32]
RATE = 8_000  # Hz, of the small corpus and the tiny networks: PESQ costs a third of what it does at 16 kHz


# The files that take longest, in that order. Each process of pytest-xdist takes a file at a time: begun last, one of
# these would run alone.
LONGEST = (
    "test_deployment.py",
    "test_faults.py",
    "test_ray_pool.py",
    "test_command_line.py",
    "test_compatibility.py",
    "test_chaos_benchmark.py",
    "test_recordings.py",
    "test_onnx_graph.py",
    "test_denoise.py",
    "test_secrecy.py",
    "test_trainer.py",
    "test_local_postgres.py",
    "test_grpc_server.py",
    "test_exporter.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def make_speech(seconds: float, sample_rate: int = RATE, seed: int = 0) -> Signal:
    """Harmonics of a gliding voice in bursts of 3.5 per second: PESQ and STOI take it for speech."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = rng.uniform(100, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, int(0.45 * sample_rate / 250)))
    bursts = voiced * np.clip(np.sin(2 * np.pi * 3.5 * time + rng.uniform(0, 6)), 0, None) ** 2
    return (0.5 * bursts / np.abs(bursts).max()).astype(np.float32)


def make_noise(seconds: float, sample_rate: int = RATE, seed: int = 0, kind: str = "white") -> Signal:
    """White or rumbling noise, or hum, at rms 0.1."""
    rng = np.random.default_rng([seed, len(kind)])
    length = round(seconds * sample_rate)
    white = rng.standard_normal(length)
    if kind == "rumble":
        white = np.convolve(white, np.ones(16), mode="same")
    if kind == "hum":
        time = np.arange(length) / sample_rate
        white = sum(np.sin(2 * np.pi * rng.uniform(49, 51) * k * time) for k in (1, 2, 3, 5)) + 0.01 * white
    return (0.1 * white / np.sqrt(np.square(white).mean())).astype(np.float32)


def write_corpus(folder: Path) -> CorpusConfig:
    """Six speakers of four utterances and three classes of six noises, at mixed rates, channels and formats."""
    stored = [(8_000, "wav", "PCM_16"), (16_000, "flac", "PCM_24"), (22_050, "wav", "FLOAT"), (44_100, "ogg", "VORBIS")]
    for speaker in range(6):
        for take, (rate, suffix, subtype) in enumerate(stored):
            path = folder / "speech" / f"speaker{speaker}" / f"{take}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            speech = make_speech(1.2 + 0.1 * take, rate, seed=10 * speaker + take)
            samples = np.stack([speech, 0.5 * speech], axis=1) if take == 2 else speech
            soundfile.write(path, samples, rate, subtype=subtype)
    for kind in ("white", "rumble", "hum"):
        for source in range(6):
            rate, suffix, subtype = stored[source % 3]
            path = folder / "noise" / kind / f"{kind}{source}-A.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, make_noise(1.0 + 0.3 * source, rate, source, kind), rate, subtype=subtype)
    return CorpusConfig(folder / "speech", folder / "noise", RATE, group_noise=r"^([a-z]+\d+)-")


# What a drawn configuration may be. Small values of what only has a size, all values of what has a name.
OPTIONS: dict[str, Sequence[Any]] = {
    "depth": (2, 3, 4),
    "base_channels": (4, 8),
    "growth": (1.0, 1.5, 2.0),
    "kernel_bins": (1, 3, 5),
    "kernel_frames": (1, 3, 5),
    "convolution": config.CHOICES["convolution"],
    "convolutions_per_level": (1, 2),
    "downsampling": config.CHOICES["downsampling"],
    "time_stride": (1, 2),
    "skips": (True, False),
    "normalisation": config.CHOICES["normalisation"],
    "activation": config.CHOICES["activation"],
    "dropout": (0.0, 0.2),
    "bottleneck": config.CHOICES["bottleneck"],
    "bottleneck_units": (4, 8),
    "bottleneck_channels": (0, 2),
    "causal": (False, True),
    "output": config.CHOICES["output"],
    "win_length, hop_length": ((128, 32), (64, 32), (65, 21)),
    "representation": config.CHOICES["representation"],
    "power": (0.1, 0.3, 0.5, 1.0),
    "target": config.CHOICES["target"],
    "phase": config.CHOICES["phase"],
}


def draw_settings(number: int, **fixed: Any) -> dict[str, Any]:
    """A configuration drawn from OPTIONS, the same for the same number; in a row of them every value of an option
    comes as often as any other."""
    settings: dict[str, Any] = {}
    for name, values in OPTIONS.items():
        shuffled = list(values)
        random.Random(f"{name} {number // len(values)}").shuffle(shuffled)
        settings[name] = shuffled[number % len(values)]
    settings["win_length"], settings["hop_length"] = settings.pop("win_length, hop_length")
    settings |= fixed
    if settings["bottleneck"] == "both":
        settings["causal"] = False  # nothing else there is to choose
    return settings


def randomise(network: nn.Module) -> None:
    """Random statistics, scales, offsets, slopes and angles: those of a fresh network are 0 and 1, or all the same,
    which hides errors of folding and of order."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.BatchNorm2d | layers.FrameNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and (silent := module.weight == 0).any():
            drawn = torch.randn(int(silent.sum()), generator=torch.Generator().manual_seed(0))
            module.weight.data[silent] = drawn * module.weight[~silent].std()


def make_unet(bins: int = 9, seed: int = 0, planes: int = 1, **settings: Any) -> UNet:
    """A tiny network in eval mode, randomised."""
    tiny = {"depth": 3, "base_channels": 4, "growth": 1.5, "kernel_bins": 3, "bottleneck_units": 8}
    torch.manual_seed(seed)
    network = UNet(config.NetworkConfig(**(tiny | settings)), bins, planes=planes)
    randomise(network)
    return network.eval()


def make_denoiser(seed: int = 0, **settings: Any) -> Denoiser:
    """A tiny denoiser in eval mode, randomised."""
    tiny = {"sample_rate": RATE, "win_length": 128, "hop_length": 32, "depth": 3, "base_channels": 4}
    torch.manual_seed(seed)
    denoiser = Denoiser(DenoiserConfig(**(tiny | settings)))
    randomise(denoiser)
    return denoiser.eval()


@pytest.fixture(scope="session")
def speech() -> Callable[..., Signal]:
    return make_speech


@pytest.fixture(scope="session")
def noise() -> Callable[..., Signal]:
    return make_noise


@pytest.fixture(scope="session")
def tiny_denoiser() -> Callable[..., Denoiser]:
    return make_denoiser


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny denoiser as `quell export` writes it."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    export(make_denoiser(), path, {})
    return path


@pytest.fixture(scope="session")
def loaded(model: Path) -> Model:
    return load(model)


@pytest.fixture(scope="session")
def tiny_unet() -> Callable[..., UNet]:
    return make_unet


@pytest.fixture(scope="session")
def drawn_settings() -> Callable[..., dict[str, Any]]:
    return draw_settings


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> CorpusConfig:
    return write_corpus(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="session")
def small_corpus(small_config: CorpusConfig, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(small_config, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def scorer() -> Iterator[Scorer]:
    with Scorer(1) as scorer:
        yield scorer


@pytest.fixture(scope="session")
def validation(small_corpus: Corpus, scorer: Scorer) -> EvaluationSet:
    """Six mixtures, one at each SNR."""
    return evaluation_set(small_corpus, "validation", 6, (-5.0, 20.0), seed=3, scorer=scorer)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are added in the same order, whatever the number of cores; tiny networks are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
