"""What `tests/test_compatibility.py` and the script that made its data (`tests/data/c087d60/make.py`) have in common.

Every sound is made from integers, so that the same bytes are written on every machine and with every version of NumPy:
a study's corpus is known by the digests of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import platform
import re
import runpy
import subprocess
import sys
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

RATE = 8_000  # Hz, of the recordings
PIN = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
SAMPLES = 64  # of each output that are compared, evenly spread
# The package of the search, and its module that reads study files: `tuning` with the code of c087d60, for make.py.
SEARCH = "quell_tuning" if importlib.util.find_spec("quell_tuning") else "tuning"
STUDY_FILE = "quell_tuning.study.study_file" if SEARCH == "quell_tuning" else "tuning.study_file"
COMMANDS = (
    "",
    "demo",
    "tune",
    "worker",
    "status",
    "reproduce",
    "dashboard",
    "report",
    "export",
    "denoise",
    "evaluate",
    "storage serve",
    "corpus check",
    "corpus preview",
    "corpus get",
)


def _sine(phase: Integers) -> Integers:
    """A parabola for each half of a period of 65536, from -32768 to 32768."""
    half = phase & 32767
    arch = half * (32768 - half) >> 13
    return np.where(phase & 32768, -arch, arch)


def voice(length: int, pitch_hz: int, sample_rate: int, begin: int = 0) -> Integers:
    """Eleven harmonics of a gliding pitch in three syllables a second, 16 bit."""
    time = np.arange(length, dtype=np.int64)
    glide = _sine(time * 65536 // sample_rate + 9973 * begin) * pitch_hz // (10 * 32768)
    phase = np.cumsum((pitch_hz + glide) * 65536 // sample_rate)
    tone = sum((_sine(phase * harmonic) // harmonic for harmonic in range(1, 12)), np.zeros(length, np.int64))
    syllables = _sine(3 * time * 65536 // sample_rate + 9973 * begin).clip(0)
    return (tone * syllables >> 17).clip(-32768, 32767)


def hiss(length: int, name: str) -> Integers:
    """Noise whose power rises with the frequency, decided by a name; 16 bit, at a twelfth of the range or less."""
    white = np.frombuffer(hashlib.shake_128(name.encode()).digest(2 * length + 4), "<i2").astype(np.int64)
    return np.diff(white, 2) // 48


def whine(length: int, step_hz: int, sample_rate: int) -> Integers:
    """Three steady tones, and a little hiss; 16 bit."""
    time = np.arange(length, dtype=np.int64) * 65536
    tones = (_sine(time * (frequency + step_hz) // sample_rate) for frequency in (700, 1700, 2900))
    return sum(tones, np.zeros(length, np.int64)) // 16 + hiss(length, f"whine {step_hz}") // 8


def _write(path: Path, samples: Integers, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.astype("<i2").tobytes())


def write_recordings(folder: Path) -> None:
    """The corpus: 8 speakers of 3 utterances and 2 kinds of 8 noises, 2 s each."""
    for speaker in range(8):
        for take in range(3):
            samples = voice(2 * RATE, 100 + 20 * speaker + 5 * take, RATE, begin=take)
            _write(folder / "speech" / f"s{speaker}" / f"{take}.wav", samples, RATE)
    for source in range(8):
        _write(folder / "noise" / "hiss" / f"{source}.wav", hiss(2 * RATE, f"hiss {source}"), RATE)
        _write(folder / "noise" / "whine" / f"{source}.wav", whine(2 * RATE, 5 * source, RATE), RATE)


def signals(sample_rate: int) -> dict[str, NDArray[np.float32]]:
    """Three inputs of a denoiser, 3 s each: speech in noise, noise alone, and speech that ends in silence."""
    length = 3 * sample_rate
    speech = voice(length, 130, sample_rate)
    made = {
        "speech in noise": speech + hiss(length, "signal"),
        "noise": whine(length, 0, sample_rate) + hiss(length, "signal"),
        "speech, then silence": np.where(np.arange(length) < length // 2, speech, 0),
    }
    return {name: (samples / 32768).astype(np.float32) for name, samples in made.items()}


def record(samples: NDArray[Any]) -> dict[str, Any]:
    """Length, rms and SAMPLES values of an output, to be compared with `assert_same`."""
    places = np.linspace(0, len(samples) - 1, SAMPLES).round().astype(int)
    rms = float(np.sqrt(np.mean(np.square(samples.astype(np.float64)))))
    return {"length": len(samples), "rms": rms, "samples": [float(value) for value in samples[places]]}


def assert_same(samples: NDArray[Any], recorded: dict[str, Any], tolerance: float) -> None:
    """An output is the one that `record` was given, to a largest difference in full scale."""
    found = record(samples)
    assert found["length"] == recorded["length"]
    assert abs(found["rms"] - recorded["rms"]) <= tolerance
    np.testing.assert_allclose(found["samples"], recorded["samples"], rtol=0, atol=tolerance)


def shipped(root: Path) -> dict[str, Path]:
    """The denoisers in the package, by file name."""
    return {path.name: path for path in sorted((root / "src" / "quell").rglob("quell-*k.pt"))}


def key_paths(value: Any, prefix: str = "") -> set[str]:
    """All keys of a JSON document, as "systems[].means.pesq"."""
    if isinstance(value, list):
        return set().union(*(key_paths(item, f"{prefix}[]") for item in value), set())
    if not isinstance(value, dict):
        return set()
    inner = (key_paths(item, f"{prefix}.{key}".lstrip(".")) for key, item in value.items())
    return {f"{prefix}.{key}".lstrip(".") for key in value}.union(*inner)


def options(help_text: str) -> list[str]:
    """The option names in the help of a command: what a line of its list begins with."""
    lists = re.findall(r"^[\s│]*((?:--?[a-zA-Z][\w-]*(?:, | / |  *))+)", help_text, re.MULTILINE)
    return sorted({name for names in lists for name in re.findall(r"--?[a-zA-Z][\w-]*", names)})


def environment_names(places: Iterable[Path]) -> set[str]:
    """The environment variables of Quell that files name, or the files in folders."""
    files = [file for place in places for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    texts = (
        file.read_text() for file in files if file.is_file() and file.suffix in (".py", ".yaml", ".yml", ".sh", "")
    )
    return {name for text in texts for name in re.findall(r"QUELL_[A-Z_]*[A-Z]", text)}


def processor() -> str:
    """What the sums of a training depend on: the kind of processor, and which of its instructions torch uses."""
    import torch

    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def spec_hash(study_file: Path) -> str:
    """The hash of a resolved study file, by which a stored study knows its own."""
    return str(importlib.import_module(STUDY_FILE).load(study_file).hash())


def quell(*arguments: str | Path, cwd: Path, core: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command on one core, as `command_line` says."""
    command = command_line(*arguments, core=core)
    return subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=cwd, env=clean_environment())


