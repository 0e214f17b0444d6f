"""The program `quell denoise`: interrupted, killed, piped, on a terminal, with file names that are not text."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
import soundfile
import torch
import typer
from quell_tuning.cli import __main__, denoise
from rich.console import Console

import quell
from quell.audio import Raw
from quell.errors import AudioError, ExportError
from quell.inference.jobs import DenoiseOptions

LONG_S = 400  # of sound: about a second of denoising
INTERRUPTED = "quell: interrupted\n"
RESUMABLE = "quell: interrupted; the same command resumes with the rest\n"
# Replaces a module that denoise imports, to send SIGINT during the import.
CTRL_C = """
import os, signal, sys
from pathlib import Path

here = Path(__file__).parent
sys.path.remove(str(here))
del sys.modules["soundfile"]
os.kill(os.getpid(), signal.SIGINT)
import soundfile

(here / "imported").touch()
"""


@pytest.fixture(scope="module")
def long_ones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    samples = 0.1 * np.random.default_rng(0).standard_normal(LONG_S * 8_000)
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", samples, 8_000)
    return folder


def write(path: Path, length: int = 500) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), 0.1 * np.random.default_rng(0).standard_normal(length), 8_000, format="WAV")
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "quell_tuning.cli", "denoise", *(str(argument) for argument in arguments)]


def started(*arguments: str | Path, **settings: Any) -> subprocess.Popen[str]:
    """Starts it in its own process group, as a shell does."""
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments), start_new_session=True, **(usual | settings))


def in_group(group: int) -> list[int]:
    """The running processes of a group."""
    running = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            running.append(int(stat.parent.name))
    return running


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_folder_is_resumed(
    model: Path, long_ones: Path, tmp_path: Path, wait_for: Callable[..., Any], number: int, code: int
) -> None:
    out = tmp_path / "out"
    running = started(model, long_ones, "-o", out, "--jobs", "1")
    # One is finished, and another half written.
    wait_for(lambda: any(out.glob("?.wav")) and any(out.glob(".?.*.wav")), 60, 0.01)
    os.killpg(running.pid, number)
    stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stdout, stderr) == (code, "", RESUMABLE)
    wait_for(lambda: not in_group(running.pid))
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("?.wav")}
    assert names(out) == [".quell-denoise.jsonl", *sorted(finished)] and 1 <= len(finished) < 3
    again = program.quell("denoise", model, long_ones, "-o", out, cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout == f"{3 - len(finished)} of {3 - len(finished)} recordings denoised to {out}\n"
    assert again.stderr == f"{len(finished)} recordings were done before, by the same model\n"
    assert names(out) == ["a.wav", "b.wav", "c.wav"]
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished


def test_a_killed_run_leaves_no_process_and_the_next_one_removes_its_partial_files(
    model: Path, long_ones: Path, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    running = started(model, long_ones, "-o", out, "--jobs", "2", stderr=subprocess.DEVNULL)
    wait_for(lambda: any(out.glob(".?.*.wav")), 60, 0.01)
    running.kill()
    running.communicate(timeout=30)
    wait_for(lambda: not in_group(running.pid))
    assert any(name.startswith(".") for name in names(out))
    again = program.quell("denoise", model, long_ones, "-o", out, "--jobs", "2", cwd=tmp_path)
    assert again.returncode == 0
    assert names(out) == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize("wait_s", [0.8])
def test_an_interruption_during_the_start_prints_no_traceback(
    model: Path, long_ones: Path, tmp_path: Path, wait_s: float
) -> None:
    running = started(model, long_ones, "-o", tmp_path / "out", "--jobs", "1")
    time.sleep(wait_s)
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130 and stderr in (INTERRUPTED, RESUMABLE)
    assert not names(tmp_path / "out")


def test_an_interruption_during_an_import_takes_effect_after_it(model: Path, long_ones: Path, tmp_path: Path) -> None:
    (tmp_path / "soundfile.py").write_text(CTRL_C)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command(model, long_ones, "-o", tmp_path / "out"), capture_output=True, text=True, timeout=60, env=environment
    )
    assert (done.returncode, done.stdout) == (130, "") and done.stderr in (INTERRUPTED, RESUMABLE)
    assert (tmp_path / "imported").exists()  # torch aborts with a page of C++ frames if it does not
    assert not any((tmp_path / "out").glob("*.wav"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("raw", [False, True])
def test_an_interrupted_single_output_prints_one_line_and_leaves_no_file(
    model: Path, long_ones: Path, tmp_path: Path, wait_for: Callable[..., Any], number: int, code: int, raw: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["-", "-o", out / "a.raw"] if raw else [long_ones / "a.wav", "-o", out / "a.wav"]
    running = started(model, *arguments, stdin=subprocess.PIPE)
    wait_for(lambda: any(out.glob(".a.*")), 60, 0.01)
    os.killpg(running.pid, number)
    assert running.communicate(timeout=30) == ("", INTERRUPTED)
    assert running.returncode == code
    assert not names(out)


def test_file_names_that_are_not_text_or_look_like_markup_are_printed_literally(model: Path, tmp_path: Path) -> None:
    odd = ["a b.wav", "quo'te\".wav", "[red].wav", ":smile:.wav", "-o.wav", "new\nline.wav", os.fsdecode(b"\xff.wav")]
    for name in [*odd, "[/bold]/1.wav", "x.wav/2.wav"]:
        write(tmp_path / "in" / name)
    (tmp_path / "in" / os.fsdecode(b"[/bold]/\xff\n\x1b[1m:smile:[x].wav")).write_text("no sound")
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    out = os.fsdecode(b"out\xff[/x]")
    arguments = ["--jobs", "1", "-o", out, "--", model, tmp_path / "in"]
    done = program.quell("denoise", *arguments, cwd=tmp_path)
    where = f"{tmp_path}/in/[/bold]/\\udcff\\n\\x1b[1m:smile:[x].wav"
    assert done.stderr == f"quell: {where}: Format not recognised, expected a sound file; repair it or leave it out\n"
    assert (done.returncode, done.stdout) == (1, "9 of 10 recordings denoised to out\\udcff[/x]\n")
    made = tmp_path / out
    assert {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} == {
        *odd,
        "[/bold]/1.wav",
        "x.wav/2.wav",
        ".quell-denoise.jsonl",
    }


def test_a_closed_pipe_ends_the_program_without_a_message(model: Path) -> None:
    running = started(model, "-", "-o", "-", "--rate", "8000", text=False, stdin=subprocess.PIPE)
    assert running.stdin is not None and running.stdout is not None and running.stderr is not None
    running.stdin.write(bytes(400_000))
    running.stdin.close()
    assert running.stdout.read(100) == bytes(100)
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait(30) == 128 + signal.SIGPIPE
    running.stderr.close()


def test_a_terminal_shows_progress_within_a_file_and_the_time_left(
    model: Path, long_ones: Path, tmp_path: Path
) -> None:
    controller, terminal = pty.openpty()
    seconds = 3 * LONG_S
    soundfile.write(tmp_path / "in.wav", np.tile(soundfile.read(long_ones / "a.wav")[0], 3), 8_000)
    arguments = [model, tmp_path / "in.wav", "-o", tmp_path / "a.wav"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=terminal, env=environment) as running:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(controller, 65_536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert running.stdout is not None
        assert running.stdout.read() == f"1 of 1 recordings denoised to {tmp_path / 'a.wav'}\n".encode()
    os.close(controller)
    moved = [int(done) for done in re.findall(rf"(\d+)/{seconds}\b", shown.decode())]
    assert len({done for done in moved if 0 < done < seconds}) >= 2
    assert re.search(r"left.*\d:\d\d:\d\d", shown.decode())


def quiet() -> Console:
    return Console(file=io.StringIO())


def piped(model: Path | None, output: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    usual = {"overwrite": False, "console": quiet()}
    return denoise.stream(model, output, Raw(8_000, 1, "PCM_16"), DenoiseOptions(), **(usual | settings))


def test_an_output_unfit_for_raw_samples_is_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(output: Path, overwrite: bool = False) -> int:
        return piped(model, output, bytes(2_000), monkeypatch, overwrite=overwrite)

    target = tmp_path / "a.raw"
    assert run(target) == 0 and target.read_bytes() == bytes(2_000)
    for output, found in [
        (target, "exists already, expected a new file"),
        (tmp_path / "a.wav", r"ends in \.wav, expected a name like out\.raw"),
        (tmp_path / "none" / "a.raw", "No such file or directory, expected a file that can be written"),
    ]:
        with pytest.raises(AudioError, match=f"^{re.escape(str(output))}: {found}"):
            run(output)
    assert run(target, overwrite=True) == 0
    assert names(tmp_path) == ["a.raw"]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_and_speed_of_a_pipe_are_shown_on_terminals_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=80)
    assert piped(model, tmp_path / "a.raw", bytes(75 * 2 * 8_000), monkeypatch, console=console) == 0
    shown = console.file.getvalue()
    assert bool(shown) == terminal
    if terminal:
        assert re.search(r"reading +━+ 0:0[01]:\d\d", shown)
        assert re.search(r"denoising +━+ 0:01:15 of 0:01:15, \d+\.\d times real time", shown)


def test_without_a_model_recordings_and_pipes_use_the_included_one_for_their_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = write(tmp_path / "a.wav", 4_000)
    samples, rate = soundfile.read(noisy, dtype="int16")
    clean = np.round(32_768 * quell.denoise(samples / 32_768, rate))
    monkeypatch.setattr(sys, "argv", ["quell", "denoise", str(noisy), "-o", str(tmp_path / "out.wav"), "--jobs", "1"])
    with pytest.raises(SystemExit) as left:
        __main__.main()
    assert not left.value.code, capsys.readouterr().err
    assert np.abs(soundfile.read(tmp_path / "out.wav", dtype="int16")[0] - clean).max() <= 1
    assert piped(None, tmp_path / "out.raw", samples.tobytes(), monkeypatch) == 0
    assert np.abs(np.frombuffer((tmp_path / "out.raw").read_bytes(), "<i2") - clean).max() <= 1


def test_a_run_with_another_model_is_not_resumed(model: Path, tmp_path: Path) -> None:
    noisy, out = tmp_path / "in", tmp_path / "out"
    for name in "ab":
        write(noisy / f"{name}.wav")
    (noisy / "c.wav").write_text("no sound")  # keeps the journal
    usual: dict[str, Any] = {"overwrite": True, "processes": 1}
    for chosen, before in ((None, 0), (None, 2), (model, 0)):
        console = quiet()
        assert denoise.files(chosen, [noisy], out, DenoiseOptions(), console=console, **usual) == 1
        assert (f"{before} recordings were done before" in console.file.getvalue()) == bool(before)  # type: ignore[attr-defined]


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_a_closed_stream_is_an_error_that_names_it(model: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setattr(sys, closed, None)
    with pytest.raises(AudioError, match=rf"^standard {closed[3:]}put: closed, expected"):
        denoise.stream(model, Path("-"), Raw(8_000, 1, "PCM_16"), DenoiseOptions(), overwrite=False, console=quiet())


def test_a_full_disk_at_standard_output_is_an_error(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    for arguments in ([tmp_path / "a.wav", "-o", tmp_path / "b.wav"], ["-", "-o", "-"]):
        full: dict[str, Any] = {"cwd": tmp_path, "stdin": b"ab" * 9, "stdout": Path("/dev/full")}
        done = program.quell("denoise", model, *arguments, **full)
        message = "quell: standard output: No space left on device, expected to write to it; redirect it\n"
        assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "-o", "-"], "- for recordings, expected a file or a folder"),
        (["a.wav", "-o", "out", "--wet", "nan"], "wet"),
        (["a.wav", "-o", "out", "--attenuation-limit", "nan"], "attenuation-limit"),
        (["a.wav", "-", "-o", "out"], "- among others, expected it alone"),
        (["-", "-o", "-", "--encoding", "u8"], "'u8', expected one of s16le, s24le, s32le, f32le"),
        (["-o", "out"], "model.pt, expected recordings"),
        (["a.wav", "other.onnx", "-o", "out"], "other.onnx among recordings, expected one model, first"),
    ],
)
def test_contradictory_arguments_are_wrong_usage(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    handlers: None,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["quell", "denoise", str(model), *arguments])
    with pytest.raises(SystemExit) as left:
        __main__.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quell: ") and message in line


def test_a_missing_model_is_an_error_before_recordings_are_read(tmp_path: Path) -> None:
    missing = tmp_path / "model.pt"
    with pytest.raises(ExportError, match=f"^{re.escape(str(missing))}: no such file, expected an exported denoiser"):
        denoise.files(missing, [tmp_path], tmp_path, DenoiseOptions(), overwrite=False, processes=1, console=quiet())


@pytest.mark.parametrize("name", ["model.pth", "Best.PT", "best", "model.bin"])
def test_a_model_is_recognised_by_its_content(model: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(model, tmp_path / name)
    noisy = write(tmp_path / "a.wav", 4_000)
    assert denoise.denoise([tmp_path / name, noisy], tmp_path / "out.wav", jobs=1) == 0
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(noisy).frames
    with pytest.raises(typer.BadParameter, match="among recordings, expected one model, first"):
        denoise.denoise([noisy, tmp_path / name], tmp_path / "out", jobs=1)


def test_weights_and_other_archives_are_named_as_what_they_are_not(tmp_path: Path) -> None:
    noisy = write(tmp_path / "a.wav", 4_000)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(ExportError, match=r"weights\.pth: not an exported denoiser, expected a file made by"):
        denoise.denoise([tmp_path / "weights.pth", noisy], tmp_path / "out.wav", jobs=1)
    with zipfile.ZipFile(tmp_path / "recordings.zip", "w") as archive:
        archive.write(noisy)
    assert denoise.denoise([tmp_path / "recordings.zip"], tmp_path / "out.wav", jobs=1) == 1
    assert not (tmp_path / "out.wav").exists()


def test_recordings_that_are_not_read_are_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.wav", 4_000)
    (tmp_path / "in" / "memo.m4a").write_text("not read")
    assert denoise.denoise([model, tmp_path / "in"], tmp_path / "out", jobs=1) == 0
    found = f"{tmp_path / 'in'}: 1 files that are not read (1 .m4a), expected WAV, FLAC, Ogg or MP3; convert them"
    assert capsys.readouterr().err == f"quell: {found}\n"
