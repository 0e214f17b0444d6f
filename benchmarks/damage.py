"""Damage to every kind of file that Quell reads again: how often it is noticed.

    python benchmarks/damage.py [--times 40]

Noticed is a file that is refused, left out or made again. Of files that Quell wrote before it had check sums, damage
to headers and padding, which changes nothing of what is read, counts as noticed, too.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from header import header

from quell.check_sums import DamagedFileError, check, is_intact, read_json, sealed_json
from quell.config import FORMATS, DenoiserConfig, TrainingConfig
from quell.corpus.memory_map import open_store
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.errors import CheckpointError, CorpusError, ExportError
from quell.export.exported_model import load
from quell.export.exporter import export
from quell.inference import pretrained
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import evaluation_set
from quell.network.denoiser import Denoiser, load_weights, save_weights
from quell.training.checkpoint import Checkpoint
from quell.training.trainer import Trainer

OLD = Path(__file__).parents[1] / "tests" / "data" / "c087d60"  # files of the first version
MODEL = DenoiserConfig(sample_rate=8_000, win_length=64, hop_length=32, depth=2, base_channels=4, kernel_bins=3)
TRAINING = TrainingConfig(batch_size=2, segment_s=0.25, rungs_audio_hours=(1.0,))
RATE = 8_000
SAMPLES = 1 << 28  # 4.7 hours at 16 kHz


class Kind(NamedTuple):
    """A file, and whether a damaged version at the same path is noticed."""

    name: str
    file: Path
    is_noticed: Callable[[], bool]


def bits(count: int) -> Callable[[bytes, random.Random], bytes]:
    def flip(content: bytes, drawn: random.Random) -> bytes:
        changed = bytearray(content)
        for bit in drawn.sample(range(8 * len(content)), count):
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return flip


def cut(content: bytes, drawn: random.Random) -> bytes:
    return content[: drawn.randrange(len(content))]


def zeros(content: bytes, drawn: random.Random) -> bytes:
    """As a power cut leaves a file: its length is there, and not all of its blocks."""
    begin = drawn.randrange(len(content))
    return content[:begin] + bytes(len(content) - begin)


DAMAGES = {"1 bit": bits(1), "3 bits": bits(3), "100 bits": bits(100), "cut": cut, "zeros": zeros}


def refused(call: Callable[[], Any], *errors: type[Exception]) -> Callable[[], bool]:
    def is_noticed() -> bool:
        try:
            call()
        except errors:
            return True
        return False

    return is_noticed


def kinds(folder: Path, formats: Collection[str] = tuple(FORMATS)) -> Iterator[Kind]:
    """Makes one file of each kind; of exported models in these formats, as far as their packages are installed."""
    yield from models(folder, formats)
    config, store = recordings(folder), folder / "store"
    corpus = prepare(config, store)
    checkpoint, trainer = folder / "trial.checkpoint", Trainer(MODEL, TRAINING, corpus, torch.device("cpu"))
    Checkpoint(checkpoint, trainer).save()
    yield Kind("checkpoint", checkpoint, refused(lambda: Checkpoint(checkpoint, trainer), CheckpointError))
    for name in ("train.int16", "index.json"):
        yield Kind(f"store, {name}", corpus.folder / name, withdrawn(corpus.folder))
    with Scorer(1) as scorer:
        evaluation_set(corpus, "validation", 6, (0.0, 10.0), 0, scorer)
    (held_out,) = corpus.folder.glob("*.npz")
    yield Kind("held-out set", held_out, broken(held_out))
    digests = store / "digests.json"
    digests.write_text(sealed_json({path.name: [1, 2, "0123456789abcdef"] for path in config.clean.iterdir()}))
    yield Kind("digests.json", digests, refused(lambda: read_json(digests), DamagedFileError, ValueError))


def models(folder: Path, formats: Collection[str]) -> Iterator[Kind]:
    torch.manual_seed(0)
    denoiser = Denoiser(MODEL).eval()
    weights = folder / "trial.weights"
    save_weights(denoiser, weights)
    yield Kind("weights", weights, refused(lambda: load_weights(weights), ExportError))
    for kind in formats:
        if kind == "torchscript" or find_spec("onnxscript"):
            path = folder / f"model{FORMATS[kind]}"
            export(denoiser, path, {}, kind)
            yield Kind(
                FORMATS[kind], path, broken(path) if kind == "pt2" else refused(partial(load, path), ExportError)
            )


def broken(path: Path) -> Callable[[], bool]:
    """For files that are made again, and `.pt2`, which Quell does not load."""
    return lambda: not is_intact(path)


def recordings(folder: Path) -> CorpusConfig:
    rng, moments = np.random.default_rng(0), np.arange(2 * RATE) / RATE
    for number in range(6):
        voice = sum(np.sin(2 * np.pi * (100 + 20 * number) * k * moments) / k for k in range(1, 12))
        sounds = {
            "speech": 0.1 * voice * np.sin(2 * np.pi * 3 * moments).clip(0),
            "noise": 0.1 * rng.standard_normal(len(moments)),
        }
        for side, samples in sounds.items():
            place = folder / side / f"{side}{number}" / "0.wav"
            place.parent.mkdir(parents=True)
            soundfile.write(place, samples, RATE)
    return CorpusConfig(folder / "speech", folder / "noise", RATE)


def withdrawn(store: Path) -> Callable[[], bool]:
    """Whether a store is taken out of use, so that it is built again."""

    def read() -> None:
        open_store(store).splits["train"].whole()

    return refused(read, CorpusError)


def earlier(folder: Path) -> Iterator[Kind]:
    """Files of the first version."""
    for name, relative in (
        ("weights", "runs/tiny/trials/00003.weights"),
        (".pt", "best.pt"),
        (".onnx", "front.onnx"),
    ):
        if name == ".onnx" and not find_spec("onnxruntime"):
            continue
        path = folder / Path(relative).name
        shutil.copy(OLD / relative, path)
        yield Kind(f"{name} of c087d60", path, without_effect(path))


def without_effect(path: Path) -> Callable[[], bool]:
    """Whether a file is refused, or its denoiser gives the same samples as before."""
    noisy = 0.1 * torch.randn(1, 4_000, generator=torch.Generator().manual_seed(0))

    def clean() -> torch.Tensor:
        with torch.inference_mode():
            return load_weights(path)(noisy) if path.suffix == ".weights" else load(path)(noisy)

    before = clean()

    def is_noticed() -> bool:
        try:
            return torch.equal(clean(), before)
        except ExportError:
            return True

    return is_noticed


def noticed(kind: Kind, damage: Callable[[bytes, random.Random], bytes], times: int) -> int:
    """How many of `times` damaged versions are noticed; the file is then whole again."""
    content, count = kind.file.read_bytes(), 0
    beside = {path: path.read_bytes() for path in kind.file.parent.iterdir() if path.is_file()}
    for seed in range(times):
        kind.file.write_bytes(damage(content, random.Random(seed)))
        count += kind.is_noticed()
        for path, bytes_before in beside.items():  # a damaged store is taken out of use
            if not path.exists() or path == kind.file:
                path.write_bytes(bytes_before)
    return count


def table(times: int) -> Iterator[list[str]]:
    """A row for each kind of file: its name, and the share that was noticed for each of DAMAGES."""
    with tempfile.TemporaryDirectory() as place:
        for number, made in enumerate((kinds, earlier)):
            folder = Path(place) / str(number)
            folder.mkdir()
            for kind in made(folder):
                yield [kind.name, *(f"{noticed(kind, damage, times)}/{times}" for damage in DAMAGES.values())]


def costs(folder: Path) -> Iterator[tuple[str, str]]:
    """What the sums cost, in CPU time, beside what is done with the same bytes anyway."""
    file = folder / "samples.int16"
    np.random.default_rng(0).integers(-32768, 32768, SAMPLES, dtype=np.int16).tofile(file)
    samples, shipped = np.memmap(file, np.int16, "r"), pretrained.path(16_000)
    for name, call in (
        ("sums of a decoded corpus", lambda: zlib.crc32(samples.data)),
        ("copy of it into memory, at each training", samples.copy),
    ):
        yield name, f"{samples.nbytes / cpu_s(call) / 1e9:.1f} GB/s"
    for name, call in (
        ("check of quell-16k.pt", lambda: check(shipped)),
        ("loading it, with the check", lambda: load(shipped)),
    ):
        yield name, f"{1000 * cpu_s(call):.0f} ms"


def cpu_s(call: Callable[[], object]) -> float:
    """The least of five."""
    spent = []
    for _ in range(5):
        begun = time.process_time()
        call()
        spent.append(time.process_time() - begun)
    return min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=40, help="damaged versions of each file and kind of damage")
    given = parser.parse_args()
    print(header(f"python benchmarks/damage.py {' '.join(sys.argv[1:])}".strip()))
    print(f"| noticed | {' | '.join(DAMAGES)} |\n|---{'|---' * len(DAMAGES)}|")
    for row in table(given.times):
        print(f"| {' | '.join(row)} |", flush=True)
    print("\n| cost | CPU |\n|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name, cost in costs(Path(place)):
            print(f"| {name} | {cost} |")


if __name__ == "__main__":
    main()
