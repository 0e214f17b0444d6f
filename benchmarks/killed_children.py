"""Kills the child processes of real commands at random moments and inside their writes; none may hang or go wrong.

    python benchmarks/killed_children.py

The commands run on synthetic recordings: `quell tune` (audit, decoding, scoring, one worker with one short trial),
`quell corpus check`, `quell evaluate` and `quell denoise FOLDER`. First each runs unharmed. Then children are killed
until there were --kills of each sort; up to eight for each run. A run is right if it gives the same result as the
unharmed one, or ends with exit code 1 and one line on stderr that says why. Exits with 1 if one was neither, or hung.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import soundfile
from header import header

from quell.corpus import parallel_decoding

RATE = 8_000
SPEAKERS, TAKES, SOURCES = 24, 9, 24  # 216 utterances and 48 noises: enough to be decoded in processes
CHILD = "multiprocessing.spawn"
ENDS = ("right", "one line", "wrong", "hung")
PLANTED = Path(__file__).with_name("killed_in_a_write.py")
STUDY = """
[study]
name = "killed"
trials = 1
[corpus]
clean = "speech"
noise = "noise"
sample_rate = 8000
group_noise = "file"
[training]
segment_s = 0.5
audio_hours = 0.015
rungs_audio_hours = [0.015]
validation_mixtures = 12
[search]
depth = 3
base_channels = 8
batch_size = 1
"""


@dataclass
class Command:
    """A command, and what it makes of the recordings: its result, in the folder that it runs in."""

    words: list[str]
    result: Callable[[Path, str], str]
    expected: str = ""
    seconds: float = 0.0  # that it takes unharmed


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    lines: list[str] = field(default_factory=list)


def speech(seconds: float, seed: int) -> np.ndarray:
    """Harmonics of a gliding voice in bursts, which PESQ and STOI take for speech."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(rng.uniform(100, 220) * (1 + 0.1 * np.sin(4 * at + rng.uniform(0, 6)))) / RATE
    voiced = sum(np.sin(k * phase) / k for k in range(1, 14))
    bursts = voiced * np.clip(np.sin(2 * np.pi * 3.5 * at + rng.uniform(0, 6)), 0, None) ** 2
    return 0.5 * bursts / np.abs(bursts).max()


def make_recordings(folder: Path) -> None:
    for speaker in range(SPEAKERS):
        for take in range(TAKES):
            voice = speech(1.0 + 0.05 * take, 100 * speaker + take)
            write(folder / "speech" / f"s{speaker:02d}" / f"{take}.wav", voice)
    for number in range(2 * SOURCES):
        noise = 0.1 * np.random.default_rng(number).standard_normal(RATE)
        write(folder / "noise" / ("hiss", "rain")[number % 2] / f"{number}.wav", noise)
    for number in range(8):
        clean = speech(2.0, 9_000 + number)
        write(folder / "pairs" / "clean" / f"{number}.wav", clean)
        noise = 0.05 * np.random.default_rng(9_000 + number).standard_normal(len(clean))
        write(folder / "pairs" / "noisy" / f"{number}.wav", clean + noise)


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)


def commands(recordings: Path) -> dict[str, Command]:
    study = recordings / "killed.toml"
    study.write_text(STUDY)
    pairs = recordings / "pairs"
    return {
        "tune": Command(["tune", str(study), "--corpus", str(recordings), "--runs", "runs"], of_tune),
        "corpus check": Command(["corpus", "check", str(study), "--corpus", str(recordings), "--json"], of_output),
        "evaluate": Command(
            ["evaluate", "--noisy", str(pairs / "noisy"), "--clean", str(pairs / "clean"), "--csv", "clips.csv"],
            of_csv,
        ),
        "denoise": Command(["denoise", str(pairs / "noisy"), "-o", "out", "--jobs", "2"], of_folder),
    }


def of_tune(folder: Path, _: str) -> str:
    """The decoded samples, the score of the trial, whose number grows when its worker dies, and its gain."""
    command = [sys.executable, "-m", "quell_tuning.cli", "status", "killed", "--runs", "runs", "--json"]
    status = json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
    (store,) = (folder / "runs" / "corpora").glob("*/index.json")
    samples = [file.read_bytes() for file in sorted(store.parent.glob("*.int16"))]
    best = {key: value for key, value in (status["best"] or {}).items() if key != "trial"}
    return f"{digest(*samples)} {json.dumps(best, sort_keys=True)}"


def of_output(_: Path, output: str) -> str:
    return output


def of_csv(folder: Path, _: str) -> str:
    """All columns but the last, the real-time factor."""
    return "\n".join(row.rpartition(",")[0] for row in (folder / "clips.csv").read_text().splitlines())


def of_folder(folder: Path, _: str) -> str:
    return digest(*(file.read_bytes() for file in sorted((folder / "out").glob("*.wav"))))


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def children(process: psutil.Process) -> list[psutil.Process]:
    """The child processes of a command that Quell watches: not its workers, and not Python's resource tracker."""
    found = []
    with suppress(psutil.Error):
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                if any(CHILD in word for word in child.cmdline()):
                    found.append(child)
    return found


