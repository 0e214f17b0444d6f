"""A process that dies loses no recording: it is tried again, then reported, and the others are denoised."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import deadly as dying
import numpy as np
import pytest
import soundfile

from quell.errors import AudioError, ExportError
from quell.inference import denoising_process, process_pool
from quell.inference.enhancement import denoise_job
from quell.inference.jobs import DenoiseJob, DenoiseOptions
from quell.inference.process_pool import denoise

# A path whose file kills the process that reads it, as a bug of a decoder might: when it is opened ("early"), or when
# its output is half written ("late"). Its name is <when>.<signal>.<times>.wav. Spawned processes import the class.
DEADLY = """
import os, signal
from pathlib import Path

class Deadly(type(Path())):
    def is_file(self):
        when, number, times, _ = self.name.split(".")
        half_written = any(path.name.startswith(".") for path in self.parent.parent.glob("out/*"))
        deaths = self.with_suffix(".deaths")
        so_far = len(deaths.read_text()) if deaths.exists() else 0
        if half_written == (when == "late") and so_far < int(times):
            deaths.write_text("x" * (so_far + 1))
            os.kill(os.getpid(), getattr(signal, number))
        return super().is_file()
"""


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deadly", raising=False)
    import deadly

    return deadly.Deadly


def write(path: Path, length=500, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(length), 8_000, **settings)
    return path


def jobs(folder: Path, names, kind=Path) -> list[DenoiseJob]:
    return [DenoiseJob(kind(write(folder / "in" / name)), folder / "out" / name) for name in names]


def test_processes_that_die_are_replaced_and_a_file_that_kills_two_is_reported(tmp_path, model, deadly):
    # The early one dies while lengths are asked for. SIGTERM is no death: the process leaves the file alone.
    names = ["early.SIGKILL.1.wav", "late.SIGSEGV.1.wav", "late.SIGTERM.1.wav"]
    killer = "late.SIGABRT.9.wav"
    todo = [*jobs(tmp_path, [killer, *names], deadly), *jobs(tmp_path, ["a.wav", "b.wav"])]
    ended = {done.job.target.name: done.error for done in denoise(todo, model, DenoiseOptions(), processes=1)}
    error = ended.pop(killer)
    assert isinstance(error, AudioError)
    assert str(error).startswith(f"{tmp_path / 'in' / killer}: the process that denoised it was killed 2 times, expec")
    assert ended == dict.fromkeys([*names, "a.wav", "b.wav"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(ended)
    deaths = {path.name: len(path.read_text()) for path in (tmp_path / "in").glob("*.deaths")}
    assert deaths == {Path(name).with_suffix(".deaths").name: 1 for name in names} | {"late.SIGABRT.9.deaths": 2}


def test_a_stalled_process_is_killed_and_its_file_reported(tmp_path, model, deadly, monkeypatch):
    monkeypatch.setattr(process_pool, "STALLED_S", 1.5)
    todo = [*jobs(tmp_path, ["late.SIGSTOP.1.wav"], deadly), *jobs(tmp_path, ["a.wav"])]
    ended = {done.job.target.name: done.error for done in denoise(todo, model, DenoiseOptions(), processes=1)}
    assert ended.pop("a.wav") is None
    assert str(ended["late.SIGSTOP.1.wav"]).startswith(f"{todo[0].source}: no progress in 2 s, expected it to")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_an_interrupted_run_ends_in_time_despite_a_stalled_process(tmp_path, model, deadly, monkeypatch):
    monkeypatch.setattr(process_pool, "STOP_GRACE_S", 0.5)
    before = set(multiprocessing.active_children())

    def leave(*_):
        if any((tmp_path / "out").glob(".late*")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(
            denoise(
                jobs(tmp_path, ["late.SIGSTOP.1.wav"], deadly), model, DenoiseOptions(), processes=1, progress=leave
            )
        )
    assert set(multiprocessing.active_children()) == before
    assert not list((tmp_path / "out").iterdir())


def test_output_printed_by_decoders_is_suppressed(tmp_path, model, loaded, capfd):
    todo = [DenoiseJob(write(tmp_path / "in" / name, 9_000), tmp_path / "out" / name) for name in ("a.mp3", "b.sds")]
    for job, place in zip(todo, (-700, 1_000), strict=True):  # in the middle of a frame
        content = bytearray(job.source.read_bytes())
        content[place : place + 50] = b"\xff" * 50
        job.source.write_bytes(content)
    for job in todo:
        denoise_job(job, loaded, DenoiseOptions(), lambda seconds: None)
    printed = capfd.readouterr()
    assert printed.out + printed.err  # else there were nothing to hide
    shutil.rmtree(tmp_path / "out")
    assert len(list(denoise(todo, model, DenoiseOptions(), processes=1))) == 2
    assert capfd.readouterr() == ("", "")


def test_a_model_that_cannot_be_loaded_is_reported_once(tmp_path):
    (tmp_path / "model.pt").write_text("no model")
    before = set(multiprocessing.active_children())
    with pytest.raises(ExportError, match=r"model\.pt: not an exported denoiser"):
        list(denoise(jobs(tmp_path, ["a.wav", "b.wav"]), tmp_path / "model.pt", DenoiseOptions(), processes=1))
    assert set(multiprocessing.active_children()) == before


def test_an_idle_process_that_is_killed_is_replaced(tmp_path, model):
    todo, before = jobs(tmp_path, ["a.wav", "b.wav"]), set(multiprocessing.active_children())
    ended = denoise(todo, model, DenoiseOptions(), processes=1)
    assert next(ended).error is None
    (child,) = set(multiprocessing.active_children()) - before
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert [done.error for done in ended] == [None]


def test_processes_that_are_killed_inside_their_writes_lose_no_recording(tmp_path, model, monkeypatch):
    kill = dying.plant(tmp_path, monkeypatch)
    todo = jobs(tmp_path, ["a.wav", "b.wav", "c.wav", "d.wav"])
    kill(1)  # of the answer that the model is loaded
    ended = denoise(todo, model, DenoiseOptions(), processes=2)
    errors = {(first := next(ended)).job.target.name: first.error}
    kill(1)
    errors |= {done.job.target.name: done.error for done in ended}
    assert errors == dict.fromkeys(["a.wav", "b.wav", "c.wav", "d.wav"])
    assert not any((tmp_path / "kills").iterdir())


def test_a_model_whose_process_is_killed_twice_is_one_line(tmp_path, model, monkeypatch):
    dying.plant(tmp_path, monkeypatch)(2)
    with pytest.raises(ExportError, match=r"model\.pt: the process that loads it was killed 2 times, expected a file"):
        list(denoise(jobs(tmp_path, ["a.wav"]), model, DenoiseOptions(), processes=1))


def test_a_slot_whose_process_the_system_killed_is_left_out_beside_others(tmp_path, model, deadly, monkeypatch):
    names = ["late.SIGKILL.1.wav", *(f"{number}.wav" for number in range(6))]
    todo = [*jobs(tmp_path, names[:1], deadly), *jobs(tmp_path, names[1:])]
    used, submit = [], process_pool._Slot.submit

    def note(slot, call, *arguments):
        if call is denoising_process.denoise:
            used.append(slot)
        return submit(slot, call, *arguments)

    monkeypatch.setattr(process_pool._Slot, "submit", note)
    ended = {done.job.target.name: done.error for done in denoise(todo, model, DenoiseOptions(), processes=2)}
    assert ended == dict.fromkeys(names)
    (killed,) = {slot for slot in used if slot.killed}
    assert used.count(killed) < used.count(next(slot for slot in used if slot is not killed))
