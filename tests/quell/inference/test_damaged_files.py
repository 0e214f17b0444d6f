"""Each damaged recording is refused with a reason or becomes a whole file; inputs never change, other files are
denoised, and none takes for ever."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import numpy as np
import program
import pytest
import soundfile

from quell import audio
from quell.inference import batch
from quell.inference.enhancement import denoise_job
from quell.inference.jobs import DenoiseOptions

KINDS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "PCM_32"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "ULAW"),
    ("rf64", "RF64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("w64", "W64", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "ALAC_16"),
]
NUMBER = 200
MOST_S = 60  # of half a second of sound each: a few seconds
SIZES = [
    bytes(4),
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\x00\x10\x00\x00",
]


def flip_bits(content, rng):
    for _ in range(rng.choice((1, 2, 8))):
        content[rng.randrange(min(200, len(content)))] ^= 1 << rng.randrange(8)


def scramble_body(content, rng):
    for _ in range(rng.choice((1, 10, 100))):
        content[rng.randrange(len(content))] = rng.randrange(256)


def cut_off(content, rng):
    del content[rng.randrange(len(content)) :]


def blank(content, rng):
    start = rng.randrange(len(content))
    content[start : start + 40] = bytes(len(content[start : start + 40]))


def double_a_chunk(content, rng):
    start = rng.randrange(len(content))
    content[start:start] = content[start : start + rng.choice((4, 8, 40, 300))]


def lie_about_sizes(content, rng):
    start = 2 * rng.randrange(50)
    content[start : start + 4] = rng.choice(SIZES)


def lie_about_channels_and_rate(content, rng):
    # Where RIFF has them, and others have something else that is short.
    start = rng.choice((20, 22, 24, 28, 34))
    content[start : start + 2] = rng.choice(SIZES)[:2]


def append_garbage(content, rng):
    content += rng.randbytes(rng.choice((1, 7, 5_000)))


def be_text(content, rng):
    content[:] = b"no sound at all\n" * rng.randrange(100)


DAMAGES = [
    flip_bits,
    scramble_body,
    cut_off,
    blank,
    double_a_chunk,
    lie_about_sizes,
    lie_about_channels_and_rate,
    append_garbage,
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A folder of damaged files, the same each time."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = random.Random(0)
    for number in range(NUMBER):
        suffix, container, subtype = KINDS[number % len(KINDS)]
        path = folder / f"{number:03}.{suffix}"
        samples = 0.2 * np.random.default_rng(number).standard_normal((4_000, 1 + number % 2))
        soundfile.write(path, samples, 8_000, format=container, subtype=subtype)
        content = bytearray(path.read_bytes())
        damage = rng.choice(DAMAGES) if number % 20 else be_text
        damage(content, rng)
        path.write_bytes(content)
    return folder


def state(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def check(folder, output, errors):
    """What must hold of a run over the folder that refused some with these lines."""
    for path, line in errors.items():
        assert re.fullmatch(
            rf"({re.escape(str(path))}|{re.escape(str(output / path.name))}): .+, expected .+; .+", line
        )
    outputs = {output / path.name for path in folder.iterdir() if path not in errors}
    assert {path for path in output.rglob("*") if path.name != ".quell-denoise.jsonl"} == outputs
    for target in outputs:
        before, after = audio.AudioFile(folder / target.name), audio.AudioFile(target)
        assert after.stored.sample_rate == before.stored.sample_rate
        assert (after.channels, after.frames) == (before.channels, before.frames)
        assert (after.stored.container, after.stored.subtype) == (before.stored.container, before.stored.subtype)
        assert sum(map(len, after.blocks())) == before.frames
        assert np.isfinite(soundfile.read(target)[0]).all()
    assert 20 < len(outputs) < NUMBER - 20  # else the damage is too little, or too much


def test_each_damaged_file_is_refused_with_a_reason_or_denoised_whole(hostile, loaded, tmp_path):
    before, start = state(hostile), time.perf_counter()
    jobs = batch.plan([hostile], tmp_path / "out").jobs
    ended = [denoise_job(job, loaded, DenoiseOptions(wet=0.9), lambda seconds: None) for job in jobs]
    assert time.perf_counter() - start < MOST_S
    assert state(hostile) == before
    assert sorted(done.job.source for done in ended) == sorted(before)
    check(hostile, tmp_path / "out", {done.job.source: str(done.error) for done in ended if done.error})


def test_the_command_line_prints_one_line_for_each_refused_file_and_exits_with_1(hostile, model, tmp_path):
    before = state(hostile)
    arguments = ["denoise", model, hostile, "-o", "out", "--jobs", "2"]
    done = program.quell(*arguments, cwd=tmp_path, timeout_s=MOST_S)
    assert done.returncode == 1
    assert state(hostile) == before
    lines = done.stderr.splitlines()
    assert all(line.startswith("quell: ") and "Traceback" not in line for line in lines)
    limited = [line for line in lines if " beyond full scale" in line]
    errors = {}
    for line in (line.removeprefix("quell: ") for line in lines if line not in limited):
        path = hostile / Path(line.split(": ")[0]).name
        assert path not in errors
        errors[path] = line
    whole = {path: f"{tmp_path}/{line}" if line.startswith("out/") else line for path, line in errors.items()}
    check(hostile, tmp_path / "out", whole)
    assert done.stdout == f"{NUMBER - len(errors)} of {NUMBER} recordings denoised to out\n"
