"""The C++ example does with an exported denoiser what Python does, and never writes half a file."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from torch.utils.cpp_extension import include_paths, library_paths

from quell.export.exported_model import load

SOURCE = Path(__file__).parents[1] / "examples" / "cpp"
RATE = 8_000  # Hz, of the tiny denoiser
STEP = 2**-15  # of 16 bits


def build(folder: Path) -> Path:
    """Builds the example against the libtorch inside the torch package; skips where that is not possible."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler found")
    program = folder / "denoise"
    if shutil.which("cmake") and torch.version.cuda is None:  # with CUDA inside, CMake asks for the CUDA toolkit
        found = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", f"-DCMAKE_CXX_COMPILER={compiler}"]
        run("cmake", "-S", SOURCE, "-B", folder, *found)
        run("cmake", "--build", folder)
        return program
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    headers = [f"-isystem{path}" for path in include_paths()]  # warnings inside of them are not ours
    folders = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    libraries = ["-ltorch_cpu", "-lc10"]
    run(compiler, "-std=c++17", "-O0", abi, *headers, SOURCE / "denoise.cpp", *folders, *libraries, "-o", program)
    return program


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("build"))


def denoise(program, *arguments):
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that fight for cores slow each other down
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=alone)


@pytest.fixture
def recording(tmp_path, noise):
    """Writes a recording; each channel is another noise."""

    def write(length, channels=1, rate=RATE, **stored):
        samples = np.stack([noise(max(length, 1) / RATE, seed=seed) for seed in range(channels)], axis=1)
        soundfile.write(tmp_path / "noisy.wav", samples[:length], rate, **({"subtype": "PCM_16"} | stored))
        return tmp_path / "noisy.wav"

    return write


def samples_of(path):
    """Shape: (channels, frames)."""
    return torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].T.copy())


# 129 001 samples pass in three blocks of 8 s.
@pytest.mark.parametrize(("length", "channels"), [(9_601, 2), (129_001, 1), (4_000, 6), (1, 1), (1, 2), (0, 1)])
def test_example_writes_what_python_answers(program, model, recording, tmp_path, length, channels):
    path = recording(length, channels)
    done = denoise(program, model, path, tmp_path / "clean.wav")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = soundfile.info(tmp_path / "clean.wav")
    assert (written.frames, written.channels, written.samplerate) == (length, channels, RATE)
    assert (written.format, written.subtype) == ("WAV", "PCM_16")
    noisy, clean = samples_of(path), samples_of(tmp_path / "clean.wav")
    if length > 0:
        assert (clean - load(model)(noisy)).abs().max().item() <= STEP + 1e-5  # rounded once, and to float32
    if length > 1:
        assert (clean - noisy).abs().max().item() > 0.05  # else a copy would do


def with_chunks(path):
    """Puts chunks of odd length before and after the samples, which 44 bytes of header precede."""
    whole = path.read_bytes()
    odd = b"LIST" + struct.pack("<I", 7) + b"INFOabc\0"
    body = whole[8:36] + odd + whole[36:] + odd
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("kind", ["chunks", "extensible"])
def test_example_changes_nothing_but_the_samples(program, model, recording, tmp_path, kind):
    path = recording(801, 2, format="WAVEX" if kind == "extensible" else "WAV")
    if kind == "chunks":
        with_chunks(path)
    assert denoise(program, model, path, tmp_path / "clean.wav").returncode == 0
    before, after = path.read_bytes(), (tmp_path / "clean.wav").read_bytes()
    begin = before.index(b"data") + 8
    end = begin + 801 * 2 * 2
    assert (after[:begin], after[end:]) == (before[:begin], before[end:])
    gap = (samples_of(tmp_path / "clean.wav") - load(model)(samples_of(path))).abs().max().item()
    assert gap <= STEP + 1e-5


class Louder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sample_rate = RATE

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return 16 * noisy


def test_example_clamps_what_is_louder_than_full_scale(program, recording, tmp_path):
    torch.jit.script(Louder()).save(str(tmp_path / "louder.pt"))
    path = recording(800)
    assert denoise(program, tmp_path / "louder.pt", path, tmp_path / "clean.wav").returncode == 0
    clean = samples_of(tmp_path / "clean.wav")
    assert torch.equal(clean, (16 * samples_of(path)).clamp(-1, 1 - STEP))
    assert (clean == -1).any() and (clean == 1 - STEP).any()


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


