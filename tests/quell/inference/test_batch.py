"""Many recordings: each goes where it should, one failure stops no other, and nothing runs twice."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quell.errors import AudioError
from quell.inference import batch, enhancement
from quell.inference.enhancement import denoise_job
from quell.inference.jobs import DenoiseJob, DenoiseOptions
from quell.inference.process_pool import denoise

OPTIONS = DenoiseOptions()


def plan(*args, **settings) -> list[DenoiseJob]:
    return batch.plan(*args, **settings).jobs


def test_a_folder_keeps_its_tree(tmp_path, model, write):
    for name in ("a.wav", "x/b.flac", "x/y/c.wav", "x/.hidden/d.wav", "x/notes.txt"):
        path = tmp_path / "in" / name
        write(path) if path.suffix != ".txt" else path.write_text("notes")
    passed = []
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    ended = list(denoise(jobs, model, OPTIONS, 2, lambda *at: passed.append(at)))
    assert {done.job for done in ended} == set(jobs) and not any(done.error for done in ended)
    outputs = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert outputs == ["a.wav", "x/b.flac", "x/y/c.wav"]
    total = 3 * 500 / 8_000
    assert passed == sorted(passed) and passed[-1] == pytest.approx((total, total))


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path, write):
    source = write(tmp_path / "a.wav")
    (tmp_path / "there.wav").mkdir()
    for output, target in [("b.wav", "b.wav"), ("new", "new/a.wav"), ("there.wav", "there.wav/a.wav")]:
        assert plan([source], tmp_path / output) == [DenoiseJob(source, tmp_path / target)]


def test_a_corrupt_file_is_reported_and_the_others_are_denoised(tmp_path, model, write):
    for name in "abc":
        write(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "in" / "b.wav").write_text("no sound\n" * 50)
    ended = list(denoise(plan([tmp_path / "in"], tmp_path / "out"), model, OPTIONS, 2))
    (error,) = (done.error for done in ended if done.error)
    assert str(error).startswith(f"{tmp_path / 'in' / 'b.wav'}: ")
    assert len(ended) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "c.wav"]


def test_an_existing_output_is_refused_without_overwrite(tmp_path, model, write, stored):
    source, target = write(tmp_path / "a.wav"), write(tmp_path / "b.wav", np.zeros(3))
    with pytest.raises(AudioError, match=re.escape(f"{target}: exists already")):
        plan([source], target)
    (done,) = denoise(plan([source], target, overwrite=True), model, OPTIONS, 1)
    assert done.error is None
    assert stored(target) == stored(source)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_itself_is_refused(tmp_path, overwrite, write):
    source = write(tmp_path / "in" / "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for given, output in [(source, source), (source, tmp_path / "in"), (tmp_path / "in", tmp_path / "link")]:
        with pytest.raises(AudioError, match=r"a\.wav: is the input itself"):
            plan([given], output, overwrite=overwrite)


def test_an_output_that_is_another_input_is_refused(tmp_path, write):
    write(tmp_path / "in" / "a.wav")
    lost = write(tmp_path / "in" / "x" / "a.wav")  # would be overwritten before it is read
    with pytest.raises(AudioError, match=re.escape(f"{lost}: is an input, too")):
        plan([tmp_path / "in"], tmp_path / "in" / "x", overwrite=True)


def test_two_inputs_for_one_output_are_refused(tmp_path, write):
    one, other = write(tmp_path / "1" / "a.wav"), write(tmp_path / "2" / "a.wav")
    target = tmp_path / "out" / "a.wav"
    with pytest.raises(
        AudioError, match=re.escape(f"{target}: output of {one} and {other}, expected one input each; rename")
    ):
        plan([one, other], tmp_path / "out")


def test_an_input_given_twice_is_denoised_once(tmp_path, write):
    write(tmp_path / "in" / "a.wav")
    assert len(plan([tmp_path / "in", tmp_path / "in" / "a.wav", tmp_path / "in" / "*.wav"], tmp_path / "out")) == 1


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path, write):
    write(tmp_path / "in" / "a.wav")
    blocked = write(tmp_path / "b.wav")
    with pytest.raises(AudioError, match=re.escape(f"{blocked}: is a file, expected a folder")):
        plan([tmp_path / "in"], blocked, overwrite=True)


def test_paths_that_the_system_refuses_are_named(tmp_path, monkeypatch, write):
    for given, output in ((tmp_path / ("n" * 300), tmp_path), (write(tmp_path / "a.wav"), tmp_path / ("n" * 300))):
        with pytest.raises(AudioError, match="nnn: File name too long, expected a path that can be read"):
            plan([given], output)
    monkeypatch.setattr(Path, "is_dir", lambda path: (_ for _ in ()).throw(PermissionError(13, "No", str(path))))
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'out'}: No, expected a path that can be read")):
        plan([tmp_path / "a.wav"], tmp_path / "out")  # root may look into any


def test_pipes_and_devices_are_refused_as_inputs(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path("/dev/null")):
        with pytest.raises(AudioError, match=re.escape(f"{path}: neither a file nor a folder, expected recordings")):
            plan([path], tmp_path / "out")


def test_links_are_followed_and_broken_ones_are_reported(tmp_path, model, write, stored):
    write(tmp_path / "elsewhere" / "a.wav")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "above").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.wav").symlink_to("nowhere")
    (tmp_path / "in" / "self.wav").symlink_to("self.wav")
    ended = list(denoise(plan([tmp_path / "in"], tmp_path / "out"), model, OPTIONS, 1))
    assert [str(done.error) for done in ended if done.error] == [
        f"{tmp_path / 'in' / name}: no such file, expected a sound file; repair it or leave it out"
        for name in ("gone.wav", "self.wav")
    ]
    assert stored(tmp_path / "out" / "linked" / "a.wav") == stored(tmp_path / "elsewhere" / "a.wav")


def test_an_unexpected_error_ends_one_file_only(tmp_path, loaded, monkeypatch, write):
    def fail(source, *_, **__):
        if source.name == "a.wav":
            raise MemoryError("9 GiB\nwanted")
        return enhancement.Report(0.0, 0)

    monkeypatch.setattr(enhancement, "enhance_file", fail)
    for name in "ab":
        write(tmp_path / "in" / f"{name}.wav")
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    one, other = (denoise_job(job, loaded, OPTIONS, lambda seconds: None) for job in jobs)
    expected = f"{tmp_path / 'in' / 'a.wav'}: MemoryError: 9 GiB wanted, expected to be denoised; leave it out"
    assert (str(one.error), other.error) == (expected, None)


def test_missing_and_empty_inputs_are_named(tmp_path):
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'none.wav'}: no such file or folder")):
        plan([tmp_path / "none.wav"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match=re.escape(f"{tmp_path / 'empty'}: no sound files")):
        plan([tmp_path / "empty"], tmp_path / "out")


def test_an_output_folder_that_cannot_be_made_is_reported(tmp_path, model, write):
    source, blocked = write(tmp_path / "a.wav"), tmp_path / "out"
    jobs = plan([source], blocked)
    blocked.write_text("a file where the folder should be")
    (done,) = denoise(jobs, model, OPTIONS, 1)
    assert isinstance(done.error, AudioError) and str(done.error).startswith(f"{blocked / 'a.wav'}: ")


def test_a_pattern_that_no_shell_has_expanded_is_expanded(tmp_path, monkeypatch, write):
    for name in ("a1.wav", "a2.wav", "b.wav", "x/a3.wav"):
        write(tmp_path / name)
    found = plan([tmp_path / "a*.wav"], tmp_path / "out")
    assert [job.source.name for job in found] == ["a1.wav", "a2.wav"]
    monkeypatch.chdir(tmp_path)
    assert [job.source.name for job in plan([Path("**/a*.wav")], Path("out"))] == ["a1.wav", "a2.wav", "a3.wav"]
    with pytest.raises(AudioError, match=re.escape("none*.wav: matches nothing")):
        plan([Path("none*.wav")], Path("out"))
    write(tmp_path / "odd[1].wav")  # a name, not a pattern
    assert [job.source.name for job in plan([Path("odd[1].wav")], Path("out"))] == ["odd[1].wav"]


def test_an_interrupted_run_leaves_no_partial_output(tmp_path, model, write):
    for number in range(6):
        write(tmp_path / "in" / f"{number}.wav", 0.1 * np.ones(400_000))
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    ended = denoise(jobs, model, OPTIONS, processes=2)
    next(ended)
    ended.close()
    left = list((tmp_path / "out").iterdir())
    assert 1 <= len(left) < 6 and all(soundfile.info(path).frames == 400_000 for path in left)


def test_partial_outputs_of_a_killed_run_are_removed_by_the_next(tmp_path, model, write):
    source = write(tmp_path / "in" / "a.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.999999999.wav").write_bytes(b"half")
    assert [done.error for done in denoise(plan([source], tmp_path / "out"), model, OPTIONS, 1)] == [None]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_files_of_sound_that_are_not_read_are_counted_by_suffix(tmp_path, write):
    write(tmp_path / "in" / "a.wav")
    for name in ("b.m4a", "sub/c.M4A", "d.wma", "README.txt", ".hidden.m4a"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("not read")
    assert batch.plan([tmp_path / "in"], tmp_path / "out").unread == {".m4a": 2, ".wma": 1}
    assert not batch.plan([tmp_path / "in" / "a.wav"], tmp_path / "out").unread


def test_a_folder_with_none_but_files_that_are_not_read_says_so(tmp_path):
    (tmp_path / "memo.m4a").write_text("not read")
    with pytest.raises(AudioError, match=r"1 files that are not read \(1 \.m4a\), expected WAV.*; convert them"):
        plan([tmp_path], tmp_path / "out")


@pytest.mark.parametrize("name", ["out.wav", "out.FLAC"])
def test_several_recordings_do_not_go_to_a_folder_with_the_name_of_a_file(tmp_path, write, name):
    one, other = write(tmp_path / "in" / "a.wav"), write(tmp_path / "in" / "b.wav")
    for inputs, found in (([one, other], "2 inputs"), ([tmp_path / "in"], "a folder")):
        with pytest.raises(AudioError, match=rf"{name}: a sound file's name for {found}, expected a folder"):
            plan(inputs, tmp_path / name)
    (tmp_path / name).mkdir()
    assert len(plan([one, other], tmp_path / name)) == 2


def test_an_output_in_a_format_that_is_not_written_is_refused(tmp_path, write):
    with pytest.raises(AudioError, match=r"out\.m4a: ends in \.m4a, expected \.wav, \.flac, \.ogg or a folder"):
        plan([write(tmp_path / "a.wav")], tmp_path / "out.m4a")


def test_runs_into_one_folder_at_the_same_time_never_mix_their_outputs(tmp_path, model, write, stored):
    for name in "ab":
        write(tmp_path / "in" / f"{name}.wav")
    first, second = (plan([tmp_path / "in"], tmp_path / "out") for _ in range(2))  # both find the folder empty
    assert [done.error for done in denoise(first, model, OPTIONS, 1)] == [None, None]
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    late = list(denoise(second, model, DenoiseOptions(wet=0.5), 1))
    needed = "written by another program meanwhile, expected a new file; remove it, or give --overwrite"
    assert {str(done.error) for done in late} == {f"{tmp_path / 'out' / name}.wav: {needed}" for name in "ab"}
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    over = plan([tmp_path / "in"], tmp_path / "out", overwrite=True)
    assert [done.error for done in denoise(over, model, DenoiseOptions(wet=0.5), 1)] == [None, None]
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} != before
