"""An interrupted run is resumed without repeating work, and a broken journal never stops a run."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from quell.errors import AudioError, ExportError
from quell.inference import batch
from quell.inference.jobs import DenoiseJob, DenoiseOptions
from quell.inference.journal import JOURNAL, Journal, settings_key
from quell.inference.process_pool import denoise

OPTIONS = DenoiseOptions()


def test_files_that_an_interrupted_run_finished_are_skipped(tmp_path, model, write):
    for name in "abcd":
        write(tmp_path / "in" / f"{name}.wav")
    out = tmp_path / "out"

    def begin(options=OPTIONS, overwrite=False):
        journal = Journal(out, settings_key(model, options))
        plan = batch.plan([tmp_path / "in"], out, overwrite=overwrite, journal=journal)
        return journal, plan.jobs, plan.already_done

    journal, jobs, before = begin()
    assert (len(jobs), before) == (4, [])
    ended = denoise(jobs, model, OPTIONS, 1)
    for _ in range(2):
        journal.add(next(ended).job)
    ended.close()  # interrupted
    finished = (out / "a.wav").stat().st_mtime_ns
    journal, jobs, before = begin()
    assert [job.source.name for job in jobs] == ["c.wav", "d.wav"]
    assert [job.source.name for job in before] == ["a.wav", "b.wav"]
    with pytest.raises(AudioError, match="exists already"):  # they have other options
        begin(DenoiseOptions(wet=0.5))
    write(tmp_path / "in" / "b.wav", np.zeros(40))  # another recording since
    with pytest.raises(AudioError, match=r"b\.wav: exists already"):
        begin()
    journal, jobs, before = begin(overwrite=True)
    assert [job.source.name for job in jobs] == ["b.wav", "c.wav", "d.wav"]
    assert [job.source.name for job in before] == ["a.wav"]
    for done in denoise(jobs, model, OPTIONS, 1):
        journal.add(done.job)
    assert (out / "a.wav").stat().st_mtime_ns == finished
    journal.close([*jobs, *before])
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "b.wav", "c.wav", "d.wav"]


def test_files_that_a_killed_run_finished_are_skipped(tmp_path, model, write):
    for name in "ab":
        write(tmp_path / "in" / f"{name}.wav")
    out = tmp_path / "out"

    def begin():
        journal = Journal(out, settings_key(model, OPTIONS))
        return batch.plan([tmp_path / "in"], out, journal=journal), journal

    plan, journal = begin()
    ended = denoise(plan.jobs, model, OPTIONS, 1, journal=journal)
    next(ended)
    ended.close()  # before the first is recorded
    left, _ = begin()
    assert plan.jobs[0] in left.already_done and {*left.already_done, *left.jobs} == set(plan.jobs)


def test_an_output_to_be_overwritten_counts_only_once_it_is_recorded(tmp_path, model, write):
    job = DenoiseJob(write(tmp_path / "in" / "a.wav"), write(tmp_path / "out" / "a.wav"))
    journal = Journal(tmp_path / "out", settings_key(model, OPTIONS))
    journal.begin([job])
    assert not Journal(tmp_path / "out", settings_key(model, OPTIONS)).is_finished(job)
    journal.add(job)
    assert Journal(tmp_path / "out", settings_key(model, OPTIONS)).is_finished(job)


def test_outputs_below_the_input_folder_are_no_inputs_when_a_run_is_resumed(tmp_path, model, write):
    for name in "ab":
        write(tmp_path / "in" / f"{name}.wav")
    out = tmp_path / "in" / "out"
    journal = Journal(out, settings_key(model, OPTIONS))
    ended = denoise(batch.plan([tmp_path / "in"], out, journal=journal).jobs, model, OPTIONS, 1)
    journal.add(next(ended).job)
    ended.close()
    left = batch.plan([tmp_path / "in"], out, journal=Journal(out, settings_key(model, OPTIONS)))
    assert [job.source.name for job in left.jobs] == ["b.wav"]
    assert [job.source.name for job in left.already_done] == ["a.wav"]


def test_a_run_into_the_same_folder_keeps_the_lines_of_another(tmp_path, model, write):
    out = tmp_path / "out"
    one, other = (batch.plan([write(tmp_path / name / f"{name}.wav").parent], out).jobs for name in "ab")
    journal = Journal(out, settings_key(model, OPTIONS))
    for done in denoise([*one, *other], model, OPTIONS, 1):
        journal.add(done.job)
    Journal(out, settings_key(model, OPTIONS)).close(other)
    assert batch.plan([tmp_path / "a"], out, journal=Journal(out, settings_key(model, OPTIONS))).already_done == one
    Journal(out, settings_key(model, OPTIONS)).close(one)
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "b.wav"]


def test_an_output_belongs_to_the_run_that_wrote_it_last(tmp_path, model, write):
    job = DenoiseJob(write(tmp_path / "in" / "a.wav"), tmp_path / "out" / "a.wav")
    settings = [settings_key(model, options) for options in (OPTIONS, DenoiseOptions(wet=0.5))]
    one, other = (Journal(tmp_path / "out", text) for text in settings)
    one.begin([job])
    other.begin([job])
    write(job.target)
    one.add(job)  # the other is killed before its turn
    assert [Journal(tmp_path / "out", text).is_finished(job) for text in settings] == [True, False]
    other.close([job])
    assert Journal(tmp_path / "out", settings[0]).is_finished(job)


def test_a_single_file_has_no_journal(tmp_path, model, write):
    source, journal = write(tmp_path / "a.wav"), Journal(tmp_path, settings_key(model, OPTIONS))
    assert batch.plan([source], tmp_path / "b.wav", journal=journal).journal is None
    assert batch.plan([source], tmp_path / "folder", journal=journal).journal is journal


def test_without_a_writable_journal_everything_is_denoised(tmp_path, model, write):
    job = DenoiseJob(write(tmp_path / "a.wav"), tmp_path / "blocked" / "a.wav")
    (tmp_path / "blocked").write_text("a file where the folder should be")
    journal = Journal(tmp_path / "blocked", settings_key(model, OPTIONS))
    journal.add(job)
    journal.close([job])
    assert not Journal(tmp_path / "blocked", settings_key(model, OPTIONS)).is_finished(job)


def test_a_truncated_journal_keeps_its_whole_lines(tmp_path, model, write):
    jobs = [DenoiseJob(write(tmp_path / "in" / f"{name}.wav"), write(tmp_path / f"{name}.wav")) for name in "ab"]
    for job in jobs:
        Journal(tmp_path, settings_key(model, OPTIONS)).add(job)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-20])
    journal = Journal(tmp_path, settings_key(model, OPTIONS))
    assert [journal.is_finished(job) for job in jobs] == [True, False]


def test_a_model_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ExportError, match=re.escape(f"{tmp_path}: Is a directory, expected a file made by")):
        settings_key(tmp_path, OPTIONS)


def test_a_journal_that_is_not_text_is_ignored(tmp_path, model, write):
    (tmp_path / JOURNAL).write_bytes(b"\xff\xfe\x00")
    write(tmp_path / "in" / "a.wav")
    shutil.copy(write(tmp_path / "in" / "a.wav"), tmp_path / "a.wav")
    with pytest.raises(AudioError, match="exists already"):
        batch.plan([tmp_path / "in"], tmp_path, journal=Journal(tmp_path, settings_key(model, OPTIONS)))


def test_a_line_with_a_flipped_bit_is_a_job_that_runs_again(tmp_path, write):
    job = DenoiseJob(write(tmp_path / "a.wav"), tmp_path / "out" / "a.wav")
    write(job.target)
    Journal(tmp_path / "out", "settings").add(job)
    assert Journal(tmp_path / "out", "settings").is_finished(job)
    journal = tmp_path / "out" / JOURNAL
    line = journal.read_bytes().rstrip(b"\n")
    for bit in range(0, 8 * len(line), 5):  # each bit of a byte as often as any other
        changed = bytearray(line)
        changed[bit // 8] ^= 1 << bit % 8
        journal.write_bytes(changed)
        assert not Journal(tmp_path / "out", "settings").is_finished(job), bytes(changed)