def kill_at_random(process: psutil.Process, moments_s: list[float], draw: random.Random, kills: Counter[str]) -> None:
    """Kills a child at each moment, or as soon as there is one then."""
    began = time.monotonic()
    for moment_s in moments_s:
        time.sleep(max(0.0, began + moment_s - time.monotonic()))
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if found := children(process):
                with suppress(psutil.Error):
                    draw.choice(found).kill()
                    kills["at random"] += 1
                    break
            time.sleep(0.01)


def run(
    command: Command, moments_s: list[float], planted: int, draw: random.Random, tally: Tally, limit_s: float
) -> str:
    """Runs a command and kills its children; returns how it ended: right, one line, wrong or hung."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, site = Path(temporary), Path(temporary) / "site"
        (folder / "kills").mkdir()
        site.mkdir()
        shutil.copy(PLANTED, site / "sitecustomize.py")
        for number in range(planted):
            (folder / "kills" / str(number)).touch()
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "KILLED_IN_A_WRITE": str(folder / "kills")}
        words = [sys.executable, "-m", "quell_tuning.cli", *command.words]
        with (folder / "stdout").open("w+") as stdout, (folder / "stderr").open("w+") as stderr:
            began = time.monotonic()
            process = psutil.Popen(words, cwd=folder, env=environment, stdout=stdout, stderr=stderr)
            killer = threading.Thread(target=kill_at_random, args=(process, moments_s, draw, tally.kills))
            killer.start()
            try:
                process.wait(limit_s)
            except psutil.TimeoutExpired:
                for child in [*process.children(recursive=True), process]:
                    child.kill()
                return "hung"
            finally:
                killer.join()
        command.seconds = command.seconds or time.monotonic() - began
        tally.longest_s = max(tally.longest_s, time.monotonic() - began)
        tally.kills["inside a write"] += planted - len(list((folder / "kills").iterdir()))
        return judge(command, folder, process.returncode, tally)


def judge(command: Command, folder: Path, code: int, tally: Tally) -> str:
    output, errors = (folder / "stdout").read_text(), (folder / "stderr").read_text()
    if code == 0:
        result = command.result(folder, output)
        command.expected = command.expected or result
        if result != command.expected:
            print(f"expected:\n{command.expected}\nfound:\n{result}\n{errors}", file=sys.stderr)
        return "right" if result == command.expected else "wrong"
    last = errors.strip().splitlines()[-1] if errors.strip() else ""
    if code == 1 and last.startswith("quell: ") and ", expected " in last and "Traceback" not in errors:
        tally.lines.append(last)
        return "one line"
    print(f"exit code {code}:\n{errors}", file=sys.stderr)
    return "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="at random moments")
    parser.add_argument("--planted", type=int, default=10, help="kills inside a write")
    parser.add_argument("--only", metavar="COMMAND", help="instead of all four")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a command hangs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, tallies = random.Random(given.seed), {}
    with tempfile.TemporaryDirectory() as temporary:
        make_recordings(Path(temporary))
        assert SPEAKERS * TAKES + 2 * SOURCES >= parallel_decoding.MIN_JOBS, "decoded in this process"
        tasks = {name: task for name, task in commands(Path(temporary)).items() if given.only in (None, name)}
        for name, command in tasks.items():
            tallies[name] = Tally()
            unharmed = run(command, [], 0, draw, tallies[name], given.limit)
            print(f"{name}: {command.seconds:.1f} s unharmed, {unharmed}", file=sys.stderr, flush=True)
            assert unharmed == "right"
        turn = 0
        while (done := count(tallies))["at random"] < given.kills or done["inside a write"] < given.planted:
            name = list(tasks)[turn % len(tasks)]
            turn += 1
            number = draw.randint(1, 8) if done["at random"] < given.kills else 0
            planted = draw.randint(1, 3) if done["inside a write"] < given.planted and not (number and turn % 3) else 0
            number = 0 if planted else number
            moments_s = sorted(draw.uniform(0, tasks[name].seconds) for _ in range(number))
            end = run(tasks[name], moments_s, planted, draw, tallies[name], given.limit)
            tallies[name].ends[end] += 1
            print(f"{name}: {number} at random, {planted} in writes: {end}", file=sys.stderr, flush=True)
    report(tasks, tallies)
    return int(any(tally.ends["wrong"] or tally.ends["hung"] for tally in tallies.values()))


def count(tallies: dict[str, Tally]) -> Counter[str]:
    return sum((tally.kills for tally in tallies.values()), Counter())


def report(tasks: dict[str, Command], tallies: dict[str, Tally]) -> None:
    print(header(f"python benchmarks/{Path(__file__).name}"))
    columns = ("command", "runs", "kills at random", "inside a write", *ENDS, "unharmed, longest (s)")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, tally in tallies.items():
        kills = f"{tally.kills['at random']} | {tally.kills['inside a write']}"
        ends = " | ".join(str(tally.ends[end]) for end in ENDS)
        seconds = f"{tasks[name].seconds:.0f}, {tally.longest_s:.0f}"
        print(f"| {name} | {tally.ends.total()} | {kills} | {ends} | {seconds} |")
    for line in sorted({line for tally in tallies.values() for line in tally.lines}):
        print(f"\n    {line}")


if __name__ == "__main__":
    sys.exit(main())