SOUND = "expected a whole WAV file of 16-bit PCM; "
REFUSED = {
    "missing": (lambda path: path.unlink(), "no such file, expected a WAV file; "),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "no such file, expected a WAV file; "),
    "empty": (lambda path: cut(path, 0), f"not a WAV file, {SOUND}"),
    "text": (lambda path: path.write_text("not a recording\n"), f"not a WAV file, {SOUND}"),
    "big-endian": (lambda path: path.write_bytes(b"RIFX" + path.read_bytes()[4:]), f"not a WAV file, {SOUND}"),
    "no chunks": (lambda path: cut(path, 12), f"cut off before its samples, {SOUND}"),
    "half a header": (lambda path: cut(path, 30), f"cut off, {SOUND}"),
    "no samples": (lambda path: cut(path, 36), f"cut off before its samples, {SOUND}"),
    "half of the samples": (lambda path: cut(path, 1_001), f"cut off, {SOUND}"),
    "no format": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"fmt ", b"junk")),
        f"0 bits in format 0, {SOUND}",
    ),
}


@pytest.mark.parametrize("spoil, message", REFUSED.values(), ids=REFUSED)
def test_spoilt_recording_ends_with_one_line_and_no_file(program, model, recording, tmp_path, spoil, message):
    path = recording(1_000)
    spoil(path)
    assert_refused(program, model, path, tmp_path / "clean.wav", f"{path}: {message}")


@pytest.mark.parametrize(
    "stored, message",
    [
        ({"rate": 16_000}, "16000 Hz, expected 8000 Hz; resample it"),
        ({"subtype": "FLOAT"}, f"32 bits in format 3, {SOUND}"),
        ({"subtype": "FLOAT", "format": "WAVEX"}, f"32 bits in format 3, {SOUND}"),
        ({"subtype": "PCM_24"}, f"24 bits in format 1, {SOUND}"),
        ({"subtype": "ULAW"}, f"8 bits in format 7, {SOUND}"),
        ({"format": "FLAC"}, f"not a WAV file, {SOUND}"),
    ],
)
def test_recording_of_another_kind_ends_with_one_line_and_no_file(program, model, recording, tmp_path, stored, message):
    path = recording(1_000, **stored)
    assert_refused(program, model, path, tmp_path / "clean.wav", f"{path}: {message}")


@pytest.mark.parametrize("content", ["missing", "text", "half", "other"])
def test_model_that_is_no_denoiser_ends_with_one_line_and_no_file(program, model, recording, tmp_path, content):
    path = tmp_path / "model.pt"
    if content == "text":
        path.write_text("not a model\n")
    if content == "half":
        path.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    if content == "other":
        torch.jit.script(nn.Identity()).save(str(path))
    line = assert_refused(program, path, recording(1_000), tmp_path / "clean.wav", f"{path}: ")
    assert line.endswith(", expected a file that `quell export` wrote; export it again\n")


@pytest.mark.parametrize("place", ["nowhere/clean.wav", "."])
def test_output_that_cannot_be_written_ends_with_one_line(program, model, recording, tmp_path, place):
    assert_refused(program, model, recording(1_000), tmp_path / place, f"{tmp_path / place}: ")


def test_failure_leaves_the_file_that_was_there(program, model, recording, tmp_path):
    (tmp_path / "clean.wav").write_bytes(b"the old one")
    assert_refused(program, model, recording(1_000, rate=16_000), tmp_path / "clean.wav", "")
    assert (tmp_path / "clean.wav").read_bytes() == b"the old one"


def test_call_without_arguments_says_how_to_call_it(program):
    done = denoise(program)
    line = "denoise: 0 arguments, expected 3; call it with MODEL IN.wav OUT.wav\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def assert_refused(program, model, noisy, clean, message):
    """Ends with exit status 1 and one line, which is returned; makes no file."""
    before = sorted(noisy.parent.iterdir())
    done = denoise(program, model, noisy, clean)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
    assert sorted(noisy.parent.iterdir()) == before
    return done.stderr