def command_line(*arguments: str | Path, core: int = 0) -> list[str]:
    """The words that run a command of Quell.

    Args:
        core: number, among those of this process, of the only core that it may use, where the system can say so: sums
            of floats in torch and in NumPy's products depend on how many threads there are.
    """
    command = ["-m", f"{SEARCH}.cli", *map(str, arguments)]
    if not hasattr(os, "sched_setaffinity"):
        return [sys.executable, *command]
    cores = sorted(os.sched_getaffinity(0))
    return [sys.executable, "-c", PIN, str(cores[core % len(cores)]), *command]


def clean_environment() -> dict[str, str]:
    """That of this process, without the variables of Quell."""
    return {key: value for key, value in os.environ.items() if not key.startswith("QUELL_")}


def quell_many(*commands: str, cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """Runs commands one after the other in a single process, which imports everything once.

    Args:
        commands: words with blanks between them; those that come first may set the environment, as QUELL_RUNS=runs.
    """
    done = subprocess.run(
        [sys.executable, __file__, *commands],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=cwd,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    return [subprocess.CompletedProcess(*answer) for answer in json.loads(done.stdout)]


def _answers(commands: Sequence[str]) -> Iterator[tuple[str, int, str, str]]:
    for command in commands:
        out, err, code, words = io.StringIO(), io.StringIO(), 0, command.split()
        given = dict(word.split("=", 1) for word in words if word.startswith("QUELL_"))
        sys.argv = ["quell", *words[len(given) :]]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.dict(os.environ, given):
            try:
                runpy.run_module(f"{SEARCH}.cli", run_name="__main__")
            except SystemExit as ended:
                code = int(ended.code or 0)
        yield command, code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    print(json.dumps(list(_answers(sys.argv[1:]))))
